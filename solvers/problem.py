"""The question: an initial value problem. The one door from solvers to systems."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from systems.base import AbstractSDE, AbstractSystem, complete_inputs, state_names


class InitialValueProblem(eqx.Module):
    r"""A system, a span of time, a state at its start, and the inputs.

    $$\dot y = f(t, y, u), \qquad y(t_0) = y_0, \qquad t_0 \le t \le t_1$$

    - `system`: the law of motion with its parameters.
    - `start`, `stop`: $t_0$ and $t_1$, in the system's unit of time.
    - `initial_state`: $y_0$, shape `(states,)`.
    - `inputs`: known quantities by name, complete.
    """

    system: AbstractSystem
    start: Real[Array, ""]
    stop: Real[Array, ""]
    initial_state: Float[Array, " states"]
    inputs: dict[str, Any]

    def __init__(
        self,
        system: AbstractSystem,
        start: ArrayLike,
        stop: ArrayLike,
        initial_state: ArrayLike | Sequence[float] | Mapping[str, ArrayLike] | None = None,
        inputs: Mapping[str, Any] | None = None,
    ):
        """Build a problem.

        **Arguments:**

        - `system`, `start`, `stop`: see the class.
        - `initial_state`: all states in order, or some of them by name; the system's
          own values stand where nothing is given.
        - `inputs`: declared inputs by name; their defaults stand where left out.

        Raises `ValueError` for unknown states or inputs and for a wrong length.
        """
        self.system = system
        self.start = jnp.asarray(start, dtype=float)
        self.stop = jnp.asarray(stop, dtype=float)
        self.inputs = complete_inputs(system, inputs)
        self.initial_state = _initial_state(system, initial_state, self.inputs)


def _initial_state(
    system: AbstractSystem, given: Any, inputs: dict[str, Any]
) -> Float[Array, " states"]:
    names = state_names(system)
    default = jnp.asarray(system.initial_state(inputs), dtype=float)
    if given is None:
        return default
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise ValueError(
                f"{type(system).__name__} has no state {unknown[0]!r}; it has {list(names)}."
            )
        values = [jnp.asarray(given.get(name, default[i])) for i, name in enumerate(names)]
        return jnp.stack([value.astype(default.dtype) for value in values])
    given = jnp.asarray(given, dtype=float)
    if given.shape != (len(names),):
        raise ValueError(
            f"The initial state of {type(system).__name__} has shape {given.shape}, "
            f"expected ({len(names)},) for {list(names)}."
        )
    return given


def vector_field(t: Any, y: Any, args: Any) -> Array:
    """The vector field as integrators call it, with `args = (system, inputs)`.

    It is one function for all problems, so that compiled programs are shared.
    """
    system, inputs = args
    return system.vector_field(t, y, inputs)


def diffusion(t: Any, y: Any, args: Any) -> Array:
    """The diffusion as integrators call it, with `args = (system, inputs)`."""
    system, inputs = args
    return system.diffusion(t, y, inputs)


def is_stochastic(problem: InitialValueProblem) -> bool:
    """Whether the problem has noise and so needs a key and a stochastic method."""
    return isinstance(problem.system, AbstractSDE)
