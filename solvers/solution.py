"""The answer: saved states and a status that says in words what happened."""

from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Real


class RESULTS(diffrax.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """Why a solve ended; each member is a sentence that says what to try next."""

    successful = ""
    nonfinite_start = (
        "The span of time, the initial state, the parameters or the vector field at the "
        "start are not finite numbers. Check the values that the problem was built from."
    )
    step_size_underflow = (
        "The step size fell below the resolution of time: the solution blows up there, "
        "or the vector field is not finite or jumps. Check the model beyond that time, "
        "or relax `rtol` and `atol`."
    )
    nonfinite_state = (
        "The state became infinite or not a number. Decrease `step`, or use a method "
        "with adaptive steps."
    )


class SolveError(RuntimeError):
    """A solve that did not reach its end; raised outside compiled programs."""


class Solution(eqx.Module):
    """What `solve` returns; under `vmap` each array has the batch axis in front.

    - `times`: the saved times, shape `(times,)`.
    - `states`: the states there, shape `(times, states)`; NaN where not reached.
    - `status`: a member of [`RESULTS`][solvers.solution.RESULTS].
    - `final_time`, `final_state`: where the solve stopped: `stop`, or earlier if it
      failed.
    - `statistics`: counts by name: `steps`, `accepted_steps`, `rejected_steps`.
    - `interpolation`: dense output, or `None` where it was not asked for.
    - `engine`, `engine_reason`: what computed an ensemble, and why that.
    """

    times: Real[Array, " times"]
    states: Float[Array, "times states"]
    status: Any
    final_time: Real[Array, ""]
    final_state: Float[Array, " states"]
    statistics: dict[str, Array]
    interpolation: diffrax.DenseInterpolation | None = None
    engine: str = eqx.field(default="diffrax", static=True)
    engine_reason: str = eqx.field(default="", static=True)

    def evaluate(self, t: Real[Array, ""]) -> Float[Array, " states"]:
        """The state at any time of the span; needs `solve(..., dense=True)`."""
        if self.interpolation is None:
            raise ValueError("This solution has no dense output: solve with `dense=True`.")
        return self.interpolation.evaluate(t)

    @property
    def succeeded(self) -> Array:
        """Whether the solve reached its end."""
        return self.status == RESULTS.successful


def status_names() -> tuple[str, ...]:
    """Short names of all statuses, indexed by their number."""
    members = {int(item._value): name for name, item in RESULTS._name_to_item.items()}
    return tuple(members[i] for i in range(len(members)))


def status_from(code: Int[Array, "..."]) -> Any:
    """The member of `RESULTS` with this number, as it is inside compiled programs."""
    status = RESULTS.promote(diffrax.RESULTS.successful)
    return eqx.tree_at(lambda s: s._value, status, code)


def describe_status(name: str) -> str:
    """The sentence behind the short name of a status."""
    return RESULTS[getattr(RESULTS, name)]


def raise_on_failure(solution: Solution) -> None:
    """Raise `SolveError` for the first failed solve, if any; does nothing under `jit`."""
    code = solution.status._value
    if isinstance(code, Tracer):
        return
    codes = jnp.atleast_1d(code).ravel().tolist()
    failed = [(member, code) for member, code in enumerate(codes) if code != 0]
    if not failed:
        return
    member, code = failed[0]
    time = float(jnp.atleast_1d(solution.final_time).ravel()[member])
    sentence = describe_status(status_names()[code])
    where = f"at time {time:.6g}"
    if len(codes) > 1:
        where = (
            f"{len(failed)} of {len(codes)} solves failed, the first (member {member}) {where}"
        )
    raise SolveError(f"{where[0].upper()}{where[1:]}: {sentence}")
