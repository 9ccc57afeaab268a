"""Molecular models: units, boxes, potentials, cut-offs, and the sum of terms.

`jax_md_terms` is the one door to jax-md, which is imported when a term of it is first
evaluated.
"""

from systems.molecular.boxes import (
    AbstractBox,
    OpenBox,
    OrthorhombicBox,
    TriclinicBox,
    deform,
)
from systems.molecular.builders import cubic_box, lattice, mixture, random_packing
from systems.molecular.corrections import TailCorrection, tail_energy, tail_pressure
from systems.molecular.cutoffs import ForceShifted, Shifted, Switched, Truncated
from systems.molecular.jax_md_terms import (
    EmbeddedAtom,
    JaxMDTerm,
    StillingerWeber,
    learned_potential,
)
from systems.molecular.mixing import geometric, lorentz_berthelot, waldman_hagler
from systems.molecular.model import (
    AbstractTerm,
    EnergyTerm,
    ExternalTerm,
    MolecularModel,
    PairTerm,
)
from systems.molecular.neighbours import NeighbourList
from systems.molecular.pair_sums import Evaluation, evaluate_pairs
from systems.molecular.pairwise import (
    AbstractPairEnergy,
    LennardJones,
    WeeksChandlerAndersen,
)
from systems.molecular.potentials import (
    Buckingham,
    HarmonicSphere,
    Morse,
    SoftSphere,
    UserPair,
    Yukawa,
)
from systems.molecular.tersoff import Tersoff
from systems.molecular.units import METAL, REAL, REDUCED, SI, Units, convert, reduced_by


__all__ = [
    "METAL",
    "REAL",
    "REDUCED",
    "SI",
    "AbstractBox",
    "AbstractPairEnergy",
    "AbstractTerm",
    "Buckingham",
    "EmbeddedAtom",
    "EnergyTerm",
    "Evaluation",
    "ExternalTerm",
    "ForceShifted",
    "HarmonicSphere",
    "JaxMDTerm",
    "LennardJones",
    "MolecularModel",
    "Morse",
    "NeighbourList",
    "OpenBox",
    "OrthorhombicBox",
    "PairTerm",
    "Shifted",
    "SoftSphere",
    "StillingerWeber",
    "Switched",
    "TailCorrection",
    "Tersoff",
    "TriclinicBox",
    "Truncated",
    "Units",
    "UserPair",
    "WeeksChandlerAndersen",
    "Yukawa",
    "convert",
    "cubic_box",
    "deform",
    "evaluate_pairs",
    "geometric",
    "lattice",
    "learned_potential",
    "lorentz_berthelot",
    "mixture",
    "random_packing",
    "reduced_by",
    "tail_energy",
    "tail_pressure",
    "waldman_hagler",
]
