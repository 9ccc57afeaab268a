"""Estimates from random probes, with their standard errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


class Estimate(eqx.Module):
    """A mean over random probes.

    - `value`: the estimate, an array or a pytree.
    - `standard_error`: its standard deviation over draws of the probes, as the probes
      themselves show it; of the same structure. Zero where the value is exact.
    """

    value: PyTree
    standard_error: PyTree


def mean_of(samples: PyTree) -> Estimate:
    """The mean over the first axis of each leaf, of length two at least."""
    count = jax.tree.leaves(samples)[0].shape[0]
    if count < 2:
        raise ValueError(f"{count} probes give no standard error, expected at least 2.")
    return Estimate(
        jax.tree.map(lambda x: jnp.mean(x, axis=0), samples),
        jax.tree.map(lambda x: jnp.std(x, axis=0, ddof=1) / jnp.sqrt(count), samples),
    )


def exactly(value: PyTree) -> Estimate:
    """A value that is not estimated."""
    return Estimate(value, jax.tree.map(jnp.zeros_like, value))
