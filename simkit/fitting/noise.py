r"""Noise models: how a measurement scatters about what the model predicts.

With measurement $y$, prediction $h$ and noise scale $s$:

| name | law |
| --- | --- |
| `normal` | $y \sim N(h, s^2)$ |
| `log_normal` | $\log y \sim N(\log h, s^2)$ |
| `laplace` | density $\exp(-\lvert y - h\rvert / s) / 2s$ |
| `student_t` | $(y - h) / s$ has Student's law with `degrees_of_freedom` |
| `poisson` | counts with mean $h$; no scale |
| `negative_binomial` | counts with mean $h$ and variance $h + s h^2$ |
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, PRNGKeyArray


MODELS = ("normal", "log_normal", "laplace", "student_t", "poisson", "negative_binomial")
"""All of them by name."""

LEAST_SQUARES = frozenset({"normal", "log_normal"})
"""Models whose logarithm is minus half a square, up to terms of the scale alone."""

WITHOUT_SCALE = frozenset({"poisson"})

COUNTS = frozenset({"poisson", "negative_binomial"})

KINKED = frozenset({"laplace"})
"""Models whose likelihood has kinks, at the optimum too: its gradient does not vanish."""


def standardised_residual(
    model: str,
    measured: Array,
    predicted: Array,
    scale: Array,
    degrees_of_freedom: float = math.inf,
) -> Float[Array, "..."]:
    """(measured - predicted) / standard deviation, on the scale of the model.

    A Student law of two degrees of freedom or fewer has no standard deviation; there its
    scale stands in.
    """
    match model:
        case "log_normal":
            return (jnp.log(measured) - jnp.log(_positive(predicted))) / scale
        case "poisson":
            return (measured - predicted) / jnp.sqrt(_positive(predicted))
        case "negative_binomial":
            mean = _positive(predicted)
            return (measured - mean) / jnp.sqrt(mean + scale * mean**2)
        case "laplace":
            return (measured - predicted) / (math.sqrt(2.0) * scale)
        case "student_t":
            # The variance is n / (n - 2) in units of the scale.
            heavy = degrees_of_freedom <= 2
            ratio = 1.0 if heavy else 1 / math.sqrt(1 - 2 / degrees_of_freedom)
            return (measured - predicted) / (ratio * scale)
        case _:
            return (measured - predicted) / scale


def log_likelihood(
    model: str, measured: Array, predicted: Array, scale: Array, degrees_of_freedom: float
) -> Float[Array, "..."]:
    """Logarithm of the density (or probability) of each measurement, with constants."""
    match model:
        case "normal":
            return stats.norm.logpdf(measured, predicted, scale)
        case "log_normal":
            logarithm = jnp.log(measured)
            return (
                stats.norm.logpdf(logarithm, jnp.log(_positive(predicted)), scale) - logarithm
            )
        case "laplace":
            return -_magnitude(measured - predicted, scale) / scale - jnp.log(2 * scale)
        case "student_t":
            return stats.t.logpdf(measured, degrees_of_freedom, predicted, scale)
        case "poisson":
            mean = _positive(predicted)
            return measured * jnp.log(mean) - mean - gammaln(measured + 1)
        case "negative_binomial":
            # Below, the square of its inverse would overflow.
            mean, scale = _positive(predicted), jnp.maximum(scale, 1e-100)
            return (
                _log_rising(measured, scale)
                - gammaln(measured + 1)
                - jnp.log1p(mean * scale) / scale
                + measured * (jnp.log(mean) - jnp.log1p(mean * scale))
            )
    raise ValueError(f"There is no noise model {model!r}.")


def draw(
    model: str,
    key: PRNGKeyArray,
    predicted: Array,
    scale: Array,
    degrees_of_freedom: float,
) -> Float[Array, "..."]:
    """A new measurement for each prediction; `scale` broadcasts against it."""
    shape = predicted.shape
    match model:
        case "normal":
            return predicted + scale * jax.random.normal(key, shape)
        case "log_normal":
            return predicted * jnp.exp(scale * jax.random.normal(key, shape))
        case "laplace":
            return predicted + scale * jax.random.laplace(key, shape)
        case "student_t":
            return predicted + scale * jax.random.t(key, degrees_of_freedom, shape)
        case "poisson":
            return jax.random.poisson(key, _positive(predicted), shape).astype(float)
        case "negative_binomial":
            first, second = jax.random.split(key)
            size = jnp.broadcast_to(1 / scale, shape)
            rate = jax.random.gamma(first, size) * scale * _positive(predicted)
            return jax.random.poisson(second, rate, shape).astype(float)
    raise ValueError(f"There is no noise model {model!r}.")


def typical_scale(model: str, measured: np.ndarray) -> float:
    """A first guess of the noise scale: half the spread of the data, or 0.1 for counts.

    Where there is no spread it is 1.
    """
    if model in COUNTS:
        return 0.1
    values = np.log(measured) if model == "log_normal" else measured
    spread = float(np.std(values))
    return 0.5 * spread if spread > 0 else 1.0


def _log_rising(count: Array, scale: Array) -> Array:
    """Logarithm of scale^n Gamma(n + 1 / scale) / Gamma(1 / scale).

    For a small scale the two terms are huge and their difference has no digits, so Stirling's
    series gives it. With fewer digits an optimiser finds optima that are none.
    """
    small = scale < 1e-3
    safe = jnp.where(small, 1.0, scale)
    direct = gammaln(count + 1 / safe) - gammaln(1 / safe) + count * jnp.log(safe)
    little = jnp.where(small, scale, 1e-3)
    ratio = 1 + count * little
    stirling = (
        (1 / little - 0.5 + count) * jnp.log1p(count * little)
        - count
        + little / 12 * (1 / ratio - 1)
        - little**3 / 360 * (1 / ratio**3 - 1)
    )
    return jnp.where(small, stirling, direct)


@jax.custom_jvp
def _magnitude(residual: Array, scale: Array) -> Array:
    """|residual|; its second derivative is the mean that it has under the Laplace law.

    That derivative is twice a delta function, whose mean is 1 / scale. With it Hessians
    are Fisher informations; without it they would be zero almost everywhere.
    """
    del scale
    return jnp.abs(residual)


@_magnitude.defjvp
def _magnitude_tangent(primals: Any, tangents: Any) -> tuple[Array, Array]:
    residual, scale = primals
    return jnp.abs(residual), _sign(residual, scale) * tangents[0]


@jax.custom_jvp
def _sign(residual: Array, scale: Array) -> Array:
    del scale
    return jnp.sign(residual)


@_sign.defjvp
def _sign_tangent(primals: Any, tangents: Any) -> tuple[Array, Array]:
    residual, scale = primals
    return jnp.sign(residual), tangents[0] / scale


def _positive(value: Array) -> Array:
    """Keeps logarithms finite where a solver's error makes a prediction negative."""
    return jnp.maximum(value, 1e-300)
