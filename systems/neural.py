"""Laws of motion that are learned, whole or in part."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from systems.base import (
    AbstractODE,
    AbstractSDE,
    AbstractSystem,
    Input,
    Inputs,
    State,
    parameter,
)


class NeuralVectorField(AbstractODE):
    r"""A vector field that is a neural network.

    $$\dot y = m \odot \mathrm{NN}(y / m)$$

    with a typical magnitude $m$ for each state, so that the network works with numbers
    near one whatever the units.

    - `states`: the states.
    - `magnitudes`: $m$, one positive number for each state, in its unit.
    - `network`: the network, a callable module from `(states,)` to `(states,)`; its
      arrays are the parameters. Use a smooth activation (tanh, softplus): the kinks of
      a rectifier cost an adaptive method many steps.

    [`make`][systems.neural.NeuralVectorField.make] builds one from a random key.

    Source: R. T. Q. Chen et al., "Neural ordinary differential equations", NeurIPS
    (2018).
    """

    states: tuple[State, ...] = eqx.field(static=True)
    magnitudes: tuple[float, ...] = eqx.field(static=True)
    network: Any = parameter(description="weights and biases of the network")

    def __check_init__(self) -> None:
        _check_magnitudes(type(self).__name__, self.magnitudes, self.states)
        _check_network(type(self).__name__, self.network, self.states)

    @classmethod
    def make(
        cls,
        states: Sequence[State],
        *,
        key: PRNGKeyArray,
        width: int = 32,
        depth: int = 2,
        activation: Callable[[Array], Array] = jnp.tanh,
        magnitudes: Sequence[float] | None = None,
    ) -> "NeuralVectorField":
        """A field with a multilayer perceptron drawn at random, in double precision.

        **Arguments:**

        - `states`: the states, with their defaults and units.
        - `key`: draws the weights.
        - `width`, `depth`: neurons of a hidden layer, number of hidden layers.
        - `activation`: smooth function after each hidden layer.
        - `magnitudes`: typical size of each state in its unit; ones if left out.
        """
        network = _perceptron(len(states), key, width, depth, activation)
        return cls(tuple(states), _magnitudes(magnitudes, states), network)

    def vector_field(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """See the class."""
        del t, inputs
        magnitudes = jnp.asarray(self.magnitudes, dtype=y.dtype)
        return magnitudes * self.network(y / magnitudes)


class HybridVectorField(AbstractODE):
    r"""A known law plus a learned term.

    $$\dot y = f(t, y, u) + s\, m \odot \mathrm{NN}(y / m)$$

    with the known law $f$, a scale $s$ and a typical magnitude $m$ for each state.
    States, inputs, start and derived quantities are those of the law; its parameters
    have dotted names such as `law.prey_growth`.

    - `law`: a deterministic system.
    - `magnitudes`: $m$, one positive number for each state, in its unit.
    - `network`: a callable module from `(states,)` to `(states,)`.
    - `scale`: $s$, in inverse time; 0 gives the law alone. It can be exchanged with
      the last weights of the network, so a fit should leave it fixed.

    [`make`][systems.neural.HybridVectorField.make] builds one from a random key.

    Source: C. Rackauckas et al., "Universal differential equations for scientific
    machine learning", arXiv:2001.04385 (2020).
    """

    law: AbstractSystem
    magnitudes: tuple[float, ...] = eqx.field(static=True)
    network: Any = parameter(description="weights and biases of the network")
    scale: Float[Any, ""] = parameter(
        1.0, positive=True, description="size of the learned term, in inverse time"
    )
    states: tuple[State, ...] = eqx.field(init=False, static=True)

    def __post_init__(self) -> None:
        self.states = self.law.states

    def __check_init__(self) -> None:
        if isinstance(self.law, AbstractSDE):
            raise ValueError(
                f"{type(self).__name__}: law is {type(self.law).__name__}, a stochastic "
                "system; expected a deterministic one."
            )
        _check_magnitudes(type(self).__name__, self.magnitudes, self.states)
        _check_network(type(self).__name__, self.network, self.states)

    @classmethod
    def make(
        cls,
        law: AbstractSystem,
        *,
        key: PRNGKeyArray,
        width: int = 32,
        depth: int = 2,
        activation: Callable[[Array], Array] = jnp.tanh,
        magnitudes: Sequence[float] | None = None,
        scale: float = 1.0,
    ) -> "HybridVectorField":
        """A law with a multilayer perceptron drawn at random, in double precision.

        **Arguments:** `law` and `scale` as in the class, the others as in
        [`NeuralVectorField.make`][systems.neural.NeuralVectorField.make].
        """
        network = _perceptron(len(law.states), key, width, depth, activation)
        return cls(law, _magnitudes(magnitudes, law.states), network, scale=scale)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs of the law."""
        return self.law.inputs

    @property
    def derived_units(self) -> Mapping[str, str]:
        """The units of the derived quantities of the law."""
        return self.law.derived_units

    def initial_state(self, inputs: Inputs) -> Float[ArrayLike, " states"]:
        """The start of the law."""
        return self.law.initial_state(inputs)

    def vector_field(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """See the class."""
        magnitudes = jnp.asarray(self.magnitudes, dtype=y.dtype)
        learned = magnitudes * self.network(y / magnitudes)
        return self.law.vector_field(t, y, inputs) + self.scale * learned

    def derived_quantities(self) -> dict[str, Float[Any, ""]]:
        """The derived quantities of the law."""
        return self.law.derived_quantities()


def _perceptron(
    size: int,
    key: PRNGKeyArray,
    width: int,
    depth: int,
    activation: Callable[[Array], Array],
) -> eqx.nn.MLP:
    # A network may be made before an entry point switches double precision on; its
    # weights must not depend on that.
    with jax.enable_x64(True):
        return eqx.nn.MLP(size, size, width, depth, activation=activation, key=key)


def _magnitudes(given: Sequence[float] | None, states: Sequence[State]) -> tuple[float, ...]:
    return tuple(map(float, given)) if given is not None else (1.0,) * len(states)


def _check_magnitudes(
    owner: str, magnitudes: tuple[float, ...], states: tuple[State, ...]
) -> None:
    if len(magnitudes) != len(states) or not all(
        np.isfinite(magnitude) and magnitude > 0 for magnitude in magnitudes
    ):
        raise ValueError(
            f"{owner}: magnitudes is {magnitudes}, expected one positive number for each "
            f"of the {len(states)} states."
        )


def _check_network(owner: str, network: Any, states: tuple[State, ...]) -> None:
    if not isinstance(network, eqx.nn.MLP):
        return  # another network tells of a wrong shape when it is called
    if (network.in_size, network.out_size) != (len(states), len(states)):
        raise ValueError(
            f"{owner}: network maps {network.in_size} to {network.out_size} numbers, "
            f"expected {len(states)} to {len(states)}, one for each state."
        )
