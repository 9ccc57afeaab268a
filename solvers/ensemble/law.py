"""What the engines of ensembles are asked, as flat functions and arrays, and what they answer.

Every engine has the signature `run(law, method, question) -> Answer`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real, UInt32


Flat = Callable[[Any, Any, Any, Any], Any]
"""`function(t, y, varied, shared)` of flat arrays: a scalar, `(states,)`, `(varied,)` and
`(shared,)`."""


class Law(eqx.Module):
    r"""The law of motion of all members, $dy = f\,dt + g\,dW$.

    - `drift`: $f$, gives shape `(states,)`.
    - `diffusion`: $g$, gives `(states,)` for diagonal noise (`diagonal`), where state `i`
      moves with the Wiener process of number `i % noises` (so sensitivities, which come in
      blocks behind the states, share those of their states), else `(states, noises)`;
      `None` for an ordinary differential equation.
    - `states`, `varied`, `shared`, `noises`: how many numbers there are of each.
    - `controlled`: the step control looks at the first so many states. The others are
      sensitivities, which follow the steps of the controlled ones.

    The functions close over no traced value.
    """

    drift: Flat = eqx.field(static=True)
    diffusion: Flat | None = eqx.field(static=True)
    states: int = eqx.field(static=True)
    varied: int = eqx.field(static=True)
    shared: int = eqx.field(static=True)
    noises: int = eqx.field(static=True)
    diagonal: bool = eqx.field(static=True)
    controlled: int = eqx.field(static=True)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of what the functions take: time, states, varied and shared numbers."""
        return (), (self.states,), (self.varied,), (self.shared,)

    def rate(self, t: Any, y: Any, varied: Any, shared: Any) -> Any:
        """The partial derivative of the drift with respect to time."""

        def at(time: Any) -> Any:
            return self.drift(time, y, varied, shared)

        return jax.jvp(at, (t,), (jnp.ones_like(t),))[1]

    def bend(self, t: Any, y: Any, varied: Any, shared: Any) -> Any:
        """The derivative of diagonal diffusion along itself, g times its slope."""
        diffusion: Any = self.diffusion

        def of_state(y: Any) -> Any:
            return diffusion(t, y, varied, shared)

        return jax.jvp(of_state, (y,), (of_state(y),))[1]


class Question(eqx.Module):
    """The arrays of all members; `members` is written N, saved times T.

    - `start`, `stop`: spans of time, in either direction.
    - `initial_states`: where each begins.
    - `varied`: parameters and inputs that differ between members.
    - `shared`: those that are the same for all.
    - `times`: saved times in the order of time, for all or for each member.
    - `keys`: raw words of each member's random key; `None` without noise.
    """

    start: Real[Array, " N"]
    stop: Real[Array, " N"]
    initial_states: Float[Array, "N states"]
    varied: Float[Array, "N varied"]
    shared: Float[Array, " shared"]
    times: Real[Array, " T"] | Real[Array, "N T"]
    keys: UInt32[Array, "N words"] | None = None


class Answer(eqx.Module):
    """What became of all members.

    - `saved`: states at the saved times; NaN where a member did not get there.
    - `final_time`, `final_state`: where it stopped: its `stop`, or earlier if it failed.
    - `status`: the number of a member of `solvers.solution.RESULTS`.
    - `accepted`, `rejected`: numbers of steps.
    """

    saved: Float[Array, "N T states"]
    final_time: Real[Array, " N"]
    final_state: Float[Array, "N states"]
    status: Int[Array, " N"]
    accepted: Int[Array, " N"]
    rejected: Int[Array, " N"]


class EngineRefusal(ValueError):
    """An engine cannot serve a question; the message says what stands in the way."""
