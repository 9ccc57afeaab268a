"""From yes or no for every candidate to a short list of those that are yes, without scatter.

The answers are packed into words of 32 bits. The k-th chosen candidate is found by counting
bits: first the word, by comparing k with how many were chosen before each word, then the bit
within the word, by halving. Every result is computed by itself, so that all of this becomes
vector code; a scatter, or a running sum over all candidates, would not.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32


Found = tuple[
    Int[Array, "rows capacity"], UInt32[Array, "rows capacity"], Int[Array, "rows capacity"]
]

WORD = 32
# Words that are compared in one straight piece of code; more are taken in a loop of pieces.
PIECE = 64


def words_needed(candidates: int) -> int:
    """Words for so many candidates: a multiple of eight, which vectors divide evenly."""
    words = -(-candidates // WORD)
    words = -(-words // 8) * 8
    return words if words <= PIECE else -(-words // PIECE) * PIECE


def count_bits(words: UInt32[Array, "... words"]) -> Int[Array, "..."]:
    """How many candidates are chosen in each row."""
    return jnp.sum(jax.lax.population_count(words).astype(jnp.int32), axis=-1)


def select(words: UInt32[Array, "rows words"], capacity: int) -> Int[Array, "rows capacity"]:
    """The chosen candidates of each row, in order.

    Candidate `m` is bit `m // W` of word `m % W`, of W words. Beyond the last chosen one the
    result is any candidate.
    """
    rows, total = words.shape
    counts = jax.lax.population_count(words).astype(jnp.int32)
    wanted = jnp.broadcast_to(jnp.arange(capacity, dtype=jnp.int32)[None, :], (rows, capacity))
    nothing = jnp.zeros((rows, capacity), jnp.int32)
    found = (nothing, nothing.astype(jnp.uint32), nothing)
    if total <= PIECE:
        before = jnp.zeros((rows,), jnp.int32)
        found, _ = _search(words, counts, jnp.int32(0), before, wanted, found)
    else:

        def piece(index: Int[Array, ""], carry):
            found, before = carry
            start = index * PIECE
            some = jax.lax.dynamic_slice_in_dim(words, start, PIECE, axis=1)
            many = jax.lax.dynamic_slice_in_dim(counts, start, PIECE, axis=1)
            return _search(some, many, start, before, wanted, found)

        start = (found, jnp.zeros((rows,), jnp.int32))
        found, _ = jax.lax.fori_loop(0, total // PIECE, piece, start)
    index, word, before = found
    return _bit_of_rank(word, wanted - before) * total + index


def _search(
    words: UInt32[Array, "rows words"],
    counts: Int[Array, "rows words"],
    start: Int[Array, ""],
    before: Int[Array, " rows"],
    wanted: Int[Array, "rows capacity"],
    found: Found,
) -> tuple[Found, Int[Array, " rows"]]:
    """The word in which the wanted candidate is, among some consecutive words."""
    index, word, passed = found
    for k in range(words.shape[1]):
        # Words without a chosen candidate are passed over by the next that has one.
        here = wanted >= before[:, None]
        index = jnp.where(here, start + k, index)
        word = jnp.where(here, words[:, k, None], word)
        passed = jnp.where(here, before[:, None], passed)
        before = before + counts[:, k]
    return (index, word, passed), before


def _bit_of_rank(word: UInt32[Array, "..."], rank: Int[Array, "..."]) -> Int[Array, "..."]:
    """The position of the bit that has `rank` set bits below it."""
    position = jnp.zeros_like(rank)
    for half in (16, 8, 4, 2, 1):
        low = word & jnp.uint32((1 << half) - 1)
        below = jax.lax.population_count(low).astype(jnp.int32)
        upper = rank >= below
        rank = jnp.where(upper, rank - below, rank)
        word = jnp.where(upper, word >> jnp.uint32(half), low)
        position = jnp.where(upper, position + half, position)
    return position
