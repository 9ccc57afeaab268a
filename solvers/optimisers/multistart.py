"""Many starts of any optimiser, spread over devices, with a reason to stop for each.

The starts advance in *rungs*: a compiled program (`solvers/optimisers/start_queue.py`)
gives each that still runs so many further iterations. Between rungs, outside the program,
the starts that are left are dealt to the devices anew, hopeless ones are given up, and
progress is told. Whatever is decided there depends on the starts alone, so that neither
lanes nor devices change a result.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from solvers.distributed import gather
from solvers.optimisers.base import (
    LeastSquares,
    Minimisation,
    check_bounds,
    full_bounds,
    has_converged,
    stop_names,
)
from solvers.optimisers.start_queue import Question, advance, begin, finish
from solvers.per_shard import Layout, padded
from solvers.sharding import DEVICES, LANES, row_count


WIDTH = 256
"""Lanes of an accelerator, unless the caller says otherwise."""

Report = Callable[[int, int, str], None]
"""Called as `report(done, total, message)`."""


@dataclasses.dataclass(frozen=True)
class Abandonment:
    """When a start is hopeless.

    It is given up if its objective exceeds the best of a start that has converged by more
    than `excess`, and if that much could not be made up in the iterations that are left,
    were each rung to lower it `caution` times as far as the best of the last `rungs`.

    - `excess`: in units of the objective; there an optimum is of no interest.
    - `rungs`: so many must have passed.
    - `caution`: how much faster it may still become.
    """

    excess: float
    rungs: int = 2
    caution: float = 10.0

    def __post_init__(self) -> None:
        if not (self.excess >= 0 and self.rungs >= 1 and self.caution >= 1):
            raise ValueError(
                f"Abandonment: excess, rungs and caution are {self.excess:g}, {self.rungs} and "
                f"{self.caution:g}; expected at least 0, 1 and 1."
            )

    def judge(
        self,
        history: list[np.ndarray],
        converged: np.ndarray,
        left: np.ndarray,
    ) -> np.ndarray:
        """Which starts are hopeless, shape `(starts,)`.

        **Arguments:**

        - `history`: objectives after each rung, the last one last.
        - `converged`: which starts have converged.
        - `left`: rungs that each start may still make.
        """
        now = history[-1]
        if len(history) <= self.rungs or not np.any(converged):
            return np.zeros(now.shape, dtype=bool)
        recent = np.stack(history[-self.rungs - 1 :])
        with np.errstate(invalid="ignore"):
            fastest = np.max(recent[:-1] - recent[1:], axis=0)
            gap = now - np.min(now[converged])
            return (gap > self.excess) & (gap > self.caution * fastest * left)


class Optima(eqx.Module):
    """What `optimise_many` returns: plain arrays with the starts in front.

    - `value`, `objective`, `stop`, `steps`, `statistics`: as in
      [`Optimum`][solvers.optimisers.base.Optimum].
    - `evidence`: what the check found; without one of your own the relative distance to the
      lowest point down the gradient.
    - `ticks`: how often the loop went round on each device, shape `(devices,)`.
    """

    value: PyTree
    objective: Float[np.ndarray, " starts"]
    stop: Any
    steps: Int[np.ndarray, " starts"]
    statistics: dict[str, Any]
    evidence: PyTree
    ticks: Int[np.ndarray, " devices"]

    @property
    def converged(self) -> Array:
        """Which stopped for a good reason."""
        return has_converged(self.stop)

    def reasons(self) -> list[str]:
        """The name of the reason to stop of each start, a member of `STOP`."""
        names = stop_names()
        return [names[i] for i in np.asarray(self.stop._value).tolist()]


def optimise_many(
    problem: Minimisation | LeastSquares,
    method: Any,
    starts: PyTree,
    args: PyTree = None,
    *,
    max_steps: int = 1000,
    rung: int = 10,
    lanes: int | None = None,
    mesh: Mesh | None = None,
    abandonment: Abandonment | None = None,
    check: Callable[[PyTree, PyTree], tuple[Any, PyTree]] | None = None,
    options: dict[str, Any] | None = None,
    report: Report | None = None,
) -> Optima:
    """Solve an optimisation problem from many starts.

    **Arguments:**

    - `problem`, `method`, `args`, `max_steps`: as for
      [`optimise`][solvers.optimisers.base.optimise]. The programs are compiled once for each
      function, so give the same object each time.
    - `starts`: a pytree like the start of `optimise`, the starts in front of each leaf.
    - `rung`: iterations of each start between two looks at all of them.
    - `lanes`: starts that run side by side on a device, those that are through replaced by
      the next. Default: one on a CPU, where lanes wait for the slowest of them, and up to
      256 on an accelerator.
    - `mesh`: of `solvers.sharding.make_mesh`; the starts are spread over it, on a mesh of
      two axes over the second. `problem.function` may then sum over the rows of the first.
    - `abandonment`: when to give a start up; default: never.
    - `check`: `check(y, args)` is asked once more of every start that succeeded; it returns
      a member of `STOP`, a success or the reason in its place, and any evidence. Without one
      the projected gradient is looked at, see `solvers.optimisers.stationarity`.
    - `options`: what methods of optimistix read.
    - `report`: told after every rung how many starts have ended.

    **Returns:** `Optima`, in the order of the starts, the same for any lanes and devices. No
    start that fails raises: look at `Optima.stop`.

    **Raises:** `ValueError` for starts whose leaves differ in number, for bounds that cross
    or starts outside them, a function whose result has the wrong shape, and for `rung`,
    `lanes` or `max_steps` below one.
    """
    for name, number in (("max_steps", max_steps), ("rung", rung), ("lanes", lanes)):
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}, expected at least 1.")
    starts = jax.tree.map(lambda leaf: np.asarray(leaf, dtype=float), starts)
    count, first = row_count(starts), jax.tree.map(lambda leaf: leaf[0], starts)
    lower, upper = full_bounds(first, problem.lower, problem.upper)
    for i in range(count):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], starts)
        check_bounds(one, lower, upper, f" of start {i}")
    options = {**(options or {}), "lower": lower, "upper": upper}
    layout = None if mesh is None else _layout(mesh)
    question = Question(problem, method, args, options, check)
    devices = 1 if layout is None else layout.shards
    table = _Table(count, count if layout is None else padded(count, layout), devices)
    if lanes is None:
        lanes = 1 if jax.default_backend() == "cpu" else WIDTH
    lanes = min(lanes, table.size // devices)
    given = jax.tree.map(lambda leaf: leaf[table.owners()], starts)
    runs = begin(question, given, layout)
    limits = (jnp.asarray(rung), jnp.asarray(max_steps))
    while table.busy(max_steps).any():
        order, busy = table.deal(max_steps)
        runs, ticks = advance(question, runs, order, busy, limits, lanes, layout)
        told = (runs.objective, runs.steps, runs.done, runs.success, ticks)
        table.note(*_fetch(told))
        if abandonment is not None:
            left = np.ceil((max_steps - table.steps) / rung)
            table.give_up(abandonment.judge(table.history, table.success, left), max_steps)
        if report is not None:
            report(int(np.sum(~table.busy(max_steps)[:count])), count, "starts")
    end = finish(question, runs, table.places(), given, table.abandoned, lanes, layout)
    end = jax.tree.map(lambda leaf: leaf[:count], _fetch(end))
    steps = table.steps[:count]
    return Optima(
        end.value, end.objective, end.stop, steps, end.statistics, end.evidence, table.ticks
    )


def _layout(mesh: Mesh) -> Layout:
    for axis in (LANES, DEVICES):
        if axis in mesh.axis_names:
            return Layout(mesh, axis)
    raise ValueError(f"The mesh has the axes {mesh.axis_names}: expected one of make_mesh.")


def _fetch(tree: PyTree) -> Any:
    """As plain arrays, whole in every process of the mesh."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return jax.tree.map(np.asarray, tree)
    return gather(tree)


