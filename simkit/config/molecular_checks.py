"""What is wrong with the values of a molecular case, as far as it shows without computing."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simkit.config.errors import KeyPath, Mistake, described, number
from simkit.config.molecular import (
    MOST_PARTICLES,
    DynamicsTable,
    MolecularCase,
    MoleculesTable,
)
from simkit.config.molecular_methods import (
    MinimisationTable,
    MonteCarloBarostat,
    StochasticCellRescaling,
    VelocityVerlet,
)
from simkit.config.molecular_terms import (
    BOUNDED,
    EmbeddedAtom,
    HarmonicSphere,
    LennardJones,
    StillingerWeber,
    Switched,
    TermTable,
    Tersoff,
    Truncated,
    WeeksChandlerAndersen,
)


_ATOMS = {"sc": 1, "bcc": 2, "fcc": 4, "hcp": 4, "diamond": 8}
_EDGES = {"hcp": (1.0, math.sqrt(3), math.sqrt(8 / 3))}
# 2^(1/6): where the repulsion of Weeks, Chandler and Andersen ends, in sigma.
_MINIMUM = 2 ** (1 / 6)
# Random sequential addition jams where spheres take this part of the volume.
_JAMMED = 0.38
_MIXED = (LennardJones, WeeksChandlerAndersen)


def find_molecular_mistakes(case: MolecularCase, folder: Path) -> Iterator[Mistake]:
    """Every mistake in a case whose keys and types are right.

    **Arguments:**

    - `case`: the case.
    - `folder`: what its files are relative to.
    """
    table = case.molecules
    start = list(_mistakes_of_start(table))
    yield from start
    yield from _missing_files(table, folder)
    for path, term in terms_of(table):
        yield from _mistakes_of_term(path, term, max(1, len(table.species)))
    yield from _mistakes_of_species(table)
    if not start:
        yield from _mistakes_of_size(table)
    if case.dynamics is None and case.minimisation is None:
        yield Mistake(("dynamics",), "is missing", "a table, or a minimisation in its place")
    if case.dynamics is not None:
        yield from _mistakes_of_dynamics(case.dynamics)


def terms_of(table: MoleculesTable) -> Iterator[tuple[KeyPath, MoleculesTable | TermTable]]:
    """The tables of all terms, each with its key."""
    yield ("molecules",), table
    for place, term in enumerate(table.terms):
        yield ("molecules", "terms", place), term


def particle_count(table: MoleculesTable) -> int | None:
    """How many particles there are; `None` where a file says so."""
    if table.file is not None:
        return None
    if table.lattice is not None:
        assert table.repeats is not None
        return _ATOMS[table.lattice] * math.prod(_repeats(table))
    assert table.packing is not None
    if table.packing.particles is not None:
        return table.packing.particles
    return sum(species.count or 0 for species in table.species)


def box_edges(table: MoleculesTable) -> tuple[float, float, float] | None:
    """The edges of the box at the start; `None` where a file has it."""
    if table.file is not None:
        return None
    if table.packing is not None:
        assert table.density is not None
        edge = ((particle_count(table) or 0) / table.density) ** (1 / 3)
        return edge, edge, edge
    assert table.lattice is not None
    ratios = _EDGES.get(table.lattice, (1.0, 1.0, 1.0))
    constant = table.constant
    if constant is None:
        assert table.density is not None
        constant = (_ATOMS[table.lattice] / table.density / math.prod(ratios)) ** (1 / 3)
    x, y, z = (c * r * constant for c, r in zip(_repeats(table), ratios, strict=True))
    return x, y, z


def term_range(term: MoleculesTable | TermTable) -> float | None:
    """How far a term reaches; `None` where a file says so, or nothing does."""
    if term.cutoff is not None:
        return term.cutoff.radius
    if isinstance(term.potential, WeeksChandlerAndersen):
        return _MINIMUM * _largest(term.potential.sigma)
    if isinstance(term.potential, HarmonicSphere):
        return _largest(term.potential.sigma)
    if isinstance(term.potential, StillingerWeber):
        return term.potential.cutoff
    return None


def _repeats(table: MoleculesTable) -> tuple[int, ...]:
    repeats = table.repeats
    assert repeats is not None
    return (repeats,) * 3 if isinstance(repeats, int) else repeats


def _largest(value: Any) -> float:
    return max(map(_largest, value)) if isinstance(value, tuple) else value


def _mistakes_of_start(table: MoleculesTable) -> Iterator[Mistake]:
    ways = ("lattice", "packing", "file")
    given = [name for name in ways if getattr(table, name) is not None]
    if not given:
        yield Mistake(("molecules", "lattice"), "is missing", "a lattice, a packing or a file")
        return
    if len(given) > 1:
        came = f"is given beside a {given[0]}"
        yield Mistake(("molecules", given[1]), came, "one of lattice, packing and file")
        return
    needed = {"lattice": ("repeats",), "packing": ("density",), "file": ()}[given[0]]
    allowed = {"lattice": ("repeats", "density", "constant"), "packing": ("density",)}
    for name in ("repeats", "density", "constant"):
        value = getattr(table, name)
        if value is None and name in needed:
            yield Mistake(("molecules", name), "is missing", f"it, for there is a {given[0]}")
        elif value is not None and name not in allowed.get(given[0], ()):
            yield Mistake(
                ("molecules", name), f"is {described(value)}", f"none beside a {given[0]}"
            )
    if given[0] != "file" and table.structure:
        came = f"is {described(table.structure)}"
        yield Mistake(("molecules", "structure"), came, "none, for there is no file")
    if isinstance(table.repeats, tuple) and len(table.repeats) != 3:
        came = f"is {described(table.repeats)}"
        yield Mistake(("molecules", "repeats"), came, "one whole number or three")
    if table.lattice is not None:
        yield from _density_or_constant(table)


def _density_or_constant(table: MoleculesTable) -> Iterator[Mistake]:
    if table.density is None and table.constant is None:
        yield Mistake(("molecules", "density"), "is missing", "a density or a constant")
    elif table.density is not None and table.constant is not None:
        yield Mistake(
            ("molecules", "constant"),
            f"is {described(table.constant)} beside a density",
            "one of the two",
        )


def _missing_files(table: MoleculesTable, folder: Path) -> Iterator[Mistake]:
    files: list[tuple[KeyPath, str, str]] = []
    if table.file is not None:
        files.append((("molecules", "file"), table.file, "an XYZ file"))
    for path, term in terms_of(table):
        if isinstance(term.potential, Tersoff | EmbeddedAtom):
            files.append(((*path, "potential", "file"), term.potential.file, "a file"))
    for path, name, wanted in files:
        try:
            found = (folder / name).is_file()
        except (OSError, ValueError):  # a name that no file can have
            found = False
        if not found:
            yield Mistake(
                path, f"is {described(name)}, which is not there", f"{wanted} beside the case"
            )


def _mistakes_of_term(
    path: KeyPath, term: MoleculesTable | TermTable, species: int
) -> Iterator[Mistake]:
    name = type(term.potential).__name__
    bounded = isinstance(term.potential, BOUNDED)
    if term.cutoff is None and not bounded:
        yield Mistake(
            (*path, "cutoff"), "is missing", f"a cut-off, for {name} has no range of its own"
        )
    elif term.cutoff is not None and bounded:
        yield Mistake(
            (*path, "cutoff"), "is a table", f"none, for {name} has a range of its own"
        )
    elif isinstance(term.cutoff, Switched) and term.cutoff.onset >= term.cutoff.radius:
        yield Mistake(
            (*path, "cutoff", "onset"),
            f"is {described(term.cutoff.onset)}",
            f"a number below {'.'.join(map(str, path))}.cutoff.radius = "
            f"{number(term.cutoff.radius)}",
        )
    elif term.tail_correction and not isinstance(term.cutoff, Truncated | Switched):
        yield Mistake(
            (*path, "tail_correction"), "is true", "a cut-off by Truncated or Switched with it"
        )
    yield from _mistakes_of_shapes((*path, "potential"), term.potential, species)


def _mistakes_of_shapes(path: KeyPath, potential: Any, species: int) -> Iterator[Mistake]:
    """Lists and matrices by species that do not fit their number, or each other."""
    seen = None
    for name, value in potential.options.items():
        if not isinstance(value, tuple):
            continue
        shape = _shape(value)
        wanted = f"one number, or a symmetric matrix of {species} rows of {species} numbers"
        if isinstance(potential, _MIXED):
            wanted = f"one number, a list of {species} (one for each species), or a symmetric "
            wanted += f"matrix of {species} rows"
        sound = shape == (species, species) or (
            shape == (species,) and isinstance(potential, _MIXED)
        )
        if shape is None or not sound:
            yield Mistake((*path, name), f"is {_words(shape)}", wanted)
        elif len(shape) == 2 and any(
            value[i][j] != value[j][i] for i in range(species) for j in range(i)
        ):
            yield Mistake((*path, name), "is a matrix that is not symmetric", wanted)
        elif seen is not None and seen != shape:
            yield Mistake(
                (*path, name), f"is {_words(shape)}", f"{_words(seen)}, as the others are"
            )
        seen = shape if sound else seen


def _shape(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, tuple):
        return ()
    inner = {_shape(item) for item in value}
    if len(inner) != 1 or None in inner:
        return None
    return (len(value), *(inner.pop() or ()))


def _words(shape: tuple[int, ...] | None) -> str:
    if shape is None:
        return "a list of rows of different lengths"
    if len(shape) == 1:
        return f"a list of {shape[0]} number{'' if shape[0] == 1 else 's'}"
    return f"a list of {shape[0]} rows of {shape[1]} numbers"


def _mistakes_of_species(table: MoleculesTable) -> Iterator[Mistake]:
    if not table.species:
        return
    if table.mass is not None:
        came = f"is {described(table.mass)} beside species"
        yield Mistake(("molecules", "mass"), came, "the mass of each species")
    names: set[str] = set()
    for place, species in enumerate(table.species):
        path: KeyPath = ("molecules", "species", place)
        if species.name in names or not species.name or " " in species.name:
            wanted = "a name without spaces that no other species has"
            yield Mistake((*path, "name"), f"is {described(species.name)}", wanted)
        names.add(species.name)
        if species.count is None and table.file is None:
            yield Mistake((*path, "count"), "is missing", "how many of them there are")
        elif species.count is not None and table.file is not None:
            came = f"is {described(species.count)}"
            yield Mistake((*path, "count"), came, "none, for the file has the particles")


def _mistakes_of_size(table: MoleculesTable) -> Iterator[Mistake]:
    """Too many particles, counts that do not add up, a box that is too narrow."""
    particles = particle_count(table)
    if particles is None:
        return
    if not 0 < particles <= MOST_PARTICLES:
        key = "packing" if table.packing is not None else "repeats"
        wanted = f"from 1 to {MOST_PARTICLES}"
        yield Mistake(("molecules", key), f"makes {particles} particles", wanted)
        return
    counted = [species.count for species in table.species]
    if counted and None not in counted and sum(counted) != particles:  # pyright: ignore
        yield Mistake(
            ("molecules", "species"),
            f"has counts that come to {sum(counted)}",  # pyright: ignore
            f"{particles}, as many as there are particles",
        )
        return
    edges = box_edges(table)
    assert edges is not None
    if table.packing is not None and table.density is not None:
        part = math.pi / 6 * table.packing.distance**3 * table.density
        if part > _JAMMED:
            yield Mistake(
                ("molecules", "packing", "distance"),
                f"is {described(table.packing.distance)}, at which particles of this density "
                f"fill {part:.3g} of the box",
                f"one at which they fill less than {_JAMMED}",
            )
            return
    for _, term in terms_of(table):
        reach = term_range(term)
        if reach is not None and min(edges) < 2 * reach:
            key = "packing" if table.packing is not None else "repeats"
            came = f"is {described(table.repeats)}, which makes a box"
            if table.packing is not None:
                came = f"has {particles} particles, which take a box"
            yield Mistake(
                ("molecules", key),
                f"{came} {min(edges):.6g} wide",
                f"one at least twice as wide as the range {reach:.6g}",
            )
            return


def _mistakes_of_dynamics(table: DynamicsTable) -> Iterator[Mistake]:
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


def needs_periodic_box(case: MolecularCase) -> KeyPath | None:
    """The key that asks for a box with a volume; `None` if none does."""
    if case.dynamics is not None and isinstance(
        case.dynamics.method, MonteCarloBarostat | StochasticCellRescaling
    ):
        return ("dynamics", "method")
    if isinstance(case.minimisation, MinimisationTable) and case.minimisation.method.with_box:
        return ("minimisation", "method", "with_box")
    for path, term in terms_of(case.molecules):
        if term.tail_correction:
            return (*path, "tail_correction")
    return None
