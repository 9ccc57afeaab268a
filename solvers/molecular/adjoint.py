"""Gradients through trajectories, and how far they can be trusted."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from solvers.molecular.lists import first_list, kind_for
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.propagation import Frames, Start, Surroundings, frames_plainly
from solvers.molecular.reversible import backward, frames_reversibly
from solvers.molecular.start import choose_skin
from solvers.molecular.state import as_arrays
from solvers.molecular.status import MolecularError
from systems.molecular.model import MolecularModel


# Steps that may be run backwards from one exact frame.
_LONGEST_WAY_BACK = 500
_MOST_GROWTHS = 8


class AbstractTrajectoryGradient(eqx.Module):
    """A way to differentiate a trajectory."""


class Reversible(AbstractTrajectoryGradient):
    """The trajectory is run backwards beside its derivative: constant memory.

    Exact up to the rounding of the way back, which starts anew from each saved frame and
    at least every 500 steps.

    Source: A. Gupta et al., arXiv 2412.04374 (2024), on reversible simulation.
    """


class Checkpointed(AbstractTrajectoryGradient):
    """Reverse mode, in which the steps between checkpoints are computed again.

    - `every`: steps between checkpoints within a frame.
    """

    every: int = eqx.field(default=10, static=True)


class Forward(AbstractTrajectoryGradient):
    """Forward mode: tangents go along; the leanest for one or two parameters."""


def propagate(
    start: Start,
    around: Surroundings,
    *,
    frames: int,
    every: int,
    gradient: AbstractTrajectoryGradient,
) -> tuple[Frames, Bool[Array, ""]]:
    """Frames of constant energy, as a function that can be differentiated; under `jit` or not.

    **Arguments:**

    - `start`: model, positions and velocities, by which it can be differentiated.
    - `around`: box, neighbour list and time step, by which it cannot.
    - `frames`: how many, each `every` steps after the last; the start is none of them.
    - `gradient`: how. `Reversible` and `Checkpointed` are for reverse mode, `Forward` for
      both, with all steps kept in memory in reverse mode.

    **Returns:** the frames, and whether the list has overflown, so that they are of no use.
    """
    if isinstance(gradient, Reversible):
        return _reversible(start, around, frames, every)
    length = gradient.every if isinstance(gradient, Checkpointed) else None
    return frames_plainly(start, around, frames, every, length)


def _reversible(
    start: Start, around: Surroundings, frames: int, every: int
) -> tuple[Frames, Bool[Array, ""]]:
    # Frames between those that were asked for are anchors of the way back.
    parts = anchors_per_frame(every)
    found, lost = frames_reversibly(start, around, frames * parts, every // parts)
    return jax.tree.map(lambda values: values[parts - 1 :: parts], found), lost


def anchors_per_frame(every: int) -> int:
    """The smallest number of equal parts of a frame that the way back can take."""
    for parts in range(1, every + 1):
        if every % parts == 0 and every // parts <= _LONGEST_WAY_BACK:
            return parts
    return every


class Horizon(eqx.Module):
    """How fast small changes grow, which ends what a gradient through a trajectory can tell.

    - `steps`: numbers of steps, shape `(frames,)`.
    - `growth`: by how much a small change has grown in that many steps.
    - `exponent`: the rate of growth (Lyapunov exponent), in one over the unit of time.
    - `limit`: the growth beyond which a gradient counts as noise.
    - `horizon`: after how many steps the growth reaches the limit; infinite if it does not
      within this trajectory.
    """

    steps: np.ndarray
    growth: np.ndarray
    exponent: float
    limit: float
    horizon: float


class TrajectoryGradient(eqx.Module):
    """What a gradient through a trajectory gives.

    - `value`: the observable.
    - `gradient`: its derivative, a model with derivatives in place of its parameters.
    - `by_positions`, `by_velocities`: its derivative by the start; `None` in forward mode.
    - `horizon`: how far it can be trusted.
    """

    value: Float[Array, ""]
    gradient: MolecularModel
    by_positions: Float[Array, "particles 3"] | None
    by_velocities: Float[Array, "particles 3"] | None
    horizon: Horizon


def differentiate_trajectory(
    problem: MolecularProblem,
    observable: Callable[[MolecularModel, Frames], Float[Array, ""]],
    *,
    time_step: float,
    steps: int,
    save_every: int = 100,
    gradient: AbstractTrajectoryGradient | None = None,
    limit: float = 100.0,
    beyond_horizon: bool = False,
    skin: float | None = None,
    lists: bool | None = None,
) -> TrajectoryGradient:
    """An observable of a trajectory of constant energy, and its gradient by the parameters.

    In a liquid small changes grow exponentially, and with them this gradient: beyond a
    horizon of a few Lyapunov times it says nothing of averages. For static averages
    reweighting is better; this one is for what depends on the motion itself.

    **Arguments:**

    - `problem`: model, start and box.
    - `observable`: a function of the model and the saved frames, that gives one number.
    - `time_step`, `steps`, `save_every`: of velocity Verlet; frames are saved at each
      multiple of `save_every`, which must divide `steps`.
    - `gradient`: `Reversible()` if left out; or `Checkpointed()`, `Forward()`.
    - `limit`: by how much a small change may grow.
    - `beyond_horizon`: give the gradient although changes grow by more.
    - `skin`, `lists`: as for [`run_dynamics`][solvers.molecular.driver.run_dynamics].

    Raises `MolecularError` where changes grow by more than `limit`, unless
    `beyond_horizon`, and where the trajectory is not finite; `ValueError` for counts that
    do not divide.
    """
    if steps < 1 or save_every < 1 or steps % save_every:
        raise ValueError(
            f"differentiate_trajectory: steps is {steps} and save_every {save_every}, expected "
            "whole numbers from 1 of which the second divides the first."
        )
    model = as_arrays(problem.model, float)
    model = model.reordered(jnp.arange(model.particles, dtype=jnp.int32))
    start = Start(model, problem.positions, problem.velocities)
    box = as_arrays(problem.box, float)
    chosen = choose_skin(problem.model, problem.box, skin, lists)
    ways = {Reversible: _by_reversal, Checkpointed: _by_checkpoints, Forward: _by_tangents}
    gradient = Reversible() if gradient is None else gradient
    for growth in range(_MOST_GROWTHS):
        neighbours = None
        if chosen is not None and (reach := problem.model.range) is not None:
            spare = 1.25 * 1.3**growth
            neighbours = first_list(
                start.positions, box, reach, chosen, spare=spare, kind=kind_for("auto")
            )
        around = Surroundings(box, neighbours, jnp.asarray(time_step, float))
        value, change, sizes, lost = ways[type(gradient)](
            start, around, observable, steps // save_every, save_every, gradient
        )
        if not bool(lost):
            break
    else:
        raise RuntimeError("The neighbour list overflowed however large it was made.")
    horizon = _horizon(np.asarray(sizes), steps, time_step, limit)
    _judge(value, horizon, steps, beyond_horizon)
    by_start = (
        (None, None) if isinstance(gradient, Forward) else (change.positions, change.velocities)
    )
    return TrajectoryGradient(value, change.model, *by_start, horizon)


@eqx.filter_jit
def _by_reversal(start, around, observable, frames, every, gradient):
    del gradient
    parts = anchors_per_frame(every)
    found, lost = frames_plainly(start, around, frames * parts, every // parts, None)
    smooth, rest = eqx.partition(start.model, eqx.is_inexact_array)

    def value_of(smooth: Any, found: Frames) -> Array:
        picked = jax.tree.map(lambda values: values[parts - 1 :: parts], found)
        return observable(eqx.combine(smooth, rest), picked)

    value, (direct, given) = jax.value_and_grad(value_of, argnums=(0, 1))(smooth, found)
    change, sizes, lost_back = backward(start, around, found, given, every // parts)
    by_model = jax.tree.map(jnp.add, change.model, direct)
    change = eqx.tree_at(lambda c: c.model, change, by_model)
    # The adjoint grows on its way from the end to the start.
    return value, change, sizes[::-1], lost | lost_back


def _value(smooth, rest, around, observable, frames, every, gradient):
    start = eqx.combine(smooth, rest)
    found, lost = propagate(start, around, frames=frames, every=every, gradient=gradient)
    return observable(start.model, found), lost


def _growth(start, around, frames, every) -> Float[Array, " frames"]:
    """The size of a small change of the positions after each frame."""
    direction = jax.random.normal(jax.random.key(0), start.positions.shape)
    direction = direction * 1e-3

    def positions_from(positions: Array) -> Array:
        moved = Start(start.model, positions, start.velocities)
        return frames_plainly(moved, around, frames, every, None)[0].positions

    _, change = jax.jvp(positions_from, (start.positions,), (direction,))
    return jnp.sqrt(jnp.sum(change**2, axis=(1, 2)))


@eqx.filter_jit
def _by_checkpoints(start, around, observable, frames, every, gradient):
    smooth, rest = eqx.partition(start, eqx.is_inexact_array)
    (value, lost), change = jax.value_and_grad(_value, has_aux=True)(
        smooth, rest, around, observable, frames, every, gradient
    )
    return value, change, _growth(start, around, frames, every), lost


@eqx.filter_jit
def _by_tangents(start, around, observable, frames, every, gradient):
    smooth, rest = eqx.partition(start.model, eqx.is_inexact_array)
    # Masses have many components, which forward mode would take one by one.
    smooth = eqx.tree_at(lambda m: m.masses, smooth, None)
    other = eqx.tree_at(
        lambda m: m.masses, rest, start.model.masses, is_leaf=lambda x: x is None
    )

    def value_of(smooth: Any) -> Any:
        whole = eqx.tree_at(lambda s: s.model, start, eqx.combine(smooth, other))
        found, lost = propagate(whole, around, frames=frames, every=every, gradient=gradient)
        value = observable(whole.model, found)
        return value, (value, lost)

    change, (value, lost) = jax.jacfwd(value_of, has_aux=True)(smooth)
    empty = Start(change, start.positions, start.velocities)
    return value, empty, _growth(start, around, frames, every), lost


def _horizon(sizes: np.ndarray, steps: int, time_step: float, limit: float) -> Horizon:
    counts = np.linspace(steps / len(sizes), steps, len(sizes))
    growth = sizes / sizes[0] if sizes[0] > 0 else np.ones_like(sizes)
    exponent = math.nan
    if len(sizes) > 1 and np.all(np.isfinite(growth)) and np.all(growth > 0):
        exponent = float(np.polyfit(counts * time_step, np.log(growth), 1)[0])
    beyond = np.flatnonzero(~(growth <= limit))
    horizon = float(counts[beyond[0]]) if beyond.size else math.inf
    return Horizon(counts, growth, exponent, limit, horizon)


def _judge(value: Array, horizon: Horizon, steps: int, beyond_horizon: bool) -> None:
    if not np.isfinite(float(value)):
        raise MolecularError(
            f"The observable is {float(value)}: the trajectory is not finite within {steps} "
            "steps. Take a smaller time step."
        )
    if beyond_horizon or not math.isfinite(horizon.horizon):
        return
    raise MolecularError(
        f"The gradient through {steps} steps is noise: a small change grows by a factor of "
        f"{horizon.limit:.3g} within {horizon.horizon:.0f} steps and by "
        f"{horizon.growth[-1]:.3g} to the end (Lyapunov time "
        f"{1 / horizon.exponent:.3g}). Take fewer steps than {horizon.horizon:.0f}, or "
        "reweight; beyond_horizon=True gives it all the same."
    )
