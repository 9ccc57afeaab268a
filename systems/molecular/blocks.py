"""Work on particles some at a time.

What is computed for a few particles stays near the processor. Large arrays in between would be
written to memory, which takes several times longer than the arithmetic.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


# Particles whose neighbours are worked on at a time.
BLOCK = 128


def in_blocks(function: Callable[[Any], Any], rows: Any) -> Any:
    """`function(rows)` of arrays with one row for each particle, computed block by block.

    Args:
        function: Gives one row for each row that it is given.
        rows: Arrays of equal length. Rows of zeros are added to fill the last block.
    """
    return merge_blocks(jax.lax.map(function, split_blocks(rows)), rows)


def split_blocks(rows: Any) -> Any:
    """Arrays of shape (blocks, rows of a block, ...), filled up with zeros."""

    def split(array: Any) -> Any:
        blocks = -(-len(array) // BLOCK)
        filler = ((0, blocks * BLOCK - len(array)), *((0, 0),) * (array.ndim - 1))
        return jnp.pad(array, filler).reshape(blocks, BLOCK, *array.shape[1:])

    return jax.tree.map(split, rows)


def merge_blocks(results: Any, rows: Any) -> Any:
    """One row for each particle again, from the results for each block."""
    count = len(jax.tree.leaves(rows)[0])
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:count], results)
