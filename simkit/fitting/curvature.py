"""Derivatives of the objective group by group, and Newton's method with them.

The likelihood is a sum over groups that depend on few free numbers each, so second and
third derivatives are taken per group in its slots and added up: for twelve subjects with
three parameters each that is twelve small Hessians instead of one of order 37.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from simkit.fitting.posterior import Posterior, over_groups
from solvers.gradients import Forward


HESSIAN_LIMIT = 200
"""Free numbers of one group up to which Hessians are computed: their cost grows with the
square of that number."""


def hessian_obstacle(posterior: Posterior) -> str | None:
    """Why there is no Hessian of this posterior; `None` if there is one."""
    count = len(posterior.slots())
    if count <= HESSIAN_LIMIT:
        return None
    return f"{count} free numbers act on one group, more than the {HESSIAN_LIMIT} for a Hessian"


class Optimum(eqx.Module):
    """A point with the objective and its derivatives there, on the optimiser's scale."""

    x: Float[Array, " parameters"]
    objective: Float[Array, ""]
    gradient: Float[Array, " parameters"]
    hessian: Float[Array, "parameters parameters"]


def derivatives(
    posterior: Posterior, x: Float[Array, " parameters"], slope: ArrayLike
) -> tuple[Array, Array, Array]:
    """The objective with its gradient and exact Hessian, by forward mode throughout."""
    posterior = _forward(posterior)
    index = posterior.slot_index()
    size = index.shape[1]
    rows, columns = np.triu_indices(size)
    basis = jnp.eye(size)

    def group(z: Array, *data: Any) -> tuple[Array, Array, Array]:
        def along(first: Array, second: Array) -> tuple[Array, Array, Array]:
            """The likelihood, its slope along the second and its mixed derivative."""
            value = lambda z: posterior.group_log_likelihood(z, *data)  # noqa: E731
            slope = lambda z: jax.jvp(value, (z,), (first,))  # noqa: E731
            (likelihood, _), (steepness, mixed) = jax.jvp(slope, (z,), (second,))
            return likelihood, steepness, mixed

        # All pairs at once under one vmap: nested ones take longer to trace.
        likelihood, steepness, mixed = jax.vmap(along)(basis[rows], basis[columns])
        hessian = jnp.zeros((size, size)).at[rows, columns].set(mixed)
        hessian = hessian.at[columns, rows].set(mixed)
        # The first `size` pairs are (0, 0), (0, 1), ...: their slopes are the gradient.
        return likelihood[0], steepness[:size], hessian

    values, gradients, hessians = over_groups(group)(x[index], *posterior.contexts())
    prior, prior_gradient = jax.value_and_grad(posterior.log_prior)(x, slope)
    prior_hessian = jax.hessian(posterior.log_prior)(x, slope)
    gradient = prior_gradient.at[index].add(gradients)
    hessian = prior_hessian.at[index[:, :, None], index[:, None, :]].add(hessians)
    return -(prior + jnp.sum(values)), -gradient, -0.5 * (hessian + hessian.T)


def _forward(posterior: Posterior) -> Posterior:
    """The same posterior in forward mode, which alone has second derivatives."""
    if isinstance(posterior.gradient, Forward):
        return posterior
    return dataclasses.replace(posterior, gradient=Forward())


def refine(
    posterior: Posterior,
    x: Float[ArrayLike, " parameters"],
    slope: float,
    max_steps: int = 40,
) -> Optimum:
    """Newton's method with the exact Hessian, to rounding.

    Negative curvature is turned round and steps are halved until the objective falls,
    or, once it is flat to rounding, until the gradient does; so it can only improve on
    its start, and it stops where no step improves.

    `slope` is that of `Posterior.negative_log_posterior`.
    """
    # As arrays, so that both slopes share one compiled program.
    return _refine(posterior, jnp.asarray(x), jnp.asarray(slope), jnp.asarray(max_steps))


@eqx.filter_jit
def _refine(posterior: Posterior, x: Array, slope: Array, max_steps: Array) -> Optimum:
    def newton(carry: Any) -> Any:
        """Judge the trial point, then propose the next: one solve per iteration."""
        best, trial, step, halvings, steps = carry
        value, gradient, hessian = derivatives(posterior, trial, slope)
        flat = value <= best.objective + 1e-13 * jnp.abs(best.objective)
        steeper = jnp.max(jnp.abs(gradient)) < jnp.max(jnp.abs(best.gradient))
        better = (value < best.objective) | (flat & steeper)
        new = Optimum(trial, value, gradient, hessian)
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best)
        step = jnp.where(better, _newton_step(best), 0.5 * step)
        halvings = jnp.where(better, 0, halvings + 1)
        return best, best.x + step, step, halvings, steps + 1

    def unfinished(carry: Any) -> Array:
        _, _, _, halvings, steps = carry
        return (halvings < 10) & (steps < max_steps)

    size = x.size
    empty = Optimum(
        x, jnp.asarray(jnp.inf), jnp.full(size, jnp.inf), jnp.full((size, size), jnp.nan)
    )
    begin = (empty, x, jnp.zeros(size), jnp.asarray(0), jnp.asarray(0))
    return jax.lax.while_loop(unfinished, newton, begin)[0]


def _newton_step(point: Optimum) -> Array:
    """Newton's step with negative curvature turned round, at most 2 in any coordinate."""
    hessian = jnp.where(jnp.isfinite(point.hessian), point.hessian, 0.0)
    gradient = jnp.where(jnp.isfinite(point.gradient), point.gradient, 0.0)
    curvature, vectors = jnp.linalg.eigh(hessian)
    floor = 1e-12 * jnp.maximum(jnp.max(jnp.abs(curvature)), 1e-30)
    step = -vectors @ ((vectors.T @ gradient) / jnp.maximum(jnp.abs(curvature), floor))
    return step / jnp.maximum(1.0, jnp.max(jnp.abs(step)) / 2.0)


def skewness_shift(
    posterior: Posterior,
    optimum: Optimum,
    covariance: Float[ArrayLike, "parameters parameters"],
) -> Float[np.ndarray, " parameters"]:
    r"""How far the posterior mean lies from the mode, to the next order.

    $$\delta_i = -\tfrac12 \sum_{jkl} \Sigma_{ij} \Sigma_{kl}\,
      \partial_j \partial_k \partial_l U$$

    with the negative log posterior $U$ and $\Sigma$ its inverse Hessian. The third
    derivatives are central differences of exact Hessians over a hundredth of a standard
    deviation: their error of about 1e-4 is far below that of the expansion, and no
    program is needed but that of the Hessian, where a threefold forward mode would take
    seconds to trace.

    Reference: D. V. Lindley, Trabajos de Estadistica 31, 223 (1980); L. Tierney and
    J. B. Kadane, J. Am. Stat. Assoc. 81, 82 (1986).
    """
    step, root = 0.01, np.asarray(root_of(jnp.asarray(covariance)))
    mode, spread = np.asarray(optimum.x), np.asarray(covariance)

    def weighted_curvature(x: np.ndarray) -> float:
        hessian = refine(posterior, x, 1.0, max_steps=1).hessian
        return float(np.sum(spread * np.asarray(hessian)))

    slopes = [
        (weighted_curvature(mode + step * way) - weighted_curvature(mode - step * way))
        / (2 * step)
        for way in root.T
    ]
    return -0.5 * root @ np.array(slopes)


def root_of(covariance: Float[Array, "size size"]) -> Float[Array, "size size"]:
    """A matrix $R$ with $R R^T$ the covariance, which may have directions of no variance."""
    values, vectors = jnp.linalg.eigh(covariance)
    return vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None, :]
