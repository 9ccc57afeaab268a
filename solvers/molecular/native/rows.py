"""Rows of four numbers, gathered for many lanes at once: four loads and a transposition.

A particle's coordinates stand side by side, so that they come with one load. Eight of these
and a few shuffles are quicker than three instructions that gather, which fetch number by
number.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from solvers.ensemble.native.build import I32, Build


WIDTH = 4
"""Numbers in a row."""


def gather_rows(b: Build, base: Any, kind: Any, rows: Sequence[Any], count: int) -> list[Any]:
    """The first `count` columns of some rows, each a vector with a lane for each row.

    **Arguments:**

    - `base`: the address of the first row.
    - `kind`: of the numbers.
    - `rows`: the numbers of the rows, scalars; a multiple of four of them.
    """
    wide = ir.VectorType(kind, WIDTH)
    loaded = [b.ir.load(b.at(wide, base, row), typ=wide, align=16) for row in rows]
    return _transposed(b, loaded, is_wide(kind))[:count]


def is_wide(kind: Any) -> bool:
    """Whether a number takes 64 bits."""
    return isinstance(kind, ir.DoubleType)


def _transposed(b: Build, rows: list[Any], doubles: bool) -> list[Any]:
    """Four columns of rows of four; lanes in the order of the rows."""
    groups = len(rows) // WIDTH
    # Row k of each group of four, side by side.
    beside = [joined(b, rows[k::WIDTH]) for k in range(WIDTH)]
    lanes = WIDTH * groups

    def mix(x: Any, y: Any, places: tuple[int, int, int, int]) -> Any:
        """In each group elements of `x` (0 to 3) and `y` (4 to 7)."""
        chosen = [
            (p if p < WIDTH else p - WIDTH + lanes) + WIDTH * g
            for g in range(groups)
            for p in places
        ]
        return shuffled(b, x, y, chosen)

    # The orders in which the shuffles of x86 take elements of 64 and of 32 bits.
    first, second = ((0, 4, 2, 6), (1, 5, 3, 7)) if doubles else ((0, 4, 1, 5), (2, 6, 3, 7))
    low, high = (0, 1, 4, 5), (2, 3, 6, 7)
    upper = [mix(beside[0], beside[1], places) for places in (first, second)]
    lower = [mix(beside[2], beside[3], places) for places in (first, second)]
    if doubles:
        pairs = [(0, low), (1, low), (0, high), (1, high)]
    else:
        pairs = [(0, low), (0, high), (1, low), (1, high)]
    return [mix(upper[k], lower[k], places) for k, places in pairs]


def joined(b: Build, vectors: Sequence[Any]) -> Any:
    """Vectors of one length, one after the other as one; a power of two of them."""
    parts = list(vectors)
    while len(parts) > 1:
        count = parts[0].type.count
        parts = [
            shuffled(b, x, y, range(2 * count))
            for x, y in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]


def shuffled(b: Build, x: Any, y: Any, places: Sequence[int]) -> Any:
    """Elements of two vectors, those of the second counted on from the first."""
    mask = ir.Constant(ir.VectorType(I32, len(places)), list(places))
    return b.ir.shuffle_vector(x, y, mask)


def sum_of_lanes(b: Build, vector: Any) -> Any:
    """The sum of all elements, always in the same order: halves first."""
    while vector.type.count > 1:
        half = vector.type.count // 2
        nothing = ir.Constant(vector.type, ir.Undefined)
        low = shuffled(b, vector, nothing, range(half))
        high = shuffled(b, vector, nothing, range(half, 2 * half))
        vector = b.ir.fadd(low, high)
    return b.ir.extract_element(vector, ir.Constant(I32, 0))
