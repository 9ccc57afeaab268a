"""Which steps are taken: those that diffrax's integral control takes, for each lane."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from solvers.ensemble.lanes.fields import Lanes
from solvers.ensemble.stepping import GROW, SAFETY, SHRINK


class Tolerance(NamedTuple):
    """Of the error of a step, in the root mean square over the controlled states."""

    rtol: float
    atol: float


def mean_square(errors: Lanes, before: Lanes, after: Lanes, tolerance: Tolerance) -> Array:
    """The square of the error in units of the tolerance; infinite if it is not a number."""
    lost = sum(jnp.isnan(z).astype(jnp.int32) for z in after[: len(errors)]) > 0
    total: Any = 0.0
    for error, x, z in zip(errors, before, after, strict=False):
        size = jnp.maximum(jnp.abs(x), jnp.where(lost, jnp.abs(x), jnp.abs(z)))
        scaled = error / (tolerance.atol + tolerance.rtol * size)
        total = total + scaled * scaled
    mean = jnp.asarray(total) / len(errors)
    return jnp.asarray(jnp.where(jnp.isnan(mean), jnp.inf, mean))


def factor(square: Array, keep: Array, order: float) -> Array:
    """By how much the next step is longer than this one."""
    # Beyond these bounds the factor is clipped whatever it is.
    low, high = (bound ** (2 * order) for bound in (SHRINK / SAFETY / 2, GROW / SAFETY * 2))
    inverse = jnp.clip(1 / square, low, high)
    raw = SAFETY * root(inverse, 2 * order)
    return jnp.clip(raw, jnp.where(keep, 1.0, SHRINK), jnp.where(keep, GROW, SAFETY))


def root(x: Array, order: float) -> Array:
    """A root of numbers between about 1e-30 and 1e30.

    Powers in double precision take longer than a whole step, so the first digits are
    found in single precision and doubled by a step of Newton's method.
    """
    rough = jnp.exp(jnp.log(x.astype(jnp.float32)) / order).astype(x.dtype)
    if x.dtype == jnp.float32 or order != int(order):
        return rough if x.dtype == jnp.float32 else x ** (1 / order)
    return rough * (1 + (x / _whole_power(rough, int(order)) - 1) / order)


def _whole_power(x: Array, exponent: int) -> Array:
    result = None
    while exponent:
        if exponent & 1:
            result = x if result is None else result * x
        exponent >>= 1
        x = x * x
    return jnp.ones_like(x) if result is None else result


def smallest_step(begin: Array) -> Array:
    """The length of a step that no longer advances time, as single solves have it."""
    precision = jnp.finfo(begin.dtype)
    return jnp.maximum(4 * precision.eps * jnp.abs(begin), float(precision.tiny) ** 0.25)


def just_before(time: Array, count: int = 100) -> Array:
    """The number so many of the machine's numbers below."""
    whole = jnp.int64 if time.dtype == jnp.float64 else jnp.int32
    least = jnp.iinfo(whole).min
    bits = jax.lax.bitcast_convert_type(time, whole)
    # Numbers below zero run backwards; flipped, all are in the order of their bits.
    ordered = jnp.where(bits < 0, least - bits, bits) - count
    return jax.lax.bitcast_convert_type(
        jnp.where(ordered < 0, least - ordered, ordered), time.dtype
    )
