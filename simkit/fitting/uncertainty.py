"""How well the data determine the parameters: the Laplace approximation."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array

from simkit.fitting import noise
from simkit.fitting.curvature import refine, skewness_shift
from simkit.fitting.posterior import Posterior
from simkit.fitting.tables import (
    covariance_of,
    curve_table,
    curve_times,
    derived_table,
    derived_values,
)
from simkit.precision import use_double_precision
from simkit.results import Fit, Uncertainty


LARGE_SHIFT = 1.0
"""A mean shifted by more standard deviations than this is not to be trusted."""


@dataclasses.dataclass(frozen=True)
class Laplace:
    """Laplace approximation: the posterior is taken as normal about its mode, in the
    optimiser's unbounded coordinates, and carried back to the parameters.

    - `level`: of the central intervals and bands.
    - `draws`, `seed`: of the draws behind the bands.
    - `correct_mean`: shift the mean from the mode by the skewness of the posterior
      (Lindley's correction). Without it noise scales come out too small, as a mode does.

    References: P. S. Laplace (1774); L. Tierney and J. B. Kadane, J. Am. Stat. Assoc.
    81, 82 (1986).
    """  # noqa: D205

    level: float = 0.9
    draws: int = 400
    seed: int = 0
    correct_mean: bool = True


def uncertainty(
    fit: Fit, method: Laplace | None = None, *, posterior: Posterior | None = None
) -> Uncertainty:
    """Uncertainty of fitted parameters, with bands for the fitted curves.

    **Arguments:**

    - `fit`: a fit that converged.
    - `method`: default `Laplace()`.
    - `posterior`: needed for a fit that was read from a file, which holds numbers alone.

    **Raises:** `ValueError` for a fit that did not converge, or where the posterior is
    missing.
    """
    use_double_precision()
    method = method or Laplace()
    posterior = posterior or fit.memory
    if posterior is None:
        raise ValueError(
            "uncertainty: a fit read from a file does not hold the model; give `posterior`, "
            "or fit again."
        )
    if fit.status != "converged":
        raise ValueError(f"uncertainty: the fit is of status {fit.status!r}, not 'converged'.")
    estimate = posterior.parameters.unbounded(fit.parameters.estimate.tolist())
    mode = refine(posterior, estimate, 1.0)
    covariance, singular = covariance_of(np.asarray(mode.hessian))
    shift = jnp.zeros_like(mode.x)
    if method.correct_mean and not singular:
        shift = skewness_shift(posterior, mode, jnp.asarray(covariance))
    grid = curve_times(posterior)
    facts = _facts(
        posterior,
        mode.x + shift,
        jnp.asarray(covariance),
        jnp.asarray(grid),
        jax.random.key(method.seed),
        method.draws,
    )
    return _assemble(
        posterior, fit, method, covariance, np.asarray(shift), grid, singular, facts
    )


@eqx.filter_jit
def _facts(
    posterior: Posterior, mean: Array, covariance: Array, grid: Array, key: Any, draws: int
) -> dict[str, Array]:
    """Draws of the parameters with the curves, new measurements and derived quantities."""
    values, vectors = jnp.linalg.eigh(covariance)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None, :]
    first, second = jax.random.split(key)
    x = mean[None, :] + jax.random.normal(first, (draws, mean.size)) @ root.T

    def one(x: Array, key: Any) -> Any:
        curves = posterior.curves(x, grid)
        scales = posterior.noise_scales(x)
        new = [
            noise.draw(
                item.noise,
                jax.random.fold_in(key, o),
                curves[:, :, o],
                scales[:, o, None],
                item.degrees_of_freedom,
            )
            for o, item in enumerate(posterior.measurements.observables)
        ]
        return curves, jnp.stack(new, axis=2), derived_values(posterior, x)

    curves, new, derived = jax.vmap(one)(x, jax.random.split(second, draws))
    return {
        "natural": jax.vmap(posterior.parameters.natural)(x),
        "moments": _moments(posterior, mean, jnp.sqrt(jnp.diag(covariance))),
        "at_mean": jax.vmap(posterior.parameters.natural)(_quantile_grid(mean, covariance)),
        "curves": curves,
        "new": new,
        "derived": derived,
    }


def _quantile_grid(mean: Array, covariance: Array) -> Array:
    """Normal quantiles of each coordinate: quantiles survive a monotone map."""
    deviation = jnp.sqrt(jnp.diag(covariance))
    probabilities = jnp.linspace(0.0, 1.0, 2001)[1:-1]
    return mean[None, :] + deviation[None, :] * ndtri(probabilities)[:, None]


def _moments(posterior: Posterior, mean: Array, deviation: Array) -> Array:
    """Mean and standard deviation of the parameters in their units, shape `(2, P)`.

    By Gauss-Hermite quadrature: exact to rounding for the smooth maps in use.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    weights = jnp.asarray(weights / weights.sum())
    points = mean[None, :] + deviation[None, :] * jnp.asarray(nodes)[:, None]
    values = jax.vmap(posterior.parameters.natural)(points)
    first = weights @ values
    second = weights @ (values - first[None, :]) ** 2
    return jnp.stack([first, jnp.sqrt(second)])


def _assemble(
    posterior: Posterior,
    fit: Fit,
    method: Laplace,
    covariance: np.ndarray,
    shift: np.ndarray,
    grid: np.ndarray,
    singular: bool,
    facts: dict[str, Any],
) -> Uncertainty:
    facts = {name: np.asarray(value) for name, value in facts.items()}
    tail = 0.5 * (1 - method.level)
    good = np.all(np.isfinite(facts["curves"]), axis=(1, 2, 3))
    lower, upper = _band(facts["curves"][good], tail)
    new_lower, new_upper = _band(facts["new"][good], tail)
    names = [item.name for item in posterior.measurements.observables]
    base = curve_table(posterior, grid, np.stack([fit.curves.fitted[n] for n in names], axis=2))
    curves = dataclasses.replace(
        base,
        lower={name: lower[:, :, o] for o, name in enumerate(names)},
        upper={name: upper[:, :, o] for o, name in enumerate(names)},
        predictive_lower={name: new_lower[:, :, o] for o, name in enumerate(names)},
        predictive_upper={name: new_upper[:, :, o] for o, name in enumerate(names)},
        level=method.level,
    )
    deviation = np.sqrt(np.diag(covariance))
    relative = shift / deviation
    quantiles = np.quantile(facts["at_mean"], [tail, 1 - tail], axis=0)
    derived = facts["derived"][good]
    return Uncertainty(
        method="Laplace approximation"
        + (", mean corrected for skewness" if method.correct_mean and not singular else ""),
        level=method.level,
        name=fit.parameters.name,
        mean=facts["moments"][0],
        standard_deviation=facts["moments"][1],
        lower=quantiles[0],
        upper=quantiles[1],
        shift=relative,
        correlation=covariance / np.outer(deviation, deviation),
        draws=facts["natural"],
        curves=curves,
        derived=derived_table(posterior, np.mean(derived, axis=0), np.std(derived, axis=0)),
        failed_draws=int(np.sum(~good)),
        warnings=_warnings(fit, relative, good, singular),
    )


def _band(values: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    if len(values) == 0:
        empty = np.full(values.shape[1:], np.nan)
        return empty, empty
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return low, high


def _warnings(fit: Fit, shift: np.ndarray, good: np.ndarray, singular: bool) -> tuple[str, ...]:
    found = []
    for name, moved in zip(fit.parameters.name, shift, strict=True):
        if abs(moved) > LARGE_SHIFT:
            found.append(
                f"The posterior of {name} is so skewed that its mean moved by {abs(moved):.1f} "
                "standard deviations: the Laplace approximation is not to be trusted there."
            )
    if not np.all(good):
        found.append(
            f"{np.sum(~good)} of {len(good)} draws could not be solved and are not in the bands."
        )
    if singular:
        found.append(
            "The posterior is not determined in some direction; intervals mean nothing there."
        )
    return tuple(found)
