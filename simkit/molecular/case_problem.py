"""A molecular case as what the solvers take: a problem and a method."""

import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from simkit.config.errors import dotted
from simkit.config.molecular import MolecularCase, MoleculesTable
from simkit.config.molecular_checks import needs_periodic_box, particle_count, terms_of
from simkit.config.molecular_terms import (
    EmbeddedAtom as EmbeddedAtomTable,
    StillingerWeber as StillingerWeberTable,
    TermTable,
    Tersoff as TersoffTable,
)
from simkit.importers.xyz import Structure, XYZError, iterate_xyz
from solvers.molecular.barostats import StochasticCellRescaling
from solvers.molecular.brownian import Brownian, Langevin
from solvers.molecular.dynamics import AbstractDynamics
from solvers.molecular.minimisation import FIRE, LBFGS
from solvers.molecular.monte_carlo import MonteCarloBarostat
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.thermostats import NoseHooverChain, StochasticVelocityRescaling
from solvers.molecular.verlet import VelocityVerlet
from systems.molecular.boxes import AbstractBox
from systems.molecular.builders import cubic_box, lattice, mixture, random_packing
from systems.molecular.corrections import TailCorrection
from systems.molecular.cutoffs import ForceShifted, Shifted, Switched, Truncated
from systems.molecular.jax_md_terms import EmbeddedAtom, StillingerWeber, import_jax_md
from systems.molecular.mixing import geometric, lorentz_berthelot, waldman_hagler
from systems.molecular.model import AbstractTerm, MolecularModel
from systems.molecular.pairwise import (
    AbstractPairEnergy,
    LennardJones,
    WeeksChandlerAndersen,
)
from systems.molecular.potentials import Buckingham, HarmonicSphere, Morse, SoftSphere, Yukawa
from systems.molecular.tersoff import Tersoff
from systems.molecular.units import UNITS


def _by_name(*kinds: type) -> dict[str, Any]:
    return {kind.__name__: kind for kind in kinds}


_POTENTIALS = _by_name(
    LennardJones,
    WeeksChandlerAndersen,
    Buckingham,
    Morse,
    SoftSphere,
    HarmonicSphere,
    Yukawa,
    StillingerWeber,
)
_CUT_OFFS = _by_name(Truncated, Shifted, ForceShifted, Switched)
_METHODS = _by_name(
    VelocityVerlet,
    Langevin,
    NoseHooverChain,
    StochasticVelocityRescaling,
    Brownian,
    MonteCarloBarostat,
    StochasticCellRescaling,
    FIRE,
    LBFGS,
)
_RULES = {rule.__name__: rule for rule in (lorentz_berthelot, geometric, waldman_hagler)}
_FROM_FILES = {TersoffTable: Tersoff, EmbeddedAtomTable: EmbeddedAtom}


def build_problem(case: MolecularCase, folder: Path = Path()) -> MolecularProblem:
    """The particles of a case where they start, with velocities drawn by its seed.

    **Arguments:**

    - `case`: free of the mistakes that its reader finds.
    - `folder`: what the files that it names are relative to.

    Raises `ValueError` with one sentence for what only files and numbers show.
    """
    table = case.molecules
    positions, box, species = _start(table, folder)
    periodic = needs_periodic_box(case)
    if periodic is not None and not box.periodic:
        raise ValueError(
            f"{dotted(periodic)} needs a periodic box, and the structure of {table.file} has "
            "none; expected an extended XYZ file with a Lattice."
        )
    kinds = max(1, len(table.species))
    terms = [
        term
        for path, item in terms_of(table)
        for term in _terms(dotted(path), item, kinds, folder)
    ]
    masses = np.asarray([item.mass for item in table.species] or [table.mass or 1.0])[species]
    model = MolecularModel(tuple(terms), masses, species=species, units=UNITS[table.units])
    if case.dynamics is None:
        return MolecularProblem(model, positions, box)
    return MolecularProblem(
        model,
        positions,
        box,
        temperature=case.dynamics.start_temperature,
        key=jax.random.key(case.dynamics.seed),
    )


