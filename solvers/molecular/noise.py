"""Random numbers that depend on a key, the step and the particle, and on nothing else."""

import jax
from jaxtyping import Array, Float, Int, UInt32


def draw_key(key: UInt32[Array, " words"], step: Int[Array, ""], stream: int) -> Array:
    """The key of one step; `stream` tells apart several draws within a step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key), step), stream)


def particle_noise(
    key: UInt32[Array, " words"],
    step: Int[Array, ""],
    stream: int,
    identity: Int[Array, " particles"],
    dtype,
) -> Float[Array, "particles 3"]:
    """Standard normal numbers, three for each particle.

    They are drawn in the order of the user and then taken by identity, so that the noise
    of a particle stays the same wherever the particle is stored.
    """
    shape = (identity.shape[0], 3)
    return jax.random.normal(draw_key(key, step, stream), shape, dtype)[identity]
