"""The case file of a molecular run as types: every key, its type, its default, its meaning."""

from typing import Annotated, Literal

from msgspec import Meta

from simkit.config.molecular_methods import (
    Method,
    MinimisationTable,
    MonteCarloBarostat,
    StochasticCellRescaling,
    VelocityVerlet,
)
from simkit.config.molecular_tables import Count, NotNegative, Positive, Seed, Table
from simkit.config.molecular_terms import CutOff, Potential, TermTable


MOST_PARTICLES = 20_000_000
"""More than this do not fit into the memory of a machine with their lists."""
_Repeats = Annotated[int, Meta(ge=1, le=1000)]


class SpeciesTable(Table, frozen=True):
    """One kind of particles; the first one of the list is species 0, and so on."""

    name: Annotated[str, Meta(description="its symbol, as in the file of a start")]
    mass: Annotated[Positive, Meta(description="of a particle, in the unit of mass")] = 1.0
    count: Annotated[
        Count | None, Meta(description="how many; not where a file has the particles")
    ] = None


class PackingTable(Table, frozen=True):
    """Particles at random places in a cube, none closer to another than a distance."""

    distance: Annotated[
        NotNegative, Meta(description="the smallest one of two, in the unit of length")
    ]
    particles: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(description="how many; left out where all species have a count"),
    ] = None


class MoleculesTable(Table, frozen=True):
    """Which particles there are, and where they are at the start.

    They start on a crystal (`lattice` and `repeats`, with a `density` or a `constant`), at
    random places (`packing` and `density`) or from a `file`; give one of the three.
    """

    potential: Annotated[
        Potential, Meta(description="energy of the particles; `type` names it")
    ]
    cutoff: Annotated[
        CutOff | None, Meta(description="where it ends, and how; `type` names it")
    ] = None
    tail_correction: Annotated[
        bool, Meta(description="add on average what Truncated or Switched leave out")
    ] = False
    terms: Annotated[
        tuple[TermTable, ...],
        Meta(description="further terms, each with `potential`, `cutoff`, `tail_correction`"),
    ] = ()
    units: Annotated[
        Literal["reduced", "metal", "real", "SI"], Meta(description="units of all numbers")
    ] = "reduced"
    mass: Annotated[
        Positive | None, Meta(description="of a particle without species; default: 1")
    ] = None
    species: Annotated[
        tuple[SpeciesTable, ...],
        Meta(description="of a mixture, each with `name`, `mass` and `count`"),
    ] = ()
    lattice: Annotated[
        Literal["sc", "bcc", "fcc", "hcp", "diamond"] | None,
        Meta(description="sc, bcc, fcc, hcp, diamond: cells of 1, 2, 4, 4, 8 atoms"),
    ] = None
    repeats: Annotated[
        # A tuple of three in a union makes msgspec 0.22 crash as it collects garbage.
        _Repeats | tuple[_Repeats, ...] | None,
        Meta(description="cells along each axis of the box: one number, or a list of three"),
    ] = None
    packing: Annotated[
        PackingTable | None,
        Meta(description="random places: `distance` and `particles`"),
    ] = None
    density: Annotated[
        Positive | None, Meta(description="particles per volume, in length^-3")
    ] = None
    constant: Annotated[
        Positive | None, Meta(description="edge of a cell, in the unit of length")
    ] = None
    file: Annotated[
        str | None,
        Meta(description="XYZ or extended XYZ file, relative to the case; with its box"),
    ] = None
    structure: Annotated[
        int, Meta(ge=0, le=2**31 - 1, description="which structure of the file, from 0")
    ] = 0
    seed: Annotated[
        Seed, Meta(description="seed of a packing, and of the order of a mixture")
    ] = 0


class DynamicsTable(Table, frozen=True):
    """How the particles move, and what is saved."""

    method: Annotated[Method, Meta(description="`type` names it")]
    steps: Annotated[Count, Meta(description="how many steps")]
    save_every: Annotated[Count, Meta(description="steps between two frames")] = 100
    save: Annotated[
        tuple[Literal["velocities", "forces"], ...],
        Meta(description="what a frame has beside positions and energies"),
    ] = ("velocities",)
    temperature: Annotated[
        Positive | None,
        Meta(description="of the velocities at the start; default: that of the method"),
    ] = None
    precision: Annotated[
        Literal["double", "single", "mixed"],
        Meta(description="mixed: forces of pairs in single, all else in double"),
    ] = "double"
    engine: Annotated[
        Literal["auto", "jax", "native"],
        Meta(description="what sums over pairs; auto: native where that can serve"),
    ] = "auto"
    seed: Annotated[Seed, Meta(description="seed of velocities and of all that is random")] = 0
    segment: Annotated[
        Count | None,
        Meta(
            description="steps that are kept together in a run that can be resumed; default: "
            "a 32nd of them"
        ),
    ] = None

    @property
    def start_temperature(self) -> float | None:
        """Of the velocities at the start; `None` if nothing says it."""
        if self.temperature is not None:
            return self.temperature
        if isinstance(self.method, VelocityVerlet):
            return None
        if isinstance(self.method, MonteCarloBarostat | StochasticCellRescaling):
            return self.method.dynamics.temperature
        return self.method.temperature


class MolecularCase(Table, frozen=True):
    """A molecular case: which particles, and what is done with them.

    At least one of `minimisation` and `dynamics` is there; a minimisation comes first.
    """

    schema: Annotated[Literal[1], Meta(description="version of this file format")]
    title: Annotated[str, Meta(description="one line for people")]
    molecules: MoleculesTable
    minimisation: MinimisationTable | None = None
    dynamics: DynamicsTable | None = None

    @property
    def method_name(self) -> str:
        """The name of what moves the particles, thermostat included."""
        if self.dynamics is None:
            assert self.minimisation is not None
            return type(self.minimisation.method).__name__
        method = self.dynamics.method
        if isinstance(method, MonteCarloBarostat | StochasticCellRescaling):
            return f"{type(method).__name__} around {type(method.dynamics).__name__}"
        return type(method).__name__

    @property
    def system_name(self) -> str:
        """The names of its potentials."""
        tables = (self.molecules, *self.molecules.terms)
        return " + ".join(type(table.potential).__name__ for table in tables)
