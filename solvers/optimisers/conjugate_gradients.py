"""Conjugate gradients that stop at a trust radius, a bound or negative curvature."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from solvers.optimisers.base import choose
from solvers.optimisers.flat_objective import Scalar, Vector, binding
from solvers.optimisers.subproblems import norm_of


ROUNDS = 20
"""Times that conjugate gradients go on along a bound that they met, at most."""


class Quadratic(NamedTuple):
    """The model around `x`: a gradient and products with a symmetric matrix.

    Lengths are measured after multiplication with `scale`.
    """

    x: Vector
    gradient: Vector
    product: Callable[[Vector], Vector]
    scale: Vector


class TruncatedStep(NamedTuple):
    """An approximate minimiser of the model.

    - `step`, `slope`, `bend`: the step $s$, $g^T s$ and $s^T H s$.
    - `newton`: neither radius, curvature, bounds nor the limit of products cut it.
    - `cut`: the radius cut it.
    - `negative`: a direction of negative curvature was met.
    - `largest`: the largest curvature met.
    - `products`: how many were taken.
    """

    step: Vector
    slope: Scalar
    bend: Scalar
    newton: Bool[Array, ""]
    cut: Bool[Array, ""]
    negative: Bool[Array, ""]
    largest: Scalar
    products: Int[Array, ""]


class _Task(NamedTuple):
    """What stays the same while a step is sought.

    - `gradient`: of the model, or the probe in its place.
    - `held`: parameters that a bound holds.
    - `room`: how far each parameter may go down and up, scaled.
    - `radius`, `tolerance`: lengths of the scaled step and of the scaled residual.
    - `limit`: products that one run of conjugate gradients may take.
    - `probing`: only the curvature counts.
    """

    model: Quadratic
    gradient: Vector
    held: Bool[Array, " n"]
    room: tuple[Vector, Vector]
    radius: Scalar
    tolerance: Scalar
    limit: int
    probing: Bool[Array, ""]

    def product(self, v: Vector) -> Vector:
        """With the scaled matrix."""
        return self.model.product(v / self.model.scale) / self.model.scale


class _Search(NamedTuple):
    """The iteration: point, residual (gradient of the model) and direction, all scaled."""

    point: Vector
    residual: Vector
    direction: Vector
    count: Int[Array, ""]
    going: Bool[Array, ""]
    cut: Bool[Array, ""]
    negative: Bool[Array, ""]
    solved: Bool[Array, ""]
    met: Bool[Array, ""]
    largest: Scalar


class _Reached(NamedTuple):
    """A step on its way along bounds: its product, products taken, and the last search."""

    step: Vector
    curved: Vector
    products: Int[Array, ""]
    search: _Search


def truncated_step(
    model: Quadratic,
    radius: Scalar,
    bounds: tuple[Vector, Vector],
    probe: Vector,
    first_slope: Scalar,
    limit: int,
    wanted: Array,
) -> TruncatedStep:
    """Minimise the model approximately, between bounds.

    Where `probe` is not zero it stands in for the gradient: the search then looks for
    negative curvature alone. Without `wanted` no product is taken and the step is zero.
    With bounds, the search begins at the best point on the projected gradient, stops
    where it meets a bound, and goes on along it.
    """
    task = _task(model, radius, bounds, probe, first_slope, limit)
    finite = jnp.any(jnp.isfinite(bounds[0]) | jnp.isfinite(bounds[1]))
    zeros = jnp.zeros_like(model.x)
    begin = jax.lax.cond(
        wanted & ~task.probing & finite,
        lambda: _projected_gradient(model, task.held, radius, bounds),
        lambda: (zeros, zeros, jnp.asarray(0)),
    )
    reached = _along_bounds(task, begin, wanted)
    end = reached.search
    leaves = task.probing & end.negative
    escape = choose(end.negative, _escape(model, end.direction, radius, bounds), 0.0)
    step = choose(task.probing, escape, reached.step)
    curved = jax.lax.cond(leaves, lambda: model.product(step), lambda: reached.curved)
    return TruncatedStep(
        step=step,
        slope=jnp.dot(model.gradient, step),
        bend=jnp.dot(step, curved),
        newton=end.solved & ~task.probing,
        cut=end.cut | end.negative,
        negative=end.negative,
        largest=end.largest,
        products=reached.products + leaves,
    )


def _task(
    model: Quadratic,
    radius: Scalar,
    bounds: tuple[Vector, Vector],
    probe: Vector,
    first_slope: Scalar,
    limit: int,
) -> _Task:
    """How well the model is to be minimised, and how far a step may go."""
    lower, upper = bounds
    x, scale = model.x, model.scale
    probing = jnp.any(probe != 0)
    held = binding(x, model.gradient, lower, upper)
    gradient = jnp.where(probing, jnp.where(held, 0.0, probe * scale), model.gradient)
    slope = norm_of(jnp.where(held, 0.0, gradient) / scale)
    forcing = jnp.minimum(0.1, jnp.sqrt(slope / jnp.maximum(first_slope, slope)))
    forcing = jnp.where(probing, 1e-3, forcing)
    room = (lower - x) * scale, (upper - x) * scale
    room = choose(probing, (room[0] - jnp.inf, room[1] + jnp.inf), room)
    return _Task(model, gradient, held, room, radius, forcing * slope, limit, probing)


def _along_bounds(
    task: _Task, begin: tuple[Vector, Vector, Int[Array, ""]], wanted: Array
) -> _Reached:
    """Conjugate gradients that go on along each bound that they meet."""
    scale, room = task.model.scale, task.room

    def going(carry: tuple[_Reached, Array, Array]) -> Array:
        _, more, count = carry
        return more & (count < ROUNDS)

    def advance(carry: tuple[_Reached, Array, Array]) -> tuple[_Reached, Array, Array]:
        (step, curved, products, _), _, count = carry
        pull = task.gradient + curved
        fixed = (step * scale <= room[0]) & (pull > 0) | (step * scale >= room[1]) & (pull < 0)
        fixed = fixed | task.held
        end = _search(
            _start(step * scale, choose(fixed, 0.0, pull / scale), wanted), fixed, task
        )
        whole = jnp.clip(end.point, *room) / scale
        # Residuals of fixed parameters are not carried along; take them anew.
        anew = jnp.any(fixed) & ~task.probing
        curved = jax.lax.cond(
            anew,
            lambda: task.model.product(whole),
            lambda: jnp.where(task.probing, curved, end.residual * scale - task.gradient),
        )
        outcome = end._replace(solved=end.solved & (count == 0))
        reached = _Reached(whole, curved, products + end.count + anew, outcome)
        return reached, end.met, count + 1

    zeros = jnp.zeros_like(task.model.x)
    nothing = _start(zeros, zeros, jnp.asarray(False))
    start = (_Reached(*begin, nothing), wanted, jnp.asarray(0))
    return jax.lax.while_loop(going, advance, start)[0]


def _projected_gradient(
    model: Quadratic, held: Array, radius: Scalar, bounds: tuple[Vector, Vector]
) -> tuple[Vector, Vector, Int[Array, ""]]:
    """The best step towards the projection of the longest step of steepest descent.

    With its product, and the count of products.
    """
    descent = -jnp.where(held, 0.0, model.gradient) / model.scale**2
    length = norm_of(model.scale * descent)
    whole = model.x + descent * radius / jnp.where(length > 0, length, 1.0)
    way = jnp.clip(whole, *bounds) - model.x
    curved = model.product(way)
    slope, bend = jnp.dot(model.gradient, way), jnp.dot(way, curved)
    share = jnp.where(bend > 0, jnp.minimum(-slope / jnp.where(bend > 0, bend, 1.0), 1.0), 1.0)
    return share * way, share * curved, jnp.asarray(1)


def _escape(
    model: Quadratic, direction: Vector, radius: Scalar, bounds: tuple[Vector, Vector]
) -> Vector:
    """The way out of a saddle point: as long as the radius, downhill, between bounds."""
    length = norm_of(direction)
    out = direction / model.scale * radius / jnp.where(length > 0, length, 1.0)
    out = out * jnp.where(jnp.dot(model.gradient, out) > 0, -1.0, 1.0)
    return jnp.clip(model.x + out, *bounds) - model.x


def _start(point: Vector, residual: Vector, wanted: Array) -> _Search:
    """Conjugate gradients before their first product."""
    no = jnp.zeros_like(wanted)
    zero = jnp.zeros((), point.dtype)
    going = wanted & jnp.any(residual != 0)
    solved = wanted & ~going
    return _Search(point, residual, -residual, jnp.asarray(0), going, no, no, solved, no, zero)


def _search(start: _Search, fixed: Array, task: _Task) -> _Search:
    """Conjugate gradients from a start until solved, cut, or out of products."""
    room, radius, probing = task.room, task.radius, task.probing
    limit = min(task.limit, 2 * start.point.size + 5)
    epsilon = jnp.finfo(start.point.dtype).eps

    def improve(at: _Search) -> _Search:
        p = at.direction
        curved = jnp.where(fixed, 0.0, task.product(p))
        squared, bend = jnp.dot(p, p), jnp.dot(p, curved)
        curvature = bend / squared
        largest = jnp.maximum(at.largest, jnp.abs(curvature))
        level = curvature <= 1e2 * epsilon * largest
        # What rounding may have turned negative is no way out of a saddle point.
        concave = curvature < -jnp.sqrt(epsilon) * largest
        negative = jnp.where(probing, concave, level)
        share = jnp.dot(at.residual, at.residual) / jnp.where(level, 1.0, bend)
        reach = norm_of(at.point + share * p)
        # A probe has no use for the radius: only the curvature counts.
        cut = ~negative & (reach >= radius) & ~probing
        edge = _to_radius(at.point, p, radius)
        share = jnp.where(negative | cut, jnp.where(probing, 0.0, edge), share)
        allowed = jnp.where(p > 0, room[1] - at.point, room[0] - at.point)
        allowed = jnp.where(p == 0, jnp.inf, allowed / jnp.where(p == 0, 1.0, p))
        first = jnp.maximum(jnp.min(jnp.where(fixed, jnp.inf, allowed)), 0.0)
        met = first < share
        share = jnp.minimum(share, first)
        point, residual = at.point + share * p, at.residual + share * curved
        # What meets a bound stands on it exactly.
        reached = met & (allowed <= first) & ~fixed
        point = jnp.where(reached, jnp.where(p > 0, room[1], room[0]), point)
        solved = (norm_of(residual) <= task.tolerance) | (probing & level)
        solved = solved & ~negative & ~cut & ~met
        ratio = jnp.dot(residual, residual) / jnp.dot(at.residual, at.residual)
        ends = solved | negative | cut | met | (at.count + 1 >= limit)
        direction = jnp.where(ends, p, -residual + ratio * p)
        return _Search(
            point,
            residual,
            direction,
            at.count + 1,
            ~ends,
            cut & ~met,
            negative & ~met,
            solved,
            met,
            largest,
        )

    return jax.lax.while_loop(lambda at: at.going, improve, start)


def _to_radius(point: Vector, direction: Vector, radius: Scalar) -> Scalar:
    """How far along a direction the radius is met."""
    a, b = jnp.dot(direction, direction), jnp.dot(point, direction)
    c = jnp.minimum(jnp.dot(point, point) - radius**2, 0.0)
    root = jnp.sqrt(jnp.maximum(b**2 - a * c, 0.0))
    # The form without cancellation, by the sign of b.
    far = jnp.where(b > 0, -c / jnp.where(b > 0, b + root, 1.0), (root - b) / a)
    return jnp.maximum(far, 0.0)
