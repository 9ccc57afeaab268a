"""Whether a point without slope is a minimum, told by gradients close to it.

A method that knows first derivatives only cannot tell a minimum from a saddle point, a
maximum or a plateau. Conjugate gradients from an irregular direction can, as in `NewtonCG`,
with products of the Hessian from differences of gradients: one evaluation each, and no
more than there are parameters or `PROBES`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from solvers.optimisers.base import choose
from solvers.optimisers.flat_objective import Scalar, Vector, rounding


PROBES = 6
"""Evaluations that a probe costs, at most."""


class Probe(NamedTuple):
    """Conjugate gradients between two evaluations, in units of the parameters' sizes.

    - `active`: the next evaluation belongs to it.
    - `residual`, `direction`: of conjugate gradients; `share` of the direction is tried.
    - `curved`: positive curvature was seen.
    - `count`: evaluations so far.
    """

    active: Bool[Array, ""]
    residual: Vector
    direction: Vector
    share: Scalar
    curved: Bool[Array, ""]
    count: Int[Array, ""]

    def displacement(self, x: Vector) -> Vector:
        """Where the next evaluation is, from `x`."""
        return self.share * self.direction * _sizes(x)


class Finding(NamedTuple):
    """What an evaluation told.

    - `escapes`: the objective falls there beyond its slope: no minimum.
    - `minimum`, `flat`, `unclear`: or the probe ended, with this result.
    """

    escapes: Bool[Array, ""]
    minimum: Bool[Array, ""]
    flat: Bool[Array, ""]
    unclear: Bool[Array, ""]


def no_probe(x: Vector) -> Probe:
    """None under way."""
    no, zeros = jnp.asarray(False), jnp.zeros_like(x)
    return Probe(no, zeros, zeros, jnp.zeros((), x.dtype), no, jnp.asarray(0))


def begin_probe(x: Vector, held: Bool[Array, " n"], lower: Vector, upper: Vector) -> Probe:
    """From a direction like a random one, into the bounds."""
    # A chirp is as irregular as random numbers, and quicker to compile.
    places = jnp.arange(1, x.size + 1, dtype=x.dtype)
    residual = jnp.where(held, 0.0, jnp.cos(jnp.sqrt(2.0).astype(x.dtype) * places**2))
    residual = jnp.where(x <= lower, jnp.abs(residual), residual)
    residual = jnp.where(x >= upper, -jnp.abs(residual), residual)
    probe = no_probe(x)._replace(active=jnp.asarray(True), residual=residual)
    return probe._replace(direction=residual, share=_share(residual))


def examine(
    probe: Probe,
    x: Vector,
    here: tuple[Scalar, Vector],
    trial: Vector,
    there: tuple[Scalar, Vector],
    held: Bool[Array, " n"],
    noise: float,
) -> tuple[Finding, Probe]:
    """What an evaluation at `trial` tells of `x`, and the probe thereafter.

    `here` and `there` are objective and gradient at both.
    """
    value, gradient = there
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
    sizes, step = _sizes(x), trial - x
    rise = jnp.where(finite, value - here[0] - jnp.dot(here[1], step), jnp.inf)
    change = jnp.where(held | ~finite, 0.0, gradient - here[1])
    direction, curved = step / sizes / probe.share, change * sizes / probe.share
    bend = jnp.dot(direction, curved)
    limit = jnp.linalg.norm(direction) * jnp.linalg.norm(curved)
    limit = jnp.sqrt(jnp.finfo(x.dtype).eps) * limit
    positive, negative = bend > limit, bend < -limit
    error = rounding(here[0], noise)
    falls, rises = rise < -error, rise > error
    escapes = falls | (negative & ~rises)
    # Where the objective rises although the slope falls, the step was far too long.
    shorter = rises & ~positive
    residual, onward = _advance(probe, direction, curved, bend, positive)
    ends = (
        ~positive
        | (probe.count + 1 >= min(x.size, PROBES))
        | (jnp.linalg.norm(residual) <= 1e-3 * jnp.linalg.norm(probe.residual))
    )
    ends = jnp.where(shorter, probe.count + 1 >= PROBES, ends) & ~escapes
    seen = probe.curved | positive
    nothing = jnp.all(change == 0) & ~rises
    finding = Finding(escapes, ends & seen, ends & ~seen & nothing, ends & ~seen & ~nothing)
    following = Probe(
        active=probe.active & ~ends & ~escapes,
        residual=choose(shorter, probe.residual, residual),
        direction=choose(shorter, probe.direction, onward),
        share=choose(shorter, 0.01 * probe.share, _share(onward)),
        curved=seen,
        count=probe.count + 1,
    )
    finding = Finding(*(probe.active & each for each in finding))
    return finding, choose(probe.active, following, probe)


def _advance(
    probe: Probe, direction: Vector, curved: Vector, bend: Scalar, positive: Array
) -> tuple[Vector, Vector]:
    """The next residual and direction of conjugate gradients."""
    before = jnp.dot(probe.residual, probe.residual)
    residual = probe.residual - before / jnp.where(positive, bend, 1.0) * curved
    ratio = jnp.dot(residual, residual) / jnp.where(before > 0, before, 1.0)
    return residual, residual + ratio * direction


def _sizes(x: Vector) -> Vector:
    """What counts as a change of order one, so that units do not matter."""
    return jnp.where(x == 0, 1.0, jnp.abs(x))


def _share(direction: Vector) -> Scalar:
    """A change large against the rounding of gradients, and small against the sizes."""
    largest = jnp.max(jnp.abs(direction))
    small = jnp.finfo(direction.dtype).eps ** 0.25
    return small / jnp.where(largest > 0, largest, 1.0)
