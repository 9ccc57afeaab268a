"""The probability densities of case files: their logarithms, quantiles and names.

The classes stand in the schema of the case file; here is what they mean. All work on
traced values.
"""

import jax
import jax.numpy as jnp
from jax.scipy import special
from jax.scipy.stats import gamma as gamma_distribution, norm
from jaxtyping import Array, ArrayLike, Float

from simkit.config.schema import Distribution, Exponential, Gamma, LogNormal, Normal, Uniform


def log_density(distribution: Distribution, value: Float[Array, "..."]) -> Float[Array, "..."]:
    """Logarithm of the density at `value`, with all constants; -inf outside its support.

    A normal prior is not renormalised where the bounds of the parameter cut it: that
    would only add a constant.
    """
    match distribution:
        case Normal(mean=mean, sd=sd):
            return norm.logpdf(value, mean, sd)
        case LogNormal(median=median, sd=sd):
            positive = value > 0
            logarithm = jnp.log(jnp.where(positive, value, 1.0))
            density = norm.logpdf(logarithm, jnp.log(median), sd) - logarithm
            return jnp.where(positive, density, -jnp.inf)
        case Uniform(lower=lower, upper=upper):
            inside = (value >= lower) & (value <= upper)
            return jnp.where(inside, -jnp.log(upper - lower), -jnp.inf)
        case Exponential(rate=rate):
            return jnp.where(value >= 0, jnp.log(rate) - rate * value, -jnp.inf)
        case Gamma(shape=shape, rate=rate):
            return gamma_distribution.logpdf(value * rate, shape) + jnp.log(rate)


def quantile(
    distribution: Distribution,
    probability: Float[Array, "..."],
    lower: ArrayLike = -jnp.inf,
    upper: ArrayLike = jnp.inf,
) -> Float[Array, "..."]:
    """Quantile of the distribution cut to `lower` and `upper`.

    Uniform draws put through it are draws from the cut distribution.
    """
    # Rounding must not carry a draw out of its bounds.
    return jnp.clip(_quantile(distribution, probability, lower, upper), lower, upper)


def _quantile(
    distribution: Distribution, probability: Array, lower: ArrayLike, upper: ArrayLike
) -> Array:
    match distribution:
        case Normal(mean=mean, sd=sd):
            return mean + sd * _cut_normal(probability, lower, upper, mean, sd)
        case LogNormal(median=median, sd=sd):
            centre = jnp.log(median)
            low = jnp.log(jnp.maximum(jnp.asarray(lower, float), 0.0))
            high = jnp.log(jnp.maximum(jnp.asarray(upper, float), 0.0))
            return jnp.exp(centre + sd * _cut_normal(probability, low, high, centre, sd))
        case Uniform(lower=low, upper=high):
            low, high = jnp.maximum(low, lower), jnp.minimum(high, upper)
            return low + probability * (high - low)
        case Exponential(rate=rate):
            low = jnp.maximum(jnp.asarray(lower, float), 0.0)
            # Without memory, so it starts anew at the lower end.
            part = probability * -jnp.expm1(-rate * (jnp.asarray(upper, float) - low))
            return low - jnp.log1p(-part) / rate
        case Gamma(shape=shape, rate=rate):
            return _gamma_quantile(shape, probability, lower, upper, rate)


def _cut_normal(
    probability: Array, lower: ArrayLike, upper: ArrayLike, mean: ArrayLike, sd: ArrayLike
) -> Array:
    low = (jnp.asarray(lower, float) - mean) / sd
    high = (jnp.asarray(upper, float) - mean) / sd
    # Above the mean by the mirror image: near one a probability keeps no digits.
    above = low > 0
    left, right = jnp.where(above, -high, low), jnp.where(above, -low, high)
    part = jnp.where(above, 1 - probability, probability)
    start, stop = norm.cdf(left), norm.cdf(right)
    inside = jnp.clip(special.ndtri(start + part * (stop - start)), left, right)
    return jnp.where(above, -inside, inside)


def _gamma_quantile(
    shape: float, probability: Array, lower: ArrayLike, upper: ArrayLike, rate: float
) -> Array:
    """By bisection on the logarithm, since jax has no inverse of the gamma function."""
    lower = jnp.maximum(jnp.asarray(lower, float), 0.0)
    low = special.gammainc(shape, lower * rate)
    high = special.gammainc(shape, jnp.minimum(jnp.asarray(upper, float) * rate, 1e300))
    target = low + probability * (high - low)
    # Quantiles of small shapes are tiny: at 0.01 the median is e to the power of -69.
    left = jnp.full(jnp.shape(target), -700.0)
    right = jnp.full(jnp.shape(target), 60.0)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        left, right = ends
        middle = 0.5 * (left + right)
        below = special.gammainc(shape, jnp.exp(middle)) < target
        return jnp.where(below, middle, left), jnp.where(below, right, middle)

    left, right = jax.lax.fori_loop(0, 64, halve, (left, right))
    return jnp.exp(0.5 * (left + right)) / rate
