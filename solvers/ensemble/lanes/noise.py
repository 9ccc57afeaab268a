"""Normal numbers from counters: they depend on a key and two whole numbers alone.

Reference: J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, *Parallel random numbers:
as easy as 1, 2, 3*, SC11 (2011).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds: 64 random bits as two words for each counter.

    It is that of `jax.random`, written out, as jax's own runs in a loop on a CPU, which
    costs more than the rounds where lanes are few.
    """
    keys = (*key, key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
    x, z = counter[0] + keys[0], counter[1] + keys[1]
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x = x + z
            z = (z << jnp.uint32(rotation)) | (z >> jnp.uint32(32 - rotation))
            z = x ^ z
        x = x + keys[(block + 1) % 3]
        z = z + keys[(block + 2) % 3] + jnp.uint32(block + 1)
    return x, z


def normal(key: tuple[Array, Array], step: Array, process: int, kind: jnp.dtype) -> Array:
    """A standard normal number for each lane, of that step and Wiener process."""
    counter = (step.astype(jnp.uint32), jnp.full(step.shape, process, jnp.uint32))
    high, low = threefry(key, counter)
    # Random bits below the exponent of one give numbers from one to two.
    if kind == jnp.float64:
        bits = (high.astype(jnp.uint64) << jnp.uint64(32)) | low.astype(jnp.uint64)
        bits = (bits >> jnp.uint64(12)) | jnp.uint64(0x3FF0000000000000)
    else:
        bits = (high >> jnp.uint32(9)) | jnp.uint32(0x3F800000)
    uniform = 2 * jax.lax.bitcast_convert_type(bits, kind) - 3
    lowest = jnp.nextafter(jnp.asarray(-1, kind), jnp.asarray(0, kind))
    return math.sqrt(2) * jax.lax.erf_inv(jnp.maximum(uniform, lowest))
