"""Terms of the energy in a molecular case file: potentials, cut-offs, corrections.

Keys and tables are named as the classes of `systems.molecular` and their arguments.
"""

from typing import Annotated, Literal

from msgspec import Meta

from simkit.config.molecular_tables import (
    ByPair,
    NotNegativeByPair,
    Positive,
    PositiveByPair,
    Table,
    Typed,
)


MixingRule = Annotated[
    Literal["lorentz_berthelot", "geometric", "waldman_hagler"],
    Meta(description="rule for unlike species, where epsilon and sigma are lists by species"),
]


class LennardJones(Typed, frozen=True):
    """`4 epsilon ((sigma/r)^12 - (sigma/r)^6)`."""

    epsilon: Annotated[NotNegativeByPair, Meta(description="depth, in the unit of energy")] = (
        1.0
    )
    sigma: Annotated[PositiveByPair, Meta(description="zero, in the unit of length")] = 1.0
    mixing: MixingRule = "lorentz_berthelot"


class WeeksChandlerAndersen(Typed, frozen=True):
    """The repulsive part of Lennard-Jones; it has a range of its own and no cut-off."""

    epsilon: Annotated[NotNegativeByPair, Meta(description="depth, in the unit of energy")] = (
        1.0
    )
    sigma: Annotated[PositiveByPair, Meta(description="zero, in the unit of length")] = 1.0
    mixing: MixingRule = "lorentz_berthelot"


class Buckingham(Typed, frozen=True):
    """`repulsion exp(-r/decay) - dispersion/r^6`."""

    repulsion: Annotated[PositiveByPair, Meta(description="in the unit of energy")]
    decay: Annotated[PositiveByPair, Meta(description="in the unit of length")]
    dispersion: Annotated[NotNegativeByPair, Meta(description="in energy times length^6")]


class Morse(Typed, frozen=True):
    """A well of a depth, a steepness and a distance."""

    depth: Annotated[PositiveByPair, Meta(description="in the unit of energy")]
    steepness: Annotated[PositiveByPair, Meta(description="in one over the unit of length")]
    distance: Annotated[
        PositiveByPair, Meta(description="of the minimum, in the unit of length")
    ]


class SoftSphere(Typed, frozen=True):
    """`epsilon (sigma/r)^exponent`."""

    epsilon: Annotated[NotNegativeByPair, Meta(description="in the unit of energy")] = 1.0
    sigma: Annotated[PositiveByPair, Meta(description="in the unit of length")] = 1.0
    exponent: Annotated[Positive, Meta(description="the power")] = 12.0


class HarmonicSphere(Typed, frozen=True):
    """`epsilon/exponent (1 - r/sigma)^exponent` where spheres overlap; it has no cut-off."""

    epsilon: Annotated[NotNegativeByPair, Meta(description="in the unit of energy")] = 1.0
    sigma: Annotated[PositiveByPair, Meta(description="in the unit of length")] = 1.0
    exponent: Annotated[float, Meta(ge=2, description="the power; 2.5 is Hertz's")] = 2.0


class Yukawa(Typed, frozen=True):
    """`strength exp(-screening r)/r`."""

    strength: Annotated[ByPair, Meta(description="in energy times length")]
    screening: Annotated[PositiveByPair, Meta(description="in one over the unit of length")]


class StillingerWeber(Typed, frozen=True):
    """Pairs and angles; the defaults are silicon in metal units. It takes jax-md."""

    epsilon: Annotated[Positive, Meta(description="in the unit of energy")] = 2.16826
    sigma: Annotated[Positive, Meta(description="in the unit of length")] = 2.0951
    a: Annotated[float, Meta(description="strength of the pair part, A")] = 7.049556277
    b: Annotated[float, Meta(description="repulsion of pairs, B")] = 0.6022245584
    strength: Annotated[float, Meta(description="of the three-body part, lambda")] = 21.0
    gamma: Annotated[Positive, Meta(description="decay of the three-body part")] = 1.2
    cutoff: Annotated[Positive, Meta(description="the range, in the unit of length")] = 3.77118


class Tersoff(Typed, frozen=True):
    """Bond orders, of silicon, germanium and carbon."""

    file: Annotated[str, Meta(description="parameters of one element, in the format of LAMMPS")]


class EmbeddedAtom(Typed, frozen=True):
    """Metals, by a table of embedding, density and pair energy. It takes jax-md."""

    file: Annotated[str, Meta(description="a table of one element in the format setfl")]


class Truncated(Typed, frozen=True):
    """Nothing beyond the radius; energy and force jump there."""

    radius: Annotated[Positive, Meta(description="in the unit of length")]


class Shifted(Typed, frozen=True):
    """The energy is shifted to zero at the radius; the force jumps there."""

    radius: Annotated[Positive, Meta(description="in the unit of length")]


class ForceShifted(Typed, frozen=True):
    """Energy and force are shifted to zero at the radius."""

    radius: Annotated[Positive, Meta(description="in the unit of length")]


class Switched(Typed, frozen=True):
    """A smooth switch between two distances."""

    onset: Annotated[Positive, Meta(description="where it begins, in the unit of length")]
    radius: Annotated[Positive, Meta(description="where it ends")]


Pair = (
    LennardJones
    | WeeksChandlerAndersen
    | Buckingham
    | Morse
    | SoftSphere
    | HarmonicSphere
    | Yukawa
)
ManyBody = StillingerWeber | Tersoff | EmbeddedAtom
Potential = Pair | ManyBody
CutOff = Truncated | Shifted | ForceShifted | Switched
BOUNDED = (WeeksChandlerAndersen, HarmonicSphere, StillingerWeber, Tersoff, EmbeddedAtom)
"""Potentials that have a range of their own."""


class TermTable(Table, frozen=True):
    """One more term of the energy, which is the sum of all terms."""

    potential: Annotated[Potential, Meta(description="`type` names it")]
    cutoff: Annotated[
        CutOff | None, Meta(description="where it ends, and how; `type` names it")
    ] = None
    tail_correction: Annotated[
        bool, Meta(description="add on average what Truncated or Switched leave out")
    ] = False
