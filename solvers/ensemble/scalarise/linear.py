r"""Linear systems of implicit steps as programs: sparse factors, written out once.

Rosenbrock methods solve, several times in a step,

$$W x = b, \qquad W = d I - J, \qquad d = 1 / (\gamma h).$$

States are put in groups that depend on each other only one way (the strongly connected
components of the sparsity pattern), which are solved one after another; only the matrix
of each group is factorised. Within a group the order is by least fill (Markowitz' count),
and equal values are computed once: sensitivities, whose groups have the matrix of the
states, share its factors.

**No pivoting.** Pivots are the diagonal, whatever their size. That is safe where the
diagonal dominates - for small $h$ always, as $d$ grows - or where the symmetric part of
$W$ is positive definite, or where $-J$ is an M-matrix, as of reactions that turn one into
another. Elsewhere rounding may grow, which the error estimate of the step sees, and a
pivot that vanishes gives infinities and NaN: the step is rejected and its successor is
shorter, with a larger $d$.

Source: T. A. Davis, *Direct Methods for Sparse Linear Systems* (2006), chapter 7.
"""

from typing import NamedTuple

import numpy as np

from solvers.ensemble.scalarise.builder import Builder, Element, Symbol
from solvers.ensemble.scalarise.program import Program


class LinearSolver(NamedTuple):
    """Two programs: the one to run once in a step, the other for each right side.

    - `factorise`: its inputs are those of the Jacobian and, behind them, $d$; its outputs
      are the numbers that `solve` needs, in its order.
    - `solve`: its inputs are those numbers and, behind them, the right side; its outputs
      are the solution.
    """

    factorise: Program
    solve: Program


def linear_solver(jacobian: Program, states: int) -> LinearSolver:
    """The solver of $(d I - J) x = b$.

    **Arguments:**

    - `jacobian`: gives $J$ by rows, `states * states` outputs; what is the constant zero
      in it is never computed with.
    - `states`: how many there are.
    """
    if len(jacobian.outputs) != states * states:
        raise ValueError(
            f"The Jacobian has {len(jacobian.outputs)} outputs, expected {states**2} for "
            f"{states} states."
        )
    builder = Builder(jacobian.inputs + 1, most=100 * (states**3 + len(jacobian.operations)))
    inputs: list[Element] = [Symbol(i) for i in range(jacobian.inputs)]
    matrix = _matrix(builder, builder.append(jacobian, inputs), states)
    groups = _groups(matrix, states)
    orders = [_factorise(builder, matrix, group) for group in groups]
    return _substitution(builder, matrix, orders, states)


Matrix = dict[tuple[int, int], Element]
"""Entries that are not the constant zero, by row and column.

After elimination: factors below the diagonal of the order, reciprocal pivots on it.
"""


def _is_zero(element: Element) -> bool:
    return isinstance(element, float) and element == 0


def _matrix(builder: Builder, jacobian: list[Element], states: int) -> Matrix:
    shift = Symbol(builder.inputs - 1)
    matrix: Matrix = {}
    for place, element in enumerate(jacobian):
        row, column = divmod(place, states)
        entry = builder.make("neg", element)
        if row == column:
            entry = builder.make("sub", shift, element)
        if not _is_zero(entry):
            matrix[row, column] = entry
    return matrix


def _groups(matrix: Matrix, states: int) -> list[list[int]]:
    """Groups of states that depend on each other, each behind those it depends on."""
    reached = np.eye(states)
    for row, column in matrix:
        reached[row, column] = 1
    for _ in range(max(states, 1).bit_length()):
        reached = (reached @ reached > 0).astype(float)
    # Whoever is reached by another, and does not reach it, reaches fewer.
    rows: dict[bytes, list[int]] = {}
    for state in range(states):
        rows.setdefault(reached[state].tobytes(), []).append(state)
    return sorted(rows.values(), key=lambda group: (reached[group[0]].sum(), group[0]))


def _factorise(builder: Builder, matrix: Matrix, group: list[int]) -> list[int]:
    """Factorise the matrix of a group in place; the order of its states."""
    left, order = list(group), []
    while left:
        pivot = min(left, key=lambda k: (_fill(matrix, left, k), k))
        left.remove(pivot)
        order.append(pivot)
        reciprocal = builder.make("div", 1.0, matrix[pivot, pivot])
        matrix[pivot, pivot] = reciprocal
        columns = [j for j in left if (pivot, j) in matrix]
        for i in left:
            if (i, pivot) not in matrix:
                continue
            factor = builder.make("mul", matrix[i, pivot], reciprocal)
            matrix[i, pivot] = factor
            for j in columns:
                change = builder.make("mul", factor, matrix[pivot, j])
                matrix[i, j] = builder.make("sub", matrix.get((i, j), 0.0), change)
    return order


def _fill(matrix: Matrix, left: list[int], k: int) -> int:
    row = sum((k, j) in matrix for j in left if j != k)
    return row * sum((i, k) in matrix for i in left if i != k)


def _substitution(
    builder: Builder, matrix: Matrix, orders: list[list[int]], states: int
) -> LinearSolver:
    numbers: dict[int, int] = {}
    for entry in matrix.values():
        if isinstance(entry, Symbol):
            numbers.setdefault(entry.number, len(numbers))
    solve = Builder(len(numbers) + states, most=100 * (states + len(matrix)))

    def known(row: int, column: int) -> Element:
        entry = matrix.get((row, column), 0.0)
        return Symbol(numbers[entry.number]) if isinstance(entry, Symbol) else entry

    x: list[Element] = [Symbol(len(numbers) + i) for i in range(states)]

    def eliminate(row: int, column: int) -> None:
        change = solve.make("mul", known(row, column), x[column])
        x[row] = solve.make("sub", x[row], change)

    done: list[int] = []
    for order in orders:
        for place, row in enumerate(order):
            for column in (*done, *order[:place]):
                eliminate(row, column)
        for place in range(len(order) - 1, -1, -1):
            row = order[place]
            for column in order[place + 1 :]:
                eliminate(row, column)
            x[row] = solve.make("mul", x[row], known(row, row))
        done += order
    factors: list[Element] = [Symbol(number) for number in numbers]
    return LinearSolver(builder.finish(factors), solve.finish(x))
