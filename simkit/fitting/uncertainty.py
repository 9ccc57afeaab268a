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
from simkit.fitting.curvature import hessian_obstacle, refine, root_of, skewness_shift
from simkit.fitting.posterior import Posterior
from simkit.fitting.tables import (
    bounded,
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

    **Raises:** `ValueError` for a fit that did not converge, where the posterior is
    missing, or where there are too many free numbers for a Hessian.
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
    obstacle = hessian_obstacle(posterior)
    if obstacle is not None:
        raise ValueError(f"uncertainty: the Laplace approximation needs a Hessian; {obstacle}.")
    estimate = posterior.parameters.unbounded(fit.parameters.estimate.tolist())
    mode = refine(posterior, estimate, 1.0)
    held = bounded(posterior, np.asarray(mode.x))
    covariance, singular = covariance_of(np.asarray(mode.hessian), held)
    shift = np.zeros(mode.x.shape)
    if method.correct_mean and not singular:
        shift = skewness_shift(posterior, mode, covariance)
        if not np.all(np.isfinite(shift)):
            raise ValueError(
                "uncertainty: third derivatives at the optimum are not finite, so the mean "
                "cannot be corrected; use Laplace(correct_mean=False)."
            )
    grid = curve_times(posterior)
    facts = _facts(
        posterior,
        mode.x + shift,
        jnp.asarray(covariance),
        jnp.asarray(grid),
        jax.random.key(method.seed),
        method.draws,
        jnp.asarray(0.5 * (1 - method.level)),
    )
    return _assemble(posterior, fit, method, covariance, held, shift, grid, singular, facts)


@eqx.filter_jit
def _facts(
    posterior: Posterior,
    mean: Array,
    covariance: Array,
    grid: Array,
    key: Any,
    draws: int,
    tail: Array,
) -> dict[str, Array]:
    """Draws of the parameters with the curves, new measurements and derived quantities."""
    deviation = jnp.sqrt(jnp.diag(covariance))
    # Quantiles survive a monotone map, so the ends of intervals need no draws.
    reach = -ndtri(tail) * deviation
    ends = jnp.stack([mean - reach, mean + reach])
    first, second = jax.random.split(key)
    normal = jax.random.normal(first, (draws, mean.size))
    x = mean[None, :] + normal @ root_of(covariance).T

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
        "moments": _moments(posterior, mean, deviation),
        "ends": jax.vmap(posterior.parameters.natural)(ends),
        "curves": curves,
        "new": new,
        "derived": derived,
    }


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
    held: np.ndarray,
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
    # What is held at its bound has no uncertainty that could be told.
    deviation = np.sqrt(np.where(held, np.nan, np.diag(covariance)))
    relative = np.where(held, 0.0, shift / deviation)
    ends = np.where(held, np.nan, np.sort(facts["ends"], axis=0))
    derived, missing = facts["derived"][good], np.full(facts["derived"].shape[1:], np.nan)
    moments = (
        (np.mean(derived, axis=0), np.std(derived, axis=0)) if good.any() else (missing,) * 2
    )
    return Uncertainty(
        method="Laplace approximation"
        + (", mean corrected for skewness" if method.correct_mean and not singular else ""),
        level=method.level,
        name=fit.parameters.name,
        mean=facts["moments"][0],
        standard_deviation=np.where(held, np.nan, facts["moments"][1]),
        lower=ends[0],
        upper=ends[1],
        shift=relative,
        correlation=covariance / np.outer(deviation, deviation),
        draws=facts["natural"],
        curves=curves,
        derived=derived_table(posterior, *moments),
        failed_draws=int(np.sum(~good)),
        warnings=_warnings(fit, relative, held, good, singular),
    )


def _band(values: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    if len(values) == 0:
        empty = np.full(values.shape[1:], np.nan)
        return empty, empty
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return low, high


def _warnings(
    fit: Fit, shift: np.ndarray, held: np.ndarray, good: np.ndarray, singular: bool
) -> tuple[str, ...]:
    found = [
        f"{name} is held at its bound; the uncertainty of the others is for that value."
        for name in fit.parameters.name[held]
    ]
    for name, moved in zip(fit.parameters.name, shift, strict=True):
        if abs(moved) > LARGE_SHIFT:
            found.append(
                f"The posterior of {name} is so skewed that its mean moved by {abs(moved):.1f} "
                "standard deviations: the Laplace approximation is not to be trusted there."
            )
    if not np.all(good):
        found.append(
            f"{np.sum(~good)} of {len(good)} draws could not be solved; the bands lack them."
        )
    if singular:
        found.append(
            "The posterior is not determined in some direction; intervals mean nothing there."
        )
    return tuple(found)
