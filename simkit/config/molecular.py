"""The case file of a molecular run as types: every key, its type, its default, its meaning.

Keys and tables are named as the classes in Python and their arguments:
`systems.molecular` for the model, `solvers.molecular` for the methods.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


_Positive = Annotated[float, Meta(gt=0)]
_Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A table of the case file; a key that is not listed is an error."""

    @property
    def options(self) -> dict[str, float]:
        """Its values by name: the arguments of the class that its type names."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in values.items() if value is not None}


class _Typed(_Table, frozen=True, tag_field="type", tag=True):
    """A table whose `type` is the name of a class in Python."""


class LennardJones(_Typed, frozen=True):
    """`4 epsilon ((sigma/r)^12 - (sigma/r)^6)`."""

    epsilon: Annotated[float, Meta(ge=0, description="depth, in the unit of energy")] = 1.0
    sigma: Annotated[_Positive, Meta(description="zero, in the unit of length")] = 1.0


class WeeksChandlerAndersen(_Typed, frozen=True):
    """The repulsive part of Lennard-Jones; it has a range of its own and no cut-off."""

    epsilon: Annotated[float, Meta(ge=0, description="depth, in the unit of energy")] = 1.0
    sigma: Annotated[_Positive, Meta(description="zero, in the unit of length")] = 1.0


class Buckingham(_Typed, frozen=True):
    """`repulsion exp(-r/decay) - dispersion/r^6`."""

    repulsion: Annotated[_Positive, Meta(description="in the unit of energy")]
    decay: Annotated[_Positive, Meta(description="in the unit of length")]
    dispersion: Annotated[float, Meta(ge=0, description="in energy times length^6")]


class Morse(_Typed, frozen=True):
    """A well of a depth, a steepness and a distance."""

    depth: Annotated[_Positive, Meta(description="in the unit of energy")]
    steepness: Annotated[_Positive, Meta(description="in one over the unit of length")]
    distance: Annotated[_Positive, Meta(description="of the minimum, in the unit of length")]


class SoftSphere(_Typed, frozen=True):
    """`epsilon (sigma/r)^exponent`."""

    epsilon: Annotated[float, Meta(ge=0, description="in the unit of energy")] = 1.0
    sigma: Annotated[_Positive, Meta(description="in the unit of length")] = 1.0
    exponent: Annotated[_Positive, Meta(description="the power")] = 12.0


class Yukawa(_Typed, frozen=True):
    """`strength exp(-screening r)/r`."""

    strength: Annotated[float, Meta(description="in energy times length")]
    screening: Annotated[_Positive, Meta(description="in one over the unit of length")]


class Truncated(_Typed, frozen=True):
    """Nothing beyond the radius; energy and force jump there."""

    radius: Annotated[_Positive, Meta(description="in the unit of length")]


class Shifted(_Typed, frozen=True):
    """The energy is shifted to zero at the radius; the force jumps there."""

    radius: Annotated[_Positive, Meta(description="in the unit of length")]


class ForceShifted(_Typed, frozen=True):
    """Energy and force are shifted to zero at the radius."""

    radius: Annotated[_Positive, Meta(description="in the unit of length")]


class Switched(_Typed, frozen=True):
    """A smooth switch between two distances."""

    onset: Annotated[_Positive, Meta(description="where it begins, in the unit of length")]
    radius: Annotated[_Positive, Meta(description="where it ends")]


class VelocityVerlet(_Typed, frozen=True):
    """Constant energy."""

    time_step: Annotated[_Positive, Meta(description="in the unit of time")]


class Langevin(_Typed, frozen=True):
    """Constant temperature with friction and noise (BAOAB)."""

    time_step: Annotated[_Positive, Meta(description="in the unit of time")]
    temperature: Annotated[_Positive, Meta(description="in the unit of temperature")]
    friction: Annotated[_Positive, Meta(description="in one over the unit of time")]


class NoseHooverChain(_Typed, frozen=True):
    """Constant temperature by deterministic motion."""

    time_step: Annotated[_Positive, Meta(description="in the unit of time")]
    temperature: Annotated[_Positive, Meta(description="in the unit of temperature")]
    relaxation_time: Annotated[_Positive, Meta(description="in the unit of time")]
    length: Annotated[int, Meta(ge=2, le=100, description="thermostats in the chain")] = 3


class StochasticVelocityRescaling(_Typed, frozen=True):
    """Constant temperature by one random factor for all velocities."""

    time_step: Annotated[_Positive, Meta(description="in the unit of time")]
    temperature: Annotated[_Positive, Meta(description="in the unit of temperature")]
    relaxation_time: Annotated[_Positive, Meta(description="in the unit of time")]


Potential = LennardJones | WeeksChandlerAndersen | Buckingham | Morse | SoftSphere | Yukawa
CutOff = Truncated | Shifted | ForceShifted | Switched
Method = VelocityVerlet | Langevin | NoseHooverChain | StochasticVelocityRescaling


class MoleculesTable(_Table, frozen=True):
    """Which particles there are, and where they are at the start: a cubic crystal.

    Give `density` or `constant`, not both.
    """

    lattice: Annotated[
        Literal["sc", "bcc", "fcc", "diamond"],
        Meta(description="sc, bcc, fcc, diamond: cubic cells of 1, 2, 4, 8 atoms"),
    ]
    repeats: Annotated[
        int, Meta(ge=1, le=1000, description="cells along each axis of the cubic box")
    ]
    potential: Annotated[Potential, Meta(description="energy of a pair; `type` names it")]
    density: Annotated[
        _Positive | None, Meta(description="particles per volume, in length^-3")
    ] = None
    constant: Annotated[
        _Positive | None, Meta(description="edge of a cell, in the unit of length")
    ] = None
    units: Annotated[
        Literal["reduced", "metal", "real", "SI"], Meta(description="units of all numbers")
    ] = "reduced"
    mass: Annotated[_Positive, Meta(description="of a particle, in the unit of mass")] = 1.0
    cutoff: Annotated[
        CutOff | None, Meta(description="where it ends, and how; `type` names it")
    ] = None


class DynamicsTable(_Table, frozen=True):
    """How the particles move, and what is saved."""

    method: Annotated[Method, Meta(description="`type` names it")]
    steps: Annotated[_Count, Meta(description="how many steps")]
    save_every: Annotated[_Count, Meta(description="steps between two frames")] = 100
    save: Annotated[
        tuple[Literal["velocities", "forces"], ...],
        Meta(description="what a frame has beside positions and energies"),
    ] = ("velocities",)
    temperature: Annotated[
        _Positive | None,
        Meta(description="of the velocities at the start; default: that of the method"),
    ] = None
    precision: Annotated[
        Literal["double", "single", "mixed"],
        Meta(description="mixed: forces of pairs in single, all else in double"),
    ] = "double"
    seed: Annotated[_Seed, Meta(description="seed of all draws")] = 0
    segment: Annotated[
        _Count | None,
        Meta(
            description="steps that are kept together in a run that can be resumed; default: "
            "a 32nd of them"
        ),
    ] = None


class MolecularCase(_Table, frozen=True):
    """A molecular case: which particles, and how they move."""

    schema: Annotated[Literal[1], Meta(description="version of this file format")]
    title: Annotated[str, Meta(description="one line for people")]
    molecules: MoleculesTable
    dynamics: DynamicsTable
