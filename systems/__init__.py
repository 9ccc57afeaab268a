"""What is simulated: dynamical systems with named states and declared parameters.

A system is an Equinox module; write your own by subclassing one of the abstract kinds.
The room `molecular` is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from systems.base import (
    AbstractHamiltonian,
    AbstractODE,
    AbstractSDE,
    AbstractSystem,
    Input,
    Inputs,
    Interpretation,
    NoiseKind,
    ParameterDeclaration,
    State,
    complete_inputs,
    get_parameter,
    parameter,
    parameter_declarations,
    replace_parameters,
    state_names,
)
from systems.chaos import Lorenz63
from systems.neural import HybridVectorField, NeuralVectorField
from systems.oscillators import HarmonicOscillator, VanDerPol
from systems.pharmacology import OneCompartmentMichaelisMenten, OneCompartmentOral
from systems.populations import SIR, LotkaVolterra
from systems.stochastic import GeometricBrownianMotion, OrnsteinUhlenbeck


if TYPE_CHECKING:
    from systems import molecular as molecular

_ROOMS = ("molecular",)

__all__ = [
    "SIR",
    "AbstractHamiltonian",
    "AbstractODE",
    "AbstractSDE",
    "AbstractSystem",
    "GeometricBrownianMotion",
    "HarmonicOscillator",
    "HybridVectorField",
    "Input",
    "Inputs",
    "Interpretation",
    "Lorenz63",
    "LotkaVolterra",
    "NeuralVectorField",
    "NoiseKind",
    "OneCompartmentMichaelisMenten",
    "OneCompartmentOral",
    "OrnsteinUhlenbeck",
    "ParameterDeclaration",
    "State",
    "VanDerPol",
    "complete_inputs",
    "get_parameter",
    "parameter",
    "parameter_declarations",
    "replace_parameters",
    "state_names",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"systems.{name}")
    raise AttributeError(f"module 'systems' has no attribute {name!r}")
