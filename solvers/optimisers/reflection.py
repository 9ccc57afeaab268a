r"""Steps between bounds: Coleman-Li scaling, and steps that a bound reflects.

Near a bound towards which the objective falls, variables are scaled by the square root of
the distance to it, so that steps shrink there and the first-order conditions become smooth
equations. A step that leaves the bounds competes with its reflection and with the scaled
gradient; the model chooses.

References: M. A. Branch, T. F. Coleman and Y. Li, SIAM J. Sci. Comput. 21, 1 (1999);
T. F. Coleman and Y. Li, SIAM J. Optim. 6, 418 (1996).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from solvers.optimisers.damping import Factors, model_change


Vector = Float[Array, " n"]
Scalar = Float[Array, ""]


def distances(
    y: Vector, gradient: Vector, lower: Vector, upper: Vector
) -> tuple[Vector, Bool[Array, " n"]]:
    """Distance to the bound towards which the objective falls, and where there is one.

    It is 1 for variables without a bound on that side.
    """
    downwards = (gradient > 0) & jnp.isfinite(lower)
    upwards = (gradient < 0) & jnp.isfinite(upper)
    apart = jnp.where(downwards, y - lower, jnp.where(upwards, upper - y, 1.0))
    return apart, downwards | upwards


def interior(y: Vector, lower: Vector, upper: Vector, margin: float) -> Vector:
    """The nearest point strictly between the bounds, where they leave room.

    `margin` is the relative distance to keep; zero keeps one unit in the last place.
    """
    if margin > 0:
        room = jnp.where(jnp.isfinite(upper - lower), 0.5 * (upper - lower), jnp.inf)
        low = lower + jnp.minimum(margin * jnp.maximum(1.0, jnp.abs(lower)), room)
        high = upper - jnp.minimum(margin * jnp.maximum(1.0, jnp.abs(upper)), room)
    else:
        low = jnp.nextafter(lower, jnp.full_like(lower, jnp.inf))
        high = jnp.nextafter(upper, jnp.full_like(upper, -jnp.inf))
    # An infinite bound needs no distance, and equal bounds leave no room for one.
    low = jnp.where(jnp.isfinite(lower), low, lower)
    high = jnp.where(jnp.isfinite(upper), high, upper)
    return jnp.where(low <= high, jnp.clip(y, low, high), jnp.clip(y, lower, upper))


def reach(y: Vector, step: Vector, lower: Vector, upper: Vector) -> tuple[Scalar, Array]:
    """The multiple of a step that hits the first bound, and which variables hit it."""
    moving = step != 0
    safe = jnp.where(moving, step, 1.0)
    ahead = jnp.where(step > 0, upper, lower)
    multiples = jnp.where(moving, jnp.maximum((ahead - y) / safe, 0.0), jnp.inf)
    nearest = jnp.min(multiples)
    return nearest, (multiples == nearest) & jnp.isfinite(nearest)


def within_sphere(start: Vector, direction: Vector, radius: Scalar) -> Scalar:
    """The multiple of a direction at which a path from inside leaves the trust radius."""
    a = direction @ direction
    b = start @ direction
    c = jnp.minimum(start @ start - radius**2, 0.0)
    root = jnp.sqrt(jnp.maximum(b * b - a * c, 0.0))
    return jnp.where(a > 0, (root - b) / jnp.where(a > 0, a, 1.0), 0.0)


def _best_multiple(
    factors: Factors,
    gradient: Vector,
    start: Vector,
    direction: Vector,
    low: Array,
    high: Array,
) -> Vector:
    """The point of a straight path, between two multiples, where the model is lowest."""
    bend = jnp.square(factors.values * (factors.vectors.T @ direction)).sum()
    matrix_start = factors.vectors @ (factors.values**2 * (factors.vectors.T @ start))
    slope = (gradient + matrix_start) @ direction
    lowest = jnp.where(bend > 0, -slope / jnp.where(bend > 0, bend, 1.0), high)
    return start + jnp.clip(lowest, low, high) * direction


def bounded_step(
    factors: Factors,
    gradient: Vector,
    step: Vector,
    y: Vector,
    unscale: Vector,
    radius: Scalar,
    lower: Vector,
    upper: Vector,
    keep: Scalar,
) -> tuple[Vector, Bool[Array, ""]]:
    """The step to take between the bounds, and whether the given one could be kept.

    `gradient` and `step` are in scaled variables, of which `unscale` makes parameters;
    `keep` is the fraction of the way to a bound that a step may go.
    """
    free, hit = reach(y, unscale * step, lower, upper)
    inside = free >= 1
    touching = jnp.minimum(free, 1.0) * step
    shortened = keep * touching
    mirrored = jnp.where(hit, -step, step)
    beyond, _ = reach(y + unscale * touching, unscale * mirrored, lower, upper)
    longest = jnp.minimum(keep * beyond, within_sphere(touching, mirrored, radius))
    shortest = (1 - keep) * jnp.minimum(free, 1.0)
    reflected = _best_multiple(
        factors, gradient, touching, mirrored, jnp.minimum(shortest, longest), longest
    )
    downhill = -gradient
    room, _ = reach(y, unscale * downhill, lower, upper)
    limit = jnp.minimum(keep * room, within_sphere(jnp.zeros_like(step), downhill, radius))
    cauchy = _best_multiple(
        factors, gradient, jnp.zeros_like(step), downhill, jnp.zeros_like(limit), limit
    )
    candidates = jnp.stack([shortened, reflected, cauchy])
    changes = jnp.stack([model_change(factors, gradient, c) for c in candidates])
    possible = jnp.stack([jnp.asarray(True), longest > shortest, jnp.asarray(True)])
    chosen = candidates[jnp.argmin(jnp.where(possible, changes, jnp.inf))]
    return jnp.where(inside, step, chosen), inside
