"""Read a molecular case file strictly: all that is wrong with it, before jax is there."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from simkit.config.errors import CaseError, Mistake, described, number
from simkit.config.molecular import (
    MolecularCase,
    MoleculesTable,
    Switched,
    VelocityVerlet,
    WeeksChandlerAndersen,
)
from simkit.config.reader import located, read_values
from simkit.config.structure import find_structural_mistakes


_ATOMS = {"sc": 1, "bcc": 2, "fcc": 4, "diamond": 8}
# 2^(1/6): where the repulsion of Weeks, Chandler and Andersen ends, in sigma.
_MINIMUM = 2 ** (1 / 6)


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


def is_molecular(path: str | os.PathLike[str]) -> bool:
    """Whether a case file has one of the tables of a molecular case.

    Raises `CaseError` for a file that cannot be read or is no TOML.
    """
    _, values, _ = read_values(path, ())
    return "molecules" in values or "dynamics" in values


def read_molecular_case(
    path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> LoadedMolecules:
    """Read a molecular case and check all that can be known without computing.

    **Arguments:**

    - `path`: a TOML file.
    - `overrides`: `"KEY=VALUE"` each, the value a TOML value or bare text.

    Raises `CaseError` with one sentence for the first mistake.
    """
    text, values, given = read_values(path, overrides)
    for mistake in _mistakes(values):
        raise located(mistake, str(path), given)
    return LoadedMolecules(_convert(values), text, Path(path), tuple(overrides))


def find_molecular_errors(
    path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> list[CaseError]:
    """Every mistake in a molecular case file, in its order; empty if there is none."""
    try:
        _, values, given = read_values(path, overrides)
    except CaseError as error:
        return [error]
    return [located(mistake, str(path), given) for mistake in _mistakes(values)]


def _convert(values: dict[str, Any]) -> MolecularCase:
    return msgspec.convert(values, MolecularCase, strict=True)


def _mistakes(values: dict[str, Any]) -> Iterator[Mistake]:
    structural = list(find_structural_mistakes(values, MolecularCase))
    yield from structural
    if not structural:
        case = _convert(values)
        yield from _mistakes_of_molecules(case.molecules)
        yield from _mistakes_of_dynamics(case)


def _mistakes_of_molecules(table: MoleculesTable) -> Iterator[Mistake]:
    if table.density is None and table.constant is None:
        yield Mistake(("molecules", "density"), "is missing", "a density or a constant")
        return
    if table.density is not None and table.constant is not None:
        yield Mistake(
            ("molecules", "constant"),
            f"is {described(table.constant)} beside a density",
            "one of the two",
        )
        return
    reach = _reach(table)
    if table.cutoff is None and reach is None:
        yield Mistake(
            ("molecules", "cutoff"),
            "is missing",
            f"a cut-off, for {type(table.potential).__name__} has no range of its own",
        )
    elif table.cutoff is not None and isinstance(table.potential, WeeksChandlerAndersen):
        yield Mistake(
            ("molecules", "cutoff"),
            "is a table",
            "none, for WeeksChandlerAndersen has a range of its own",
        )
    elif isinstance(table.cutoff, Switched) and table.cutoff.onset >= table.cutoff.radius:
        yield Mistake(
            ("molecules", "cutoff", "onset"),
            f"is {described(table.cutoff.onset)}",
            f"a number below molecules.cutoff.radius = {number(table.cutoff.radius)}",
        )
    elif reach is not None and box_width(table) < 2 * reach:
        yield Mistake(
            ("molecules", "repeats"),
            f"is {described(table.repeats)}, which makes a box {box_width(table):.6g} wide",
            f"one at least twice as wide as the range {reach:.6g}",
        )


def _mistakes_of_dynamics(case: MolecularCase) -> Iterator[Mistake]:
    table = case.dynamics
    if isinstance(table.method, VelocityVerlet) and table.temperature is None:
        yield Mistake(
            ("dynamics", "temperature"),
            "is missing",
            "that of the velocities at the start, for VelocityVerlet has none",
        )
    if table.segment is not None and table.segment % table.save_every:
        yield Mistake(
            ("dynamics", "segment"),
            f"is {described(table.segment)}",
            f"a multiple of dynamics.save_every = {table.save_every}",
        )


def box_width(table: MoleculesTable) -> float:
    """The edge of the cubic box, in the unit of length."""
    if table.constant is not None:
        return table.repeats * table.constant
    assert table.density is not None
    return table.repeats * (_ATOMS[table.lattice] / table.density) ** (1 / 3)


def particle_count(table: MoleculesTable) -> int:
    """How many particles there are."""
    return _ATOMS[table.lattice] * table.repeats**3


def _reach(table: MoleculesTable) -> float | None:
    if isinstance(table.potential, WeeksChandlerAndersen):
        return _MINIMUM * table.potential.sigma
    return None if table.cutoff is None else table.cutoff.radius
