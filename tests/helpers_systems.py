"""What tests of systems share."""

from typing import Any

import jax
import jax.numpy as jnp

from systems.base import AbstractSystem, State, complete_inputs
from systems.chaos import Lorenz63
from systems.neural import HybridVectorField, NeuralVectorField
from systems.oscillators import HarmonicOscillator, VanDerPol
from systems.pharmacology import OneCompartmentMichaelisMenten, OneCompartmentOral
from systems.populations import SIR, LotkaVolterra
from systems.stochastic import GeometricBrownianMotion, OrnsteinUhlenbeck


PAIR = (State("left", 1.0), State("right", -1.0))
NETWORK_KEY = jax.random.key(7)

EXAMPLES: dict[str, AbstractSystem] = {
    "LotkaVolterra": LotkaVolterra(),
    "SIR": SIR(),
    "OneCompartmentOral": OneCompartmentOral(),
    "OneCompartmentMichaelisMenten": OneCompartmentMichaelisMenten(),
    "HarmonicOscillator": HarmonicOscillator(mass=2.0, stiffness=3.0),
    "VanDerPol": VanDerPol(damping=1000.0),
    "Lorenz63": Lorenz63(),
    "OrnsteinUhlenbeck": OrnsteinUhlenbeck(reversion_rate=0.7, long_term_mean=2.0),
    "GeometricBrownianMotion": GeometricBrownianMotion(),
    "NeuralVectorField": NeuralVectorField.make(PAIR, key=NETWORK_KEY, width=5, depth=2),
    "HybridVectorField": HybridVectorField.make(
        LotkaVolterra(), key=NETWORK_KEY, width=5, depth=1, magnitudes=(30.0, 6.0), scale=0.1
    ),
}


def field(system: AbstractSystem, y: Any, t: float = 0.0, **inputs: float) -> jax.Array:
    """The vector field at a state, with the declared inputs where none is given."""
    return system.vector_field(
        jnp.asarray(t), jnp.asarray(y, dtype=float), complete_inputs(system, inputs)
    )
