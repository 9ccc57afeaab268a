"""The door of batches: many systems that move at once in one compiled program."""

import concurrent.futures
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from solvers.molecular.batch_kernel import Systems, advance, begin, observe
from solvers.molecular.batch_start import (
    check_methods,
    model_alone,
    one_state,
    refuse_overlaps,
    stack,
)
from solvers.molecular.driver import Run, check_counts
from solvers.molecular.dynamics import AbstractDynamics
from solvers.molecular.engine import Engine
from solvers.molecular.precision import Precision, in_precision
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.state import MolecularState
from solvers.molecular.status import EXPLODED, NAMES, SUCCESSFUL, describe
from solvers.molecular.trajectory import MolecularTrajectory, gather_frames, speeds


_ROWS_OF_A_GROUP = 3200
"""Particles that are computed together: their arrays fit in the cache of a core."""

_FEWEST_SYSTEMS = 8
"""A group is not smaller, so that the lanes of vectors are full."""


class MolecularBatch:
    """What the systems of a batch did: as many trajectories as there were problems.

    `len(batch)`, `batch.trajectory(i)` and `for trajectory in batch` are of systems in the
    order of the problems.

    - `statuses`, `messages`: how each system ended, and in words if not well.
    - `steps`: how many good steps each took, shape `(systems,)`.
    - `engine`, `engine_reason`: what summed over pairs, and why that one.
    - `statistics`: `seconds`, `steps_per_second` (of all systems together).
    """

    def __init__(
        self,
        problems: Sequence[MolecularProblem],
        frames: list[list[dict[str, np.ndarray]]],
        states: MolecularState,
        faults: dict[int, tuple[int, str]],
        time_steps: np.ndarray,
        seconds: float,
        engine: tuple[str, str],
    ):
        self._problems, self._frames = problems, frames
        self._states, self._time_steps = states, time_steps
        count = len(problems)
        codes = [faults[i][0] if i in faults else SUCCESSFUL for i in range(count)]
        self.statuses = tuple(NAMES[code] for code in codes)
        self.messages = tuple(faults[i][1] if i in faults else "" for i in range(count))
        self.steps = np.asarray(states.step)[:count]
        self.engine, self.engine_reason = engine
        taken = int(self.steps.sum())
        self.statistics = {
            "seconds": seconds,
            "steps_per_second": taken / max(seconds, 1e-9),
        }

    def __len__(self) -> int:
        return len(self._problems)

    def __iter__(self) -> Iterator[MolecularTrajectory]:
        return (self.trajectory(place) for place in range(len(self)))

    @property
    def succeeded(self) -> bool:
        """Whether every system took every step."""
        return all(status == "successful" for status in self.statuses)

    def trajectory(self, place: int) -> MolecularTrajectory:
        """The trajectory of one system, as `run_dynamics` gives it; up to its last good step.

        Raises `IndexError` for a number that no problem has.
        """
        if not -len(self) <= place < len(self):
            raise IndexError(f"There is no system {place} in a batch of {len(self)}.")
        place = range(len(self))[place]
        problem = self._problems[place]
        particles = problem.model.particles
        # Frames after the last good step repeat it.
        steps = [frame["steps"] for frame in self._frames[place]]
        good = np.flatnonzero(np.diff(steps, prepend=-1) > 0)
        part = {}
        for name in self._frames[place][0]:
            mine = np.stack([self._frames[place][i][name] for i in good])
            per_particle = name in ("positions", "velocities", "forces")
            part[name] = mine[:, :particles] if per_particle else mine
        time_step = float(self._time_steps[place])
        part["times"] = part["steps"] * time_step
        counts = {
            "steps": int(self.steps[place]),
            "lists": 0,
            "growths": 0,
            "seconds": self.statistics["seconds"],
        }
        return MolecularTrajectory(
            **gather_frames([part]),
            units=problem.model.units,
            status=self.statuses[place],
            message=self.messages[place],
            state=one_state(self._states, place, particles),
            statistics=speeds(counts, time_step, problem.model.units),
            engine=self.engine,
            engine_reason=self.engine_reason,
        )


