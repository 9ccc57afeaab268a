"""Read a case file strictly: all that is wrong with it, before anything is computed."""

import dataclasses
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from simkit.catalogue import SystemEntry
from simkit.config.checks import find_mistakes
from simkit.config.errors import CaseError, KeyPath, Mistake, dotted, one_line, quoted
from simkit.config.overrides import apply_override, parse_override
from simkit.config.schema import Case
from simkit.config.structure import convert, find_structural_mistakes
from simkit.config.toml import loads


_LARGEST = 64 * 1024**2
"""Bytes of a case file; a device that never ends is not read for ever."""


@dataclasses.dataclass(frozen=True)
class LoadedCase:
    """A case that is free of mistakes, with where it came from.

    - `case`: the case, overrides included, defaults filled in.
    - `text`: the case file as it was read, `""` for a case made in Python.
    - `path`: the case file, as the user named it; `None` for a case made in Python.
    - `folder`: what the paths inside the case are relative to.
    - `overrides`: the overrides, as `KEY=VALUE`.
    """

    case: Case
    text: str
    path: Path | None
    folder: Path
    overrides: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The case in an error message."""
        return str(self.path) if self.path is not None else "case"

    def with_members(self, most: int) -> "LoadedCase":
        """The case with so many members of its ensemble at most, in one segment."""
        if self.case.ensemble is None:
            return self
        members = min(self.case.ensemble.members, most)
        few = msgspec.structs.replace(self.case.ensemble, members=members, segment=None)
        return dataclasses.replace(self, case=msgspec.structs.replace(self.case, ensemble=few))


def read_case(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> LoadedCase:
    """Read a case file and check all that can be known without computing.

    **Arguments:**

    - `path`: a TOML file.
    - `overrides`: `"KEY=VALUE"` each, the value a TOML value or bare text.

    Raises `CaseError` with one sentence for the first mistake.
    """
    path = Path(path)
    return parse_case(_read_text(path), path, overrides)


def parse_case(
    text: str, path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> LoadedCase:
    """Like [`read_case`][simkit.config.reader.read_case], for the text of a case file.

    `path` names the file in errors, and its folder is where data files are sought.
    """
    path = Path(path)
    case, mistakes = _examine(text, path, overrides)
    for mistake in mistakes:
        raise mistake
    assert case is not None
    return LoadedCase(case, text, path, path.parent, tuple(overrides))


def find_case_errors(
    path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> list[CaseError]:
    """Every mistake in a case file, in its order; empty if there is none.

    What names and numbers mean is looked at only where all keys and types are right.
    """
    path = Path(path)
    try:
        _, errors = _examine(_read_text(path), path, overrides)
        return list(errors)
    except CaseError as error:
        return [error]


def check_case(case: Case, folder: str | os.PathLike[str] = ".") -> LoadedCase:
    """A case made in Python, checked like one from a file.

    Raises `CaseError` with one sentence for the first mistake.
    """
    values = _without_none(msgspec.to_builtins(case))
    for mistake in _mistakes(values):
        raise located(mistake, "case", ())
    return LoadedCase(convert(values), "", None, Path(folder))


def check_system(loaded: LoadedCase, system: SystemEntry) -> None:
    """Check a case against a system of the user's own, once that is known.

    Raises `CaseError` with one sentence for the first mistake.
    """
    given = [(parse_override(text)[0], text) for text in loaded.overrides]
    for mistake in find_mistakes(loaded.case, system):
        raise located(mistake, loaded.source, given)


def resolved_json(case: msgspec.Struct) -> str:
    """The case with all defaults filled in as canonical JSON: sorted keys, no spaces."""
    return msgspec.json.encode(case, order="sorted").decode()


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise CaseError(
                str(path),
                "",
                f"has more than {_LARGEST} bytes",
                "a case file of a few thousand",
            )
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise CaseError(str(path), "", "does not exist", "a case file") from None
    except IsADirectoryError:
        raise CaseError(
            str(path), "", "is a folder", f"a file such as {path / 'case.toml'}"
        ) from None
    except UnicodeDecodeError as error:
        raise CaseError(
            str(path), "", f"is not text at byte {error.start}", "a TOML file in UTF-8"
        ) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise CaseError(str(path), "", f"cannot be read ({reason})", "a case file") from None


def read_values(
    path: str | os.PathLike[str], overrides: Sequence[str]
) -> tuple[str, dict[str, Any], list[tuple[KeyPath, str]]]:
    """The text of a case file, its values with overrides, and where those stand.

    Raises `CaseError` for a file that cannot be read or is no TOML, and for an override
    that makes no sense.
    """
    path = Path(path)
    text = _read_text(path)
    return text, *parse_values(text, path, overrides)


def parse_values(
    text: str, path: Path, overrides: Sequence[str]
) -> tuple[dict[str, Any], list[tuple[KeyPath, str]]]:
    """Like [`read_values`][simkit.config.reader.read_values], for a text that is there."""
    values = _parse_toml(text, path)
    given: list[tuple[KeyPath, str]] = []
    for override in overrides:
        key, value = parse_override(override)
        apply_override(values, key, value, f"--set {quoted(override)}")
        given.append((key, override))
    return values, given


def _examine(
    text: str, path: Path, overrides: Sequence[str]
) -> tuple[Case | None, Iterator[CaseError]]:
    values, given = parse_values(text, path, overrides)
    mistakes = list(_mistakes(values))
    case = None if mistakes else convert(values)
    return case, (located(mistake, str(path), given) for mistake in mistakes)


def _mistakes(values: dict[str, Any]) -> Iterator[Mistake]:
    sound = True
    for mistake in find_structural_mistakes(values):
        sound = False
        yield mistake
    if sound:
        yield from find_mistakes(convert(values))


def located(
    mistake: Mistake, source: str, overrides: Sequence[tuple[KeyPath, str]]
) -> CaseError:
    """The mistake as an error that names the file, and the override that made it."""
    for path, override in reversed(overrides):
        if path[: len(mistake.path)] == mistake.path or (mistake.path[: len(path)] == path):
            source = f"{source} with --set {quoted(override)}"
            break
    return CaseError(source, dotted(mistake.path), mistake.came, mistake.expected)


def _parse_toml(text: str, path: Path) -> dict[str, Any]:
    try:
        return loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(str(error), text, path) from None
    except RecursionError:
        raise CaseError(
            str(path), "", "nests tables or lists too deeply", "a few levels at most"
        ) from None
    except ValueError:  # Python refuses to read a whole number of thousands of digits
        raise CaseError(
            str(path), "", "holds a number of thousands of digits", "finite numbers"
        ) from None


def _syntax_error(message: str, text: str, path: Path) -> CaseError:
    found = re.search(r"^(.*) \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    reason = found.group(1) if found else message
    if reason == "Cannot overwrite a value":
        reason = "the key stands here for the second time"
    lines = text.splitlines() or [""]
    if found and found.group(2):
        line, column = int(found.group(2)), int(found.group(3))
    else:
        line, column = len(lines), len(lines[-1]) + 1
    shown = one_line(lines[min(line, len(lines)) - 1].strip())
    return CaseError(
        str(path),
        f"line {line}, column {column}",
        f"reads {quoted(shown)} ({reason[:1].lower() + reason[1:]})",
        "valid TOML in which each key stands once",
    )


def _without_none(values: Any) -> Any:
    """Plain values without the keys that are `None`, as TOML would have them."""
    if isinstance(values, dict):
        return {key: _without_none(item) for key, item in values.items() if item is not None}
    return values
