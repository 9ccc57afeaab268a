"""Exact minimisers of a quadratic model, with a limit of length and between bounds.

For problems small enough for an eigendecomposition per iteration.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from solvers.optimisers.base import choose
from solvers.optimisers.flat_objective import Matrix, Scalar, Vector, binding


class Length(NamedTuple):
    """How long a step may be for a shift of the Hessian: `fixed + growth * shift`.

    A trust region has its radius and no growth; a cubic term with weight `w` has the
    growth `1 / w` and nothing fixed.
    """

    fixed: Scalar
    growth: Scalar


class ModelStep(NamedTuple):
    """The minimiser of a model.

    - `step`: the displacement.
    - `newton`: the full Newton step was taken: the model is convex, and neither the
      length nor a new bound cut the step.
    - `lowest`: the lowest eigenvalue of the free part, as a fraction of the largest.
    - `flat`: neither slope nor curvature.
    """

    step: Vector
    newton: Bool[Array, ""]
    lowest: Scalar
    flat: Bool[Array, ""]


def exact_step(gradient: Vector, hessian: Matrix, size: Scalar, length: Length) -> ModelStep:
    r"""The global minimiser of $g^T s + \tfrac12 s^T H s$ under a limit of length.

    Eigenvalues within rounding of zero count as zero, and slopes along them that rounding
    of the parameters explains (`size` is their norm) are left alone: directions on which
    the objective does not depend are not searched. In the hard case, where the slope
    along the lowest curvature vanishes, the step is filled up along it.

    Reference: J. J. Moré and D. C. Sorensen, SIAM J. Sci. Stat. Comput. 4, 553 (1983); the
    cubic term: C. Cartis, N. I. M. Gould and P. L. Toint, Math. Program. 127, 245 (2011).
    """
    n = gradient.size
    tiny = jnp.finfo(gradient.dtype).tiny
    eigenvalues, vectors = jnp.linalg.eigh(hessian)
    slopes = gradient @ vectors
    largest = jnp.max(jnp.abs(eigenvalues))
    floor = n * jnp.finfo(gradient.dtype).eps * largest
    null = jnp.abs(eigenvalues) <= floor
    inert = null & (jnp.abs(slopes) <= floor * size)
    eigenvalues = choose(null, 0.0, eigenvalues)
    slopes = choose(inert, 0.0, slopes)
    lowest = jnp.min(eigenvalues)
    base = jnp.maximum(-lowest, 0.0)
    gaps = eigenvalues + base

    def step_at(extra: Scalar) -> Vector:
        return choose(slopes == 0, 0.0, -slopes / jnp.maximum(gaps + extra, tiny))

    newton = step_at(jnp.zeros_like(base))
    allowed = length.fixed + length.growth * base
    newton_norm = norm_of(newton)
    fits = (lowest >= 0) & (newton_norm <= length.fixed)
    extra = _shift(slopes, gaps, base, length)
    shifted = step_at(extra)
    shifted_norm = norm_of(shifted)
    short = (lowest < 0) & (shifted_norm < 0.999 * allowed)
    missing = jnp.sqrt(jnp.maximum(allowed**2 - shifted_norm**2, 0.0))
    side = jnp.where(slopes[0] > 0, -1.0, 1.0)
    fill = jnp.where(jnp.arange(n) == 0, side * missing, 0.0).astype(gradient.dtype)
    chosen = jnp.where(fits, newton, shifted + jnp.where(short, fill, 0.0))
    whole = (lowest >= 0) & (norm_of(chosen) >= 0.5 * newton_norm)
    flat = (largest == 0) & jnp.all(slopes == 0)
    return ModelStep(vectors @ chosen, whole, lowest / jnp.maximum(largest, tiny), flat)


def norm_of(x: Vector) -> Scalar:
    """The Euclidean norm, safe against overflow of the squares."""
    largest = jnp.max(jnp.abs(x))
    divisor = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    return jnp.where(
        jnp.isfinite(largest), divisor * jnp.sqrt(jnp.sum((x / divisor) ** 2)), largest
    )


def _shift(slopes: Vector, gaps: Vector, base: Scalar, length: Length) -> Scalar:
    """The `extra` at which the step is as long as allowed; tiny where there is none.

    By safeguarded Newton steps on the difference of reciprocal lengths.
    """
    tiny = jnp.finfo(slopes.dtype).tiny
    norm = norm_of(slopes)
    fixed, growth = length.fixed + length.growth * base, length.growth
    by_length = norm / jnp.maximum(fixed, tiny)
    by_growth = jnp.sqrt(norm / jnp.maximum(growth, tiny))
    high = jnp.maximum(
        jnp.where(growth > 0, jnp.minimum(by_length, by_growth), by_length), 1e-30
    )
    low = high * jnp.finfo(slopes.dtype).eps ** 2

    def residual(extra: Scalar) -> tuple[Scalar, Scalar, Scalar]:
        parts = slopes / jnp.maximum(gaps + extra, tiny)
        size, limit = norm_of(parts), fixed + growth * extra
        bend = jnp.sum((parts / jnp.maximum(size, tiny)) ** 2 / jnp.maximum(gaps + extra, tiny))
        # Of 1/limit - 1/size, times their product; and of its derivative.
        slope = bend * limit + growth * size / jnp.maximum(limit, tiny)
        return size - limit, slope, limit

    def going(carry: tuple[Scalar, Scalar, Scalar, Array, Array]) -> Array:
        *_, count, found = carry
        return ~found & (count < 60)

    def improve(carry: tuple[Scalar, Scalar, Scalar, Array, Array]):
        extra, low, high, count, _ = carry
        excess, slope, limit = residual(extra)
        low, high = jnp.where(excess > 0, extra, low), jnp.where(excess > 0, high, extra)
        proposal = extra + excess / jnp.maximum(slope, tiny)
        inside = (proposal > low) & (proposal < high)
        found = (jnp.abs(excess) <= 1e-6 * limit) | (high <= low * (1 + 1e-12))
        following = jnp.where(inside, proposal, jnp.sqrt(low) * jnp.sqrt(high))
        return jnp.where(found, extra, following), low, high, count + 1, found

    start = (jnp.sqrt(low) * jnp.sqrt(high), low, high, jnp.asarray(0), jnp.asarray(False))
    return jax.lax.while_loop(going, improve, start)[0]


def model_decrease(gradient: Vector, hessian: Matrix, step: Vector) -> Scalar:
    """How far the quadratic model falls along a step."""
    return -jnp.dot(gradient, step) - 0.5 * jnp.dot(step, hessian @ step)


def cubic_term(scaled_step: Vector, length: Length) -> Scalar:
    """What the cubic term adds to the model; zero for a trust region."""
    growth = jnp.where(length.growth > 0, length.growth, 1.0)
    return jnp.where(length.growth > 0, norm_of(scaled_step) ** 3 / (3 * growth), 0.0)


def bounded_step(
    x: Vector,
    gradient: Vector,
    hessian: Matrix,
    scale: Vector,
    length: Length,
    lower: Vector,
    upper: Vector,
) -> ModelStep:
    """The minimiser of the model over the parameters that no bound holds.

    Lengths are measured after multiplication with `scale`. A step that meets a bound
    stops there, holds that parameter, and goes on with the others; the better of this
    and of the best point on the projected path of steepest descent is returned, so that
    the method converges to points where the projected gradient vanishes: C.-J. Lin and
    J. J. Moré, SIAM J. Optim. 9, 1100 (1999).
    """
    held = binding(x, gradient, lower, upper)
    model = _Model(x, gradient, hessian, scale, length)
    found = _along_bounds(model, held, lower, upper)
    cauchy = _projected_descent(model, held, lower, upper)
    better = (model.fall(cauchy) > model.fall(found.step)) & ~found.newton
    return found._replace(step=jnp.where(better, cauchy, found.step))


class _Model(NamedTuple):
    """The model about `x`, and the limit of lengths, which are measured in `scale`."""

    x: Vector
    gradient: Vector
    hessian: Matrix
    scale: Vector
    length: Length

    def fall(self, step: Vector) -> Scalar:
        """How far the model falls, the cubic term included."""
        quadratic = model_decrease(self.gradient, self.hessian, step)
        return quadratic - cubic_term(self.scale * step, self.length)

    def minimiser(self, step: Vector, held: Bool[Array, " n"]) -> ModelStep:
        """The best step among those that agree with `step` where it is held."""
        scaled = self.hessian / (self.scale[:, None] * self.scale[None, :])
        displaced = jnp.where(held, step, 0.0)
        slope = (self.gradient + self.hessian @ displaced) / self.scale
        # A held direction keeps a curvature like that of the others, and no slope.
        filler = jnp.max(jnp.abs(jnp.diagonal(scaled)))
        either = held[:, None] | held[None, :]
        identity = jnp.eye(self.x.size, dtype=self.x.dtype)
        reduced = jnp.where(either, identity * filler, scaled)
        size = norm_of(self.scale * self.x)
        found = exact_step(jnp.where(held, 0.0, slope), reduced, size, self.length)
        return found._replace(step=jnp.where(held, step, found.step / self.scale))


def _along_bounds(
    model: _Model, held: Bool[Array, " n"], lower: Vector, upper: Vector
) -> ModelStep:
    """The step that goes on along each bound that it meets."""
    x = model.x

    def going(carry: tuple[ModelStep, Bool[Array, " n"], Array, Array]) -> Array:
        _, held, more, _ = carry
        return more & ~jnp.all(held)

    def extend(carry: tuple[ModelStep, Bool[Array, " n"], Array, Array]):
        reached, held, _, count = carry
        target = model.minimiser(reached.step, held)
        move = target.step - reached.step
        room = jnp.where(move > 0, upper - x, lower - x) - reached.step
        share = jnp.where(held | (move == 0), jnp.inf, room / jnp.where(move == 0, 1.0, move))
        first = jnp.maximum(jnp.min(share), 0.0)
        hit = (share <= first) & (first < 1)
        step = jnp.where(
            hit, reached.step + room, reached.step + jnp.minimum(first, 1.0) * move
        )
        step = jnp.where(first < 1, step, target.step)
        more = jnp.any(hit)
        return (
            target._replace(step=step, newton=target.newton & (count == 0) & ~more),
            (held | hit),
            more,
            count + 1,
        )

    no = jnp.asarray(False)
    nothing = ModelStep(jnp.zeros_like(x), no, jnp.zeros((), x.dtype), no)
    start = (nothing, held, jnp.asarray(True), jnp.asarray(0))
    found, *_ = jax.lax.while_loop(going, extend, start)
    # With all parameters held there is no slope left: the full Newton step is none.
    return found._replace(newton=found.newton | jnp.all(held))


def _projected_descent(
    model: _Model, held: Bool[Array, " n"], lower: Vector, upper: Vector
) -> Vector:
    """The best of some points on the projected path of steepest descent."""
    x, scale, length = model.x, model.scale, model.length
    descent = -jnp.where(held, 0.0, model.gradient) / scale**2
    norm = norm_of(scale * descent)
    # Along the slope alone, the cubic term ends the step where both are equal.
    reach = (length.fixed + jnp.sqrt(length.growth * norm)) / jnp.where(norm > 0, norm, 1.0)
    shares = reach * 0.5 ** jnp.arange(20, dtype=x.dtype)

    def projected(share: Scalar) -> tuple[Scalar, Vector]:
        step = jnp.clip(x + share * descent, lower, upper) - x
        return model.fall(step), step

    falls, steps = jax.vmap(projected)(shares)
    return steps[jnp.argmax(jnp.where(jnp.isnan(falls), -jnp.inf, falls))]