def run_batch(
    problems: Sequence[MolecularProblem],
    method: AbstractDynamics | Sequence[AbstractDynamics],
    *,
    steps: int,
    save_every: int = 100,
    precision: Precision = "double",
    save: tuple[Literal["velocities", "forces"], ...] = ("velocities",),
    engine: Engine = "auto",
    mesh: Mesh | None = None,
) -> MolecularBatch:
    """Molecular dynamics of many systems at once, in one compiled program.

    Systems may differ in everything that is a number: how many particles they have, boxes,
    species, masses, parameters, velocities, keys, temperatures and time steps. Smaller ones
    are padded; what pads has no part in any sum. Forces are sums over all pairs of a system:
    no list is made, and none can overflow. For systems of some thousand particles run
    [`run_dynamics`][solvers.molecular.driver.run_dynamics] for one after another.

    A system that explodes stops at its last good step, with a status and a sentence of its
    own; the others go on as if it were not there. Noise depends on the key of a problem, the
    step and the particle, so that a system moves as it would alone, but for rounding.

    **Arguments:**

    - `problems`: what moves; models and boxes of one kind. Replicas are one problem with
      several keys.
    - `method`: one for all, or one for each, of one kind: velocity Verlet, a thermostat, or
      [`StochasticCellRescaling`][solvers.molecular.barostats.StochasticCellRescaling].
    - `steps`, `save_every`, `precision`, `save`: as of `run_dynamics`.
    - `engine`: what sums over pairs: `"native"`, a compiled kernel with one system in each
      lane of a vector (double precision), `"jax"`, or `"auto"`: native where that can serve.
      The result says which, and why.
    - `mesh`: devices to spread the systems over, from
      [`make_mesh`][solvers.sharding.make_mesh]; they do not talk to each other. Left out,
      the systems are spread over the cores of this process.

    Raises `ValueError` for no problems, counts that are not positive, models, boxes or
    methods of several kinds, a box narrower than twice the range, and atoms that overlap,
    naming the problem; and as
    [`EngineRefusal`][solvers.ensemble.law.EngineRefusal] where the compiled engine is asked
    for and cannot serve.
    """
    check_counts(steps, save_every, "run_batch")
    problems = list(problems)
    if not problems:
        raise ValueError("run_batch: there are no problems, expected one or more.")
    methods = check_methods(method, len(problems))
    began = time.perf_counter()
    systems, reason = stack(problems, methods, precision, engine)
    groups = _groups(problems)
    places = list(mesh.devices.flat) if mesh is not None else [None]
    crew = len(places) if mesh is not None else usable_cores()

    def one(number: int) -> Any:
        device, members = places[number % len(places)], groups[number]
        chosen = jax.tree.map(lambda leaf: jax.device_put(leaf[members], device), systems)
        return _run(chosen, problems, methods, members, steps, save_every, save)

    with concurrent.futures.ThreadPoolExecutor(crew) as pool:
        done = list(pool.map(one, range(len(groups))))
    states, going, frames = _in_order(done, groups, len(problems))
    return MolecularBatch(
        problems,
        frames,
        states,
        _faults(states, going, problems, methods, precision),
        np.asarray([float(m.duration) for m in methods]),
        time.perf_counter() - began,
        (systems.engine, reason),
    )


def _groups(problems: Sequence[MolecularProblem]) -> list[np.ndarray]:
    """The systems that are computed together: so few that they stay near the processor.

    All groups have one size, so that one program serves them; copies fill up the last one.
    They are sorted by size, so that the work on padding is small.
    """
    sizes = [problem.model.particles for problem in problems]
    order = np.argsort(sizes, kind="stable")
    size = max(_FEWEST_SYSTEMS, _ROWS_OF_A_GROUP // max(sizes) // 8 * 8)
    size = min(size, -(-len(order) // usable_cores()))
    order = np.concatenate([order, np.full(-len(order) % size, order[-1])])
    return list(order.reshape(-1, size))


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run(
    systems: Systems,
    problems: Sequence[MolecularProblem],
    methods: Sequence[AbstractDynamics],
    numbers: np.ndarray,
    steps: int,
    save_every: int,
    save: tuple[str, ...],
) -> tuple[MolecularState, np.ndarray, list[dict[str, np.ndarray]]]:
    """All steps of one group; its last states, which still go, and its frames."""
    systems = eqx.tree_at(lambda s: s.states, systems, begin(systems))
    refuse_overlaps(systems, problems, methods, list(numbers))
    frames = [_frame(systems, save)]
    for stop in range(save_every, steps + save_every, save_every):
        states, going = advance(systems, jnp.asarray(min(stop, steps)))
        systems = eqx.tree_at(lambda s: (s.states, s.going), systems, (states, going))
        if not bool(jnp.any(going)):
            break
        if stop <= steps:
            frames.append(_frame(systems, save))
    return jax.tree.map(np.asarray, systems.states), np.asarray(systems.going), frames


def _frame(systems: Systems, save: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {name: np.asarray(v) for name, v in observe(systems, tuple(save)).items()}


def _in_order(
    done: list[Any], groups: list[np.ndarray], count: int
) -> tuple[MolecularState, np.ndarray, list[list[dict[str, np.ndarray]]]]:
    """States, which still go, and frames of every system, in the order of the problems."""
    # Of copies any one will do.
    back = np.zeros(count, int)
    back[np.concatenate(groups)] = np.arange(sum(map(len, groups)))
    states = jax.tree.map(
        lambda *parts: np.concatenate(parts)[back], *[states for states, _, _ in done]
    )
    going = np.concatenate([going for _, going, _ in done])[back]
    size = len(groups[0])
    frames = [
        [
            {name: v[place % size] for name, v in frame.items()}
            for frame in done[place // size][2]
        ]
        for place in back
    ]
    return states, going, frames


def _faults(
    states: MolecularState,
    going: np.ndarray,
    problems: Sequence[MolecularProblem],
    methods: Sequence[AbstractDynamics],
    precision: Precision,
) -> dict[int, tuple[int, str]]:
    """The status and the sentence of each system that stopped."""
    faults = {}
    for place in map(int, np.flatnonzero(~going)):
        problem = problems[place]
        state = one_state(states, place, problem.model.particles)
        model = model_alone(problem, precision, methods[place])
        method = in_precision(problem.model, methods[place], precision)[1]
        run = Run(model, method, state, 1, ("velocities",), [])
        step = int(state.step) + 1
        # Alone the step may pass by a hair where it failed in the batch.
        fault = run.go(step, None) or (EXPLODED, describe(EXPLODED, step, 0))
        faults[place] = fault
    return faults
