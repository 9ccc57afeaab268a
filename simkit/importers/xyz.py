"""XYZ and extended XYZ files: structures in, structures out.

A plain file has for each structure the number of particles, a comment, and lines of a
symbol and three coordinates. The comment of an extended one has keys and values, among
them `Lattice` (nine numbers, the vectors one after another), `Properties` (what the
columns are) and `pbc`. Numbers are written so that they read back bit for bit.

Units are not part of the format; most programs mean angstrom. The key `units` with the
name of units (`metal`, `real`, `reduced`, `SI`) says it in files that are written here.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from simkit.importers.xyz_comment import format_comment, parse_comment
from simkit.store.atomic import refuse_existing, write_whole


if TYPE_CHECKING:
    from systems.molecular.boxes import AbstractBox

_LONGEST_LINE = 1 << 20
_MOST_COLUMNS = 1000
_UNITS = ("metal", "real", "reduced", "SI")
_KINDS = {"S": "text", "I": "whole numbers", "R": "real numbers", "L": "T or F"}
_LOGICAL = {"T": True, "F": False, "true": True, "false": False, "True": True, "False": False}


class XYZError(ValueError):
    """A file that is no XYZ file: one sentence with the file and the line."""


@dataclasses.dataclass(frozen=True)
class Structure:
    """Particles of one moment, as a file has them.

    - `symbols`: a name for each particle, without spaces.
    - `positions`: shape `(particles, 3)`.
    - `lattice`: vectors of the box as rows, shape `(3, 3)`, or `None`.
    - `periodic`: whether it repeats along each of them.
    - `columns`: further properties by name, the first axis of each the particles;
      text, whole numbers, real numbers or booleans.
    - `values`: further keys of the comment.
    - `comment`: the comment of a plain file.
    - `units`: name of the units, `None` if the file does not say.

    Raises `ValueError` for shapes that do not fit and positions that are not finite.
    """

    symbols: tuple[str, ...]
    positions: Float[np.ndarray, "particles 3"]
    lattice: Float[np.ndarray, "3 3"] | None = None
    periodic: tuple[bool, bool, bool] = (False, False, False)
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    comment: str = ""
    units: str | None = None

    def __post_init__(self) -> None:
        number = len(self.symbols)
        if number == 0 or np.shape(self.positions) != (number, 3):
            raise ValueError(
                f"positions have shape {np.shape(self.positions)}, expected "
                f"({number}, 3) for {number} symbols, and at least one"
            )
        if not np.all(np.isfinite(self.positions)):
            raise ValueError("a position is not a finite number")
        if self.lattice is not None:
            _check_lattice(self.lattice)
        elif any(self.periodic):
            raise ValueError("it is periodic, but has no lattice")
        for name, column in self.columns.items():
            if len(np.atleast_1d(column)) != number or np.ndim(column) not in (1, 2):
                raise ValueError(
                    f"the column {name!r} has shape {np.shape(column)}, expected {number} rows"
                )
        if self.units is not None and self.units not in _UNITS:
            raise ValueError(f"units are {self.units!r}, expected one of {', '.join(_UNITS)}")

    def species(
        self, names: tuple[str, ...] | None = None
    ) -> tuple[Int[np.ndarray, " particles"], tuple[str, ...]]:
        """Whole numbers for the symbols, and the symbol of each number.

        **Arguments:**

        - `names`: the symbols in the order of their numbers; left out, sorted by name.

        Raises `ValueError` for a symbol that is not among the names.
        """
        names = tuple(sorted(set(self.symbols))) if names is None else tuple(names)
        numbers = {name: place for place, name in enumerate(names)}
        missing = sorted(set(self.symbols) - set(names))
        if missing:
            raise ValueError(f"The symbol {missing[0]!r} is not among {', '.join(names)}.")
        return np.asarray([numbers[symbol] for symbol in self.symbols], np.int32), names

    def in_box(self) -> "tuple[Float[np.ndarray, 'particles 3'], AbstractBox]":
        """Positions and box as models take them, turned to a lower triangular lattice.

        Raises `ValueError` for a box that is periodic along some axes only, or
        left-handed. Forces and other vectors among the columns are not turned.
        """
        from systems.molecular.boxes import OpenBox, OrthorhombicBox, TriclinicBox

        if self.lattice is None or not any(self.periodic):
            return self.positions, OpenBox()
        if not all(self.periodic):
            raise ValueError(
                f"The structure is periodic along {self.periodic}; expected all axes or none."
            )
        if np.count_nonzero(self.lattice - np.diag(np.diag(self.lattice))) == 0:
            return self.positions, OrthorhombicBox(np.diag(self.lattice))
        box, rotation = TriclinicBox.from_vectors(self.lattice)
        return self.positions @ rotation, box


def read_xyz(path: str | os.PathLike[str]) -> tuple[Structure, ...]:
    """All structures of a file, in order.

    **Arguments:**

    - `path`: an XYZ or extended XYZ file, as text in UTF-8.

    Raises [`XYZError`][simkit.importers.xyz.XYZError] with the line for anything else,
    `OSError` if it cannot be read.
    """
    return tuple(iterate_xyz(path))


def iterate_xyz(path: str | os.PathLike[str]) -> Iterator[Structure]:
    """The structures of a file one after another, so that long ones need no memory.

    As [`read_xyz`][simkit.importers.xyz.read_xyz].
    """
    with open(path, "rb") as stream:
        lines = _Lines(os.fspath(path), stream)
        found = False
        while (count := lines.next_filled()) is not None:
            yield _read_structure(lines, count)
            found = True
        if not found:
            raise lines.error("the file is empty, expected a number of particles")


def write_xyz(
    path: str | os.PathLike[str],
    structures: Structure | Iterable[Structure],
    *,
    overwrite: bool = False,
) -> None:
    """Write structures to a file, which is whole or not there at all.

    A structure without lattice, columns, values and units is written in the plain
    format, others in the extended one.

    **Arguments:**

    - `path`: the file.
    - `structures`: one or more.
    - `overwrite`: whether a file that is there may be replaced.

    Raises `FileExistsError`; `ValueError` for what would not read back as it is, such as
    symbols with spaces.
    """
    refuse_existing(Path(path), overwrite)
    many = [structures] if isinstance(structures, Structure) else list(structures)
    if not many:
        raise ValueError("write_xyz: no structure, expected at least one.")
    content = "".join(_write_structure(structure) for structure in many)
    write_whole(Path(path), content.encode(), overwrite=overwrite)


class _Lines:
    """The lines of a file with their numbers, none longer than a limit."""

    def __init__(self, name: str, stream: IO[bytes]) -> None:
        self.name, self.stream, self.number = name, stream, 0

    def error(self, what: str) -> XYZError:
        """An error at this line, printable whatever the file holds."""
        shown = what if what.isprintable() else ascii(what)[1:-1]
        return XYZError(f"{self.name}, line {max(self.number, 1)}: {shown[:400]}.")

    def next(self) -> str | None:
        """The next line without its end, or `None` at the end of the file."""
        raw = self.stream.readline(_LONGEST_LINE + 1)
        if not raw:
            return None
        self.number += 1
        if len(raw) > _LONGEST_LINE:
            raise self.error(f"the line is longer than {_LONGEST_LINE} bytes")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise self.error("the line is not text in UTF-8") from error
        if "\0" in text:
            raise self.error("the line has zero bytes, expected text")
        return text.rstrip("\r\n")

    def next_filled(self) -> str | None:
        """The next line that is not blank."""
        while (line := self.next()) is not None and not line.strip():
            pass
        return line


@dataclasses.dataclass(frozen=True)
class _Column:
    """A property: its name, kind (`S`, `I`, `R`, `L`) and how many columns it takes."""

    name: str
    kind: str
    width: int


_PLAIN = (_Column("species", "S", 1), _Column("pos", "R", 3))


def _read_structure(lines: _Lines, count: str) -> Structure:
    word = count.strip()
    if not (word.isascii() and word.isdecimal() and 0 < len(word) < 16 and int(word) > 0):
        raise lines.error(f"expected a number of particles from 1, found {word[:60]!r}")
    number = int(word)
    comment = lines.next()
    if comment is None:
        raise lines.error("the file ends, expected a comment")
    extended = "Properties=" in comment or "Lattice=" in comment
    values: dict[str, Any] = {}
    layout = _PLAIN
    lattice, periodic, units = None, (False, False, False), None
    if extended:
        try:
            values = parse_comment(comment)
            layout = _layout(values.pop("Properties", None))
            lattice, periodic = _cell(values)
            units = values.pop("units", None)
        except ValueError as error:
            raise lines.error(str(error)) from error
    where = lines.number
    arrays = _read_particles(lines, number, layout)
    symbols, positions = arrays.pop("species"), arrays.pop("pos")
    try:
        return Structure(
            tuple(str(symbol) for symbol in symbols),
            positions,
            lattice,
            periodic,
            arrays,
            values,
            "" if extended else comment,
            units,
        )
    except ValueError as error:
        lines.number = where
        raise lines.error(str(error)) from error


def _layout(properties: Any) -> tuple[_Column, ...]:
    if properties is None:
        return _PLAIN
    parts = properties.split(":") if isinstance(properties, str) else []
    if not parts or len(parts) % 3:
        raise ValueError(
            f"Properties are {properties!r}, expected name:kind:columns for each property"
        )
    layout = []
    for name, kind, width in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        sound = width.isascii() and width.isdecimal() and len(width) < 5
        if not name or kind not in _KINDS or not sound or not 0 < int(width) <= _MOST_COLUMNS:
            raise ValueError(
                f"the property {name}:{kind}:{width} is unknown, expected a name, a kind "
                f"of {', '.join(_KINDS)}, and a number of columns"
            )
        layout.append(_Column(name, kind, int(width)))
    names = [column.name for column in layout]
    if len(set(names)) < len(names):
        raise ValueError(f"Properties {properties!r} name a property twice")
    for column in _PLAIN:
        if column not in layout:
            raise ValueError(
                f"Properties {properties!r} lack {column.name}:{column.kind}:{column.width}"
            )
    return tuple(layout)


def _cell(values: dict[str, Any]) -> tuple[np.ndarray | None, tuple[bool, bool, bool]]:
    given, pbc = values.pop("Lattice", None), values.pop("pbc", None)
    lattice = None
    if given is not None:
        array = np.asarray(given)
        if array.dtype.kind not in "iuf" or array.size != 9:
            raise ValueError(f"Lattice is {given!r}, expected nine numbers")
        lattice = array.astype(np.float64).reshape(3, 3)
    if pbc is None:
        periodic = np.full(3, lattice is not None)
    else:
        periodic = np.asarray(pbc)
        if periodic.dtype.kind != "b" or periodic.shape != (3,):
            raise ValueError(f"pbc is {pbc!r}, expected three of T and F")
    return lattice, tuple(bool(flag) for flag in periodic)  # pyright: ignore[reportReturnType]


def _check_lattice(lattice: Any) -> None:
    if np.shape(lattice) != (3, 3) or not np.all(np.isfinite(lattice)):
        raise ValueError("Lattice is not three rows of three finite numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.prod(np.linalg.norm(lattice, axis=1))
        sound = abs(np.linalg.det(lattice)) > 1e-12 * scale
    if not sound:
        raise ValueError("the three vectors of Lattice do not span a volume")


def _read_particles(
    lines: _Lines, number: int, layout: tuple[_Column, ...]
) -> dict[str, np.ndarray]:
    expected = sum(column.width for column in layout)
    rows: list[list[str]] = []
    first = lines.number + 1
    while len(rows) < number:
        line = lines.next()
        if line is None:
            raise lines.error(
                f"the file ends after {len(rows)} of {number} particles of a structure"
            )
        words = line.split()
        if len(words) != expected:
            raise lines.error(f"has {len(words)} columns, expected {expected}")
        rows.append(words)
    arrays, start = {}, 0
    for column in layout:
        stop = start + column.width
        words = [word for row in rows for word in row[start:stop]]
        converted = _convert(lines, words, column, first)
        shape = (number,) if column.width == 1 else (number, column.width)
        arrays[column.name] = converted.reshape(shape)
        start = stop
    return arrays


def _convert(lines: _Lines, words: list[str], column: _Column, first: int) -> np.ndarray:
    """Words of a column as an array; an error names the line of the first that is none."""
    if column.kind == "S":
        return np.asarray(words)
    try:
        if column.kind == "L":
            return np.asarray([_LOGICAL[word] for word in words])
        array = np.asarray(words, dtype=np.int64 if column.kind == "I" else np.float64)
        # Python's own notation, which no other program writes.
        if not any("_" in word for word in words) and np.all(np.isfinite(array)):
            return array
    except (ValueError, KeyError, OverflowError):
        pass
    for place, word in enumerate(words):
        if not _is_kind(word, column.kind):
            lines.number = first + place // column.width
            break
    raise lines.error(f"{column.name} is {word[:60]!r}, expected {_KINDS[column.kind]}")


def _is_kind(word: str, kind: str) -> bool:
    if kind == "L":
        return word in _LOGICAL
    try:
        number = np.asarray([word], dtype=np.int64 if kind == "I" else np.float64)
    except (ValueError, OverflowError):
        return False
    return "_" not in word and bool(np.isfinite(number[0]))


def _write_structure(structure: Structure) -> str:
    plain = not (structure.columns or structure.values or structure.units)
    if plain and structure.lattice is None:
        comment = structure.comment
        if "Properties=" in comment or "Lattice=" in comment:
            raise ValueError(f"The comment {comment!r} would read as an extended one.")
    else:
        comment = _extended_comment(structure)
    # Lines must end where they are meant to.
    if len(comment.splitlines()) > 1 or comment != comment.rstrip("\r\n") or "\0" in comment:
        raise ValueError(f"The comment {comment!r} does not fit on one line.")
    blocks = [[_symbol(name)] for name in structure.symbols]
    for column in (np.asarray(structure.positions, np.float64), *structure.columns.values()):
        for block, row in zip(blocks, np.asarray(column), strict=True):
            block += [_word(value) for value in np.atleast_1d(row).tolist()]
    lines = [str(len(blocks)), comment, *(" ".join(block) for block in blocks)]
    return "\n".join(lines) + "\n"


def _extended_comment(structure: Structure) -> str:
    if structure.comment:
        raise ValueError(
            "A structure with a lattice, columns, values or units has no free comment; "
            "put it into the values."
        )
    reserved = {"Lattice", "Properties", "pbc", "units"} & set(structure.values)
    if reserved:
        raise ValueError(f"The value {min(reserved)!r} has a field of its own.")
    properties = "species:S:1:pos:R:3"
    for name, column in structure.columns.items():
        kind = {"U": "S", "i": "I", "f": "R", "b": "L"}.get(np.asarray(column).dtype.kind)
        if kind is None or ":" in name or name in ("species", "pos") or not name:
            raise ValueError(f"The column {name!r} cannot be written.")
        width = 1 if np.ndim(column) == 1 else np.shape(column)[1]
        properties += f":{name}:{kind}:{width}"
    keys: dict[str, Any] = {}
    if structure.lattice is not None:
        keys["Lattice"] = np.asarray(structure.lattice, np.float64).ravel()
        keys["pbc"] = np.asarray(structure.periodic)
    keys["Properties"] = properties
    if structure.units is not None:
        keys["units"] = structure.units
    return format_comment({**keys, **structure.values})


def _symbol(name: str) -> str:
    if len(name.split()) != 1 or name.split()[0] != name or not name.isprintable():
        raise ValueError(f"The symbol {name!r} cannot be written: it is empty or has spaces.")
    return name


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"The number {value} cannot be written, expected a finite one.")
    return _symbol(value) if isinstance(value, str) else repr(value)