class _Table:
    """What the host knows of each start, in the order of the starts.

    Rows beyond `count` only fill up the devices: they are copies, and never busy.
    """

    def __init__(self, count: int, size: int, devices: int):
        self.count, self.size, self._devices = count, size, devices
        self.steps = np.zeros(size, dtype=int)
        self.done = np.arange(size) >= count
        self.success = np.zeros(size, dtype=bool)
        self.abandoned = np.zeros(size, dtype=bool)
        self.history: list[np.ndarray] = []
        self.ticks = np.zeros(devices, dtype=int)
        self._rows = np.arange(size)

    def owners(self) -> np.ndarray:
        """Which start stands in each row at the beginning."""
        return np.minimum(np.arange(self.size), self.count - 1)

    def busy(self, max_steps: int) -> np.ndarray:
        """Which starts still run."""
        return ~self.done & ~self.abandoned & (self.steps < max_steps)

    def deal(self, max_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Deal the busy starts to the devices, like cards; the others fill up behind them.

        Returns the row of each start in its new place, and which are busy.
        """
        busy = self.busy(max_steps)
        working, idle = np.flatnonzero(busy), iter(np.flatnonzero(~busy))
        each, hands = self.size // self._devices, []
        for device in range(self._devices):
            hand = working[device :: self._devices].tolist()
            hands += hand + [next(idle) for _ in range(each - len(hand))]
        dealt = np.array(hands)
        order = self._rows[dealt]
        self._rows = np.argsort(dealt)
        return order, busy[dealt]

    def places(self) -> np.ndarray:
        """The row of each start."""
        return self._rows

    def note(
        self,
        objective: np.ndarray,
        steps: np.ndarray,
        done: np.ndarray,
        success: np.ndarray,
        ticks: np.ndarray,
    ) -> None:
        """Take down what a rung came to, told by rows."""
        rows = self._rows
        self.steps, self.success = steps[rows], success[rows]
        self.done = done[rows] | (np.arange(self.size) >= self.count)
        self.history.append(objective[rows])
        self.ticks = self.ticks + ticks

    def give_up(self, hopeless: np.ndarray, max_steps: int) -> None:
        """End those of the busy starts that are hopeless."""
        self.abandoned |= hopeless & self.busy(max_steps)
