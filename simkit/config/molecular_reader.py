"""Read a molecular case file strictly: all that is wrong with it, before jax is there."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from simkit.config.errors import CaseError, KeyPath, Mistake
from simkit.config.molecular import MolecularCase
from simkit.config.molecular_checks import find_molecular_mistakes
from simkit.config.reader import located, parse_values, read_values
from simkit.config.structure import find_structural_mistakes


@dataclasses.dataclass(frozen=True)
class LoadedMolecules:
    """A molecular case that is free of mistakes, with where it came from.

    - `case`: the case, overrides included, defaults filled in.
    - `text`: the case file as it was read.
    - `path`: the case file, as the user named it.
    - `overrides`: the overrides, as `KEY=VALUE`.
    """

    case: MolecularCase
    text: str
    path: Path
    overrides: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The case in an error message."""
        return str(self.path)

    @property
    def folder(self) -> Path:
        """What the paths inside the case are relative to."""
        return self.path.parent


def is_molecular(path: str | os.PathLike[str]) -> bool:
    """Whether a case file has one of the tables of a molecular case.

    Raises `CaseError` for a file that cannot be read or is no TOML.
    """
    _, values, _ = read_values(path, ())
    return not {"molecules", "minimisation", "dynamics"}.isdisjoint(values)


def read_molecular_case(
    path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> LoadedMolecules:
    """Read a molecular case and check all that can be known without computing.

    **Arguments:**

    - `path`: a TOML file.
    - `overrides`: `"KEY=VALUE"` each, the value a TOML value or bare text.

    Raises `CaseError` with one sentence for the first mistake.
    """
    return _loaded(*read_values(path, overrides), Path(path), overrides)


def parse_molecular_case(
    text: str, path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> LoadedMolecules:
    """Like [`read_molecular_case`][simkit.config.molecular_reader.read_molecular_case].

    It takes the text of a case file; `path` names the file in errors, and its folder is
    where the files that it names are sought.
    """
    path = Path(path)
    return _loaded(text, *parse_values(text, path, overrides), path, overrides)


def _loaded(
    text: str,
    values: dict[str, Any],
    given: list[tuple[KeyPath, str]],
    path: Path,
    overrides: Sequence[str],
) -> LoadedMolecules:
    for mistake in _mistakes(values, path.parent):
        raise located(mistake, str(path), given)
    return LoadedMolecules(_convert(values), text, path, tuple(overrides))


def find_molecular_errors(
    path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> list[CaseError]:
    """Every mistake in a molecular case file, in its order; empty if there is none."""
    try:
        _, values, given = read_values(path, overrides)
    except CaseError as error:
        return [error]
    mistakes = _mistakes(values, Path(path).parent)
    return [located(mistake, str(path), given) for mistake in mistakes]


def _convert(values: dict[str, Any]) -> MolecularCase:
    return msgspec.convert(values, MolecularCase, strict=True)


def _mistakes(values: dict[str, Any], folder: Path) -> Iterator[Mistake]:
    structural = list(find_structural_mistakes(values, MolecularCase))
    yield from structural
    if not structural:
        yield from find_molecular_mistakes(_convert(values), folder)
