"""Sparsity patterns, and colourings by which few products give a whole sparse matrix.

Columns of one colour are found together from one product. All of this is done once, in
NumPy, before anything is compiled.
"""

import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PRNGKeyArray, PyTree

from solvers.curvature.dense import hessian, jacobian
from solvers.curvature.flat import MEMORY, floating


@dataclass(frozen=True, eq=False)
class SparsityPattern:
    """Where a matrix may have entries that are not zero.

    - `rows`, `columns`: their indices, by rows, each pair once.
    - `shape`: of the matrix.
    """

    rows: np.ndarray
    columns: np.ndarray
    shape: tuple[int, int]

    @staticmethod
    def from_indices(rows: Any, columns: Any, shape: tuple[int, int]) -> "SparsityPattern":
        """From index pairs in any order, repeated or not.

        Raises `ValueError` for indices outside the shape.
        """
        rows, columns = np.asarray(rows, dtype=int), np.asarray(columns, dtype=int)
        for index, size, name in ((rows, shape[0], "row"), (columns, shape[1], "column")):
            wrong = index[(index < 0) | (index >= size)]
            if wrong.size:
                raise ValueError(
                    f"The pattern has the {name} {wrong[0]}, expected 0 to {size - 1}."
                )
        kept = np.unique(rows * shape[1] + columns)
        return SparsityPattern(kept // shape[1], kept % shape[1], (shape[0], shape[1]))

    @staticmethod
    def from_mask(mask: Any) -> "SparsityPattern":
        """From a dense matrix: wherever it is not zero."""
        mask = np.asarray(mask)
        rows, columns = np.nonzero(mask)
        return SparsityPattern.from_indices(rows, columns, (mask.shape[0], mask.shape[1]))

    @property
    def entries(self) -> int:
        """How many there are."""
        return self.rows.size

    def transposed(self) -> "SparsityPattern":
        """Of the transposed matrix."""
        return SparsityPattern.from_indices(
            self.columns, self.rows, (self.shape[1], self.shape[0])
        )

    def symmetric(self) -> "SparsityPattern":
        """With the mirror image of every entry, and the diagonal.

        Raises `ValueError` if the matrix is not square.
        """
        if self.shape[0] != self.shape[1]:
            raise ValueError(f"A pattern of shape {self.shape} cannot be symmetric.")
        diagonal = np.arange(self.shape[0])
        return SparsityPattern.from_indices(
            np.concatenate([self.rows, self.columns, diagonal]),
            np.concatenate([self.columns, self.rows, diagonal]),
            self.shape,
        )

    def neighbours(self) -> list[list[int]]:
        """The columns of the entries of each row."""
        ends = np.searchsorted(self.rows, np.arange(self.shape[0] + 1))
        return [self.columns[a:b].tolist() for a, b in itertools.pairwise(ends)]


@dataclass(frozen=True, eq=False)
class Colouring:
    """Which columns are found together, and where each entry is then read.

    - `colours`: the colour of each column (of each row, if `by_rows`).
    - `count`: how many colours, which is how many products are needed.
    - `read_row`, `read_colour`: where the compressed products hold each entry.
    """

    pattern: SparsityPattern
    colours: np.ndarray
    count: int
    read_row: np.ndarray
    read_colour: np.ndarray
    by_rows: bool = False
    is_symmetric: bool = False


def colour_jacobian(pattern: SparsityPattern, *, by_rows: bool | None = None) -> Colouring:
    """Colours such that no two columns of a colour have an entry in the same row.

    - `by_rows`: colour rows instead, for products in reverse mode; default: whichever takes
      fewer colours, columns if equal.

    Greedy, columns of many entries first.

    Source: A. R. Curtis, M. J. D. Powell and J. K. Reid, J. Inst. Math. Appl. 13, 117
    (1974).
    """
    if by_rows is None:
        columns, rows = (colour_jacobian(pattern, by_rows=way) for way in (False, True))
        return rows if rows.count < columns.count else columns
    one = pattern.transposed() if by_rows else pattern
    in_row, in_column = one.neighbours(), one.transposed().neighbours()
    colours = np.full(one.shape[1], -1)
    for column in sorted(range(one.shape[1]), key=lambda j: -len(in_column[j])):
        taken = {int(colours[other]) for row in in_column[column] for other in in_row[row]}
        colours[column] = _first_free(taken)
    read_row, read_column = pattern.rows, pattern.columns
    if by_rows:
        read_row, read_column = read_column, read_row
    count = int(colours.max(initial=0)) + 1
    return Colouring(pattern, colours, count, read_row, colours[read_column], by_rows)


def colour_hessian(pattern: SparsityPattern) -> Colouring:
    """A star colouring: neighbours differ, and so does some pair on each path of four.

    Each entry is then alone of its colour in its row, or its mirror image is: symmetry
    saves products. The pattern is completed by `symmetric()`. Greedy, rows of many entries
    first.

    Source: A. H. Gebremedhin, F. Manne and A. Pothen, SIAM Rev. 47, 629 (2005),
    algorithm 4.1.
    """
    pattern = pattern.symmetric()
    size = pattern.shape[0]
    near = [[j for j in row if j != i] for i, row in enumerate(pattern.neighbours())]
    colours = np.full(size, -1)
    for vertex in sorted(range(size), key=lambda i: -len(near[i])):
        colours[vertex] = _first_free(_forbidden(vertex, near, colours))
    count = int(colours.max(initial=0)) + 1
    alone = np.zeros((size, count), int)
    np.add.at(alone, (pattern.rows, colours[pattern.columns]), 1)
    direct = alone[pattern.rows, colours[pattern.columns]] == 1
    read_row = np.where(direct, pattern.rows, pattern.columns)
    read_colour = np.where(direct, colours[pattern.columns], colours[pattern.rows])
    assert np.all(alone[read_row, read_colour] == 1), "not a star colouring"
    return Colouring(pattern, colours, count, read_row, read_colour, is_symmetric=True)


def _forbidden(vertex: int, near: list[list[int]], colours: np.ndarray) -> set[int]:
    """Colours that would make a neighbour equal, or a path of four of two colours."""
    taken = set()
    for one in near[vertex]:
        middle = colours[one]
        taken.add(int(middle))
        for two in near[one]:
            if two == vertex or colours[two] < 0:
                continue
            closes = middle < 0 or any(colours[x] == middle for x in near[two] if x != one)
            if closes:
                taken.add(int(colours[two]))
    return taken


def _first_free(taken: set[int]) -> int:
    colour = 0
    while colour in taken:
        colour += 1
    return colour


def probed_jacobian_pattern(
    function: Callable[[Any, Any], Any],
    y: PyTree,
    args: PyTree = None,
    *,
    key: PRNGKeyArray,
    probes: int = 2,
    spread: float = 0.1,
    memory: int = MEMORY,
) -> SparsityPattern:
    """Where the Jacobian is not zero at random points about `y`.

    It costs a dense Jacobian for each of the `probes`, and serves whatever can be
    differentiated, trajectories too. An entry that is zero at all points, as behind a
    branch that none takes, is missed: `SparseMatrix.discrepancy` tells. The points are
    `y + spread * (1 + |y|) * u` with `u` between -1 and 1.
    """
    return _probed(lambda y: jacobian(function, y, args, memory=memory), y, key, probes, spread)


def probed_hessian_pattern(
    objective: Callable[[Any, Any], Any],
    y: PyTree,
    args: PyTree = None,
    *,
    key: PRNGKeyArray,
    probes: int = 2,
    spread: float = 0.1,
    forward_only: bool = False,
    memory: int = MEMORY,
) -> SparsityPattern:
    """The same for the Hessian of a scalar."""
    return _probed(
        lambda y: hessian(objective, y, args, memory=memory, forward_only=forward_only),
        y,
        key,
        probes,
        spread,
    )


def _probed(
    matrix: Callable[[Any], Any], y: PyTree, key: PRNGKeyArray, probes: int, spread: float
) -> SparsityPattern:
    if probes < 1:
        raise ValueError(f"{probes} probes find no pattern, expected at least 1.")
    flat, unravel = ravel_pytree(floating(y))
    mask: Any = False
    compiled = jax.jit(lambda x: matrix(unravel(x)) != 0)
    for one in jax.random.split(key, probes):
        shift = jax.random.uniform(one, flat.shape, flat.dtype, -1, 1)
        mask = mask | np.asarray(compiled(flat + spread * (1 + jnp.abs(flat)) * shift))
    return SparsityPattern.from_mask(mask)


def analysed_jacobian_pattern(
    function: Callable[[Any, Any], Any], y: PyTree, args: PyTree = None
) -> SparsityPattern:
    """Where the Jacobian can be anything but zero, at whatever point, by its program.

    By the library asdex (extra `sparse`), which follows dependences through the traced
    program and evaluates nothing. It serves vector fields and stencils, not trajectories.

    **Raises:** `ImportError` without asdex.
    """
    flat, unravel = ravel_pytree(floating(y))

    def on_vectors(x: Any) -> Any:
        return ravel_pytree(function(unravel(x), args))[0]

    return _from_asdex(_asdex().jacobian_sparsity(on_vectors, flat))


def analysed_hessian_pattern(
    objective: Callable[[Any, Any], Any], y: PyTree, args: PyTree = None
) -> SparsityPattern:
    """The same for the Hessian of a scalar."""
    flat, unravel = ravel_pytree(floating(y))
    found = _asdex().hessian_sparsity(lambda x: objective(unravel(x), args), flat)
    return _from_asdex(found)


def _asdex() -> Any:
    try:
        # By name, as type checkers of newer Pythons do not find it.
        return importlib.import_module("asdex")
    except ImportError as error:
        raise ImportError(
            f"The analysis of sparsity needs asdex, which is not to be had ({error}): pip "
            "install 'simkit-jax[sparse]' (Python 3.11; asdex 0.5 knows no jax 0.12). "
            "probed_jacobian_pattern and probed_hessian_pattern do without."
        ) from error


def _from_asdex(found: Any) -> SparsityPattern:
    return SparsityPattern.from_indices(found.rows, found.cols, found.shape)