def build_method(case: MolecularCase) -> AbstractDynamics:
    """The method of the dynamics of a case, which must have some."""
    assert case.dynamics is not None
    return _method(case.dynamics.method)


def build_minimiser(case: MolecularCase) -> FIRE | LBFGS:
    """The minimiser of a case, which must have one."""
    assert case.minimisation is not None
    return _method(case.minimisation.method)


def _method(table: Any) -> Any:
    options = dict(table.options)
    if "dynamics" in options:
        options["dynamics"] = _method(options["dynamics"])
    return _METHODS[type(table).__name__](**options)


def _start(table: MoleculesTable, folder: Path) -> tuple[np.ndarray, AbstractBox, np.ndarray]:
    """Positions, box, and the species of each particle."""
    if table.file is not None:
        return _from_file(table, folder / table.file)
    if table.packing is not None:
        assert table.density is not None
        particles = particle_count(table) or 0
        box = cubic_box(particles, table.density)
        positions = random_packing(
            particles, box, distance=table.packing.distance, seed=table.seed
        )
    else:
        assert table.lattice is not None
        assert table.repeats is not None
        repeats: Any = table.repeats
        positions, box = lattice(
            table.lattice, repeats, density=table.density, constant=table.constant
        )
    if not table.species:
        return positions, box, np.zeros(len(positions), np.int32)
    counts = np.asarray([item.count for item in table.species])
    return positions, box, mixture(counts, seed=table.seed)


def _from_file(table: MoleculesTable, path: Path) -> tuple[np.ndarray, AbstractBox, np.ndarray]:
    try:
        found: Structure | None = next(
            itertools.islice(iterate_xyz(path), table.structure, None), None
        )
        if found is None:
            raise ValueError(f"{path} has no structure {table.structure}, counted from 0.")
        if found.units not in (None, table.units):
            raise ValueError(
                f"{path} is in the units {found.units}, expected {table.units} as "
                "molecules.units."
            )
        positions, box = found.in_box()
        names = tuple(item.name for item in table.species)
        species, symbols = found.species(names or None)
    except (XYZError, ValueError) as error:
        raise ValueError(f"molecules.file: {error}") from None
    except OSError as error:
        raise ValueError(
            f"molecules.file: {path} cannot be read ({error.strerror or error})."
        ) from None
    if not names and len(symbols) > 1:
        raise ValueError(
            f"molecules.species is missing, and {path} has the symbols {', '.join(symbols)}; "
            "expected an entry for each."
        )
    return positions, box, species


def _terms(
    key: str, table: MoleculesTable | TermTable, species: int, folder: Path
) -> list[AbstractTerm | AbstractPairEnergy]:
    """The terms that one table stands for: the potential, and its correction."""
    if isinstance(table.potential, TersoffTable | EmbeddedAtomTable | StillingerWeberTable):
        try:
            return [_many_body(table.potential, folder)]
        except (ImportError, ValueError) as error:
            raise ValueError(f"{key}.potential: {error}") from None
    options: dict[str, Any] = {
        name: np.asarray(value) if isinstance(value, tuple) else value
        for name, value in table.potential.options.items()
    }
    if "mixing" in options:
        options["mixing"] = _RULES[options["mixing"]]
    pair = _POTENTIALS[type(table.potential).__name__](**options)
    if table.cutoff is not None:
        pair = _CUT_OFFS[type(table.cutoff).__name__](pair, **table.cutoff.options)
    return [pair, *([TailCorrection(pair, species)] if table.tail_correction else [])]


def _many_body(
    table: TersoffTable | EmbeddedAtomTable | StillingerWeberTable, folder: Path
) -> AbstractTerm:
    if not isinstance(table, TersoffTable):
        import_jax_md()  # so that one that is missing is told now
    if isinstance(table, StillingerWeberTable):
        return StillingerWeber(**table.options)  # pyright: ignore[reportArgumentType]
    try:
        return _FROM_FILES[type(table)].from_lammps(folder / table.file)
    except OSError as error:
        raise ValueError(
            f"{folder / table.file} cannot be read ({error.strerror or error})."
        ) from None
