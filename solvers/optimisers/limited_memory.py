"""A limited-memory model of the Hessian, and its minimiser between bounds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from solvers.optimisers.base import choose
from solvers.optimisers.flat_objective import Scalar, Vector


class Pairs(NamedTuple):
    r"""The last steps and changes of gradient, each pair divided by the length of its step.

    `count` of the rows hold something, the newest in the last; the others are zero. The
    Hessian is modelled as $\theta I - W M W^T$.

    Reference: R. H. Byrd, J. Nocedal and R. B. Schnabel, Math. Program. 63, 129 (1994).
    """

    steps: Float[Array, "memory n"]
    changes: Float[Array, "memory n"]
    count: Int[Array, ""]


class Model(NamedTuple):
    """The compact form: `theta`, `wide` (W, as rows) and `middle` (M)."""

    theta: Scalar
    wide: Float[Array, "twice_memory n"]
    middle: Float[Array, "twice_memory twice_memory"]


def no_pairs(x: Vector, memory: int) -> Pairs:
    """Nothing known yet."""
    empty = jnp.zeros((memory, x.size), x.dtype)
    return Pairs(empty, empty, jnp.asarray(0))


def remember(pairs: Pairs, step: Vector, change: Vector) -> Pairs:
    """With a newer pair, unless its curvature is not safely positive."""
    size = jnp.linalg.norm(step)
    divisor = choose(size > 0, size, 1.0)
    step, change = step / divisor, change / divisor
    curvature = jnp.dot(step, change)
    useful = curvature > jnp.finfo(step.dtype).eps * jnp.dot(change, change)
    useful = useful & jnp.isfinite(curvature) & (size > 0)

    def push(rows: Float[Array, "memory n"], new: Vector) -> Float[Array, "memory n"]:
        return jnp.where(useful, jnp.concatenate([rows[1:], new[None]]), rows)

    memory = pairs.steps.shape[0]
    count = jnp.minimum(pairs.count + useful, memory)
    return Pairs(push(pairs.steps, step), push(pairs.changes, change), count)


def compact(pairs: Pairs) -> Model:
    """The compact form of the model."""
    steps, changes, count = pairs
    memory = steps.shape[0]
    empty = jnp.arange(memory) < memory - count
    products = steps @ changes.T
    newest = changes[-1]
    ratio = jnp.dot(newest, newest) / jnp.where(count > 0, products[-1, -1], 1.0)
    theta = jnp.where(count > 0, ratio, 1.0)
    filler = jnp.diag(empty.astype(steps.dtype))
    below = jnp.tril(products, -1)
    diagonal = jnp.diag(jnp.diagonal(products)) + filler
    inner = theta * (steps @ steps.T + filler)
    middle = jnp.block([[-diagonal, below.T], [below, inner]])
    # Rows and columns are brought to size one before inversion.
    weights = 1 / jnp.sqrt(jnp.abs(jnp.diagonal(middle)))
    scaled = jnp.linalg.inv(middle * weights[:, None] * weights[None, :])
    wide = jnp.concatenate([changes, theta * steps])
    return Model(theta, wide, scaled * weights[:, None] * weights[None, :])


def cauchy_point(
    x: Vector, gradient: Vector, model: Model, lower: Vector, upper: Vector
) -> tuple[Vector, Vector]:
    r"""The first minimum of the model on the projected path of steepest descent.

    Returns the point and $W^T (x_c - x)$.

    Reference: R. H. Byrd, P. Lu, J. Nocedal and C. Zhu, SIAM J. Sci. Comput. 16, 1190
    (1995), algorithm CP.
    """
    theta, wide, middle = model
    away = jnp.where(gradient < 0, x - upper, x - lower)
    breaks = jnp.where(gradient == 0, jnp.inf, away / jnp.where(gradient == 0, 1.0, gradient))
    direction = jnp.where(breaks > 0, -gradient, 0.0)
    order = jnp.argsort(breaks)
    times = breaks[order]
    first = jnp.sum(times <= 0)
    along = wide @ direction
    slope = -jnp.dot(direction, direction)
    bend = -theta * slope - along @ middle @ along

    def best(slope: Scalar, bend: Scalar) -> Scalar:
        return jnp.where(bend > 0, -slope / jnp.where(bend > 0, bend, 1.0), jnp.inf)

    def going(carry):
        index, now, _, slope, bend, _, _ = carry
        inside = index < x.size
        upcoming = times[jnp.minimum(index, x.size - 1)]
        return inside & (now + best(slope, bend) > upcoming) & (slope < 0)

    def cross(carry):
        index, now, moved, slope, bend, along, travelled = carry
        which, upcoming = order[index], times[index]
        passed = upcoming - now
        travelled = travelled + passed * along
        row, g = wide[:, which], gradient[which]
        offset = jnp.where(g < 0, upper[which], lower[which]) - x[which]
        slope = (
            slope + passed * bend + g**2 + theta * g * offset - g * (row @ middle @ travelled)
        )
        bend = (
            bend - theta * g**2 - 2 * g * (row @ middle @ along) - g**2 * (row @ middle @ row)
        )
        along = along + g * row
        return index + 1, upcoming, moved.at[which].set(True), slope, bend, along, travelled

    held = breaks <= 0
    start = (first, jnp.zeros_like(theta), held, slope, bend, along, jnp.zeros_like(along))
    _, now, held, slope, bend, _, _ = jax.lax.while_loop(going, cross, start)
    rest = jnp.where(slope < 0, best(slope, bend), 0.0)
    rest = jnp.where(jnp.isfinite(rest), rest, 0.0)
    point = x + (now + rest) * direction
    bound = jnp.where(gradient < 0, upper, lower)
    point = jnp.where(held & (direction != 0), bound, jnp.where(direction == 0, x, point))
    point = jnp.clip(point, lower, upper)
    return point, wide @ (point - x)


def subspace_point(
    x: Vector,
    gradient: Vector,
    model: Model,
    cauchy: tuple[Vector, Vector],
    lower: Vector,
    upper: Vector,
) -> Vector:
    """The minimiser of the model over what is free at the Cauchy point, projected.

    Where the projection spoils the descent the step is cut at the first bound instead:
    J. L. Morales and J. Nocedal, ACM Trans. Math. Softw. 38, 7 (2011).
    """
    theta, wide, middle = model
    point, travelled = cauchy
    free = (point > lower) & (point < upper)
    reduced = gradient + theta * (point - x) - wide.T @ (middle @ travelled)
    reduced = jnp.where(free, reduced, 0.0)
    inner = jnp.where(free[None, :], wide, 0.0)
    system = jnp.eye(middle.shape[0], dtype=x.dtype) - middle @ (inner @ inner.T) / theta
    correction = jnp.linalg.solve(system, middle @ (inner @ reduced))
    step = -reduced / theta - inner.T @ correction / theta**2
    step = choose(free & jnp.isfinite(step), step, 0.0)
    projected = jnp.clip(point + step, lower, upper)
    room = jnp.where(step > 0, upper - point, lower - point)
    shares = choose(step == 0, jnp.inf, room / choose(step == 0, 1.0, step))
    cut = jnp.clip(point + jnp.minimum(1.0, jnp.min(shares)) * step, lower, upper)
    descends = jnp.dot(projected - x, gradient) < 0
    return jnp.where(descends, projected, cut)
