"""The door of molecular dynamics: a problem and a method in, a trajectory out."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from solvers.molecular.dynamics import AbstractDynamics
from solvers.molecular.engine import Engine, choose_engine
from solvers.molecular.kernel import Block, find_fault, observe_once, run_block
from solvers.molecular.lists import first_list, for_engine
from solvers.molecular.precision import Precision, in_precision
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.start import choose_skin, initial_state, step_limit
from solvers.molecular.state import MolecularState
from solvers.molecular.status import (
    BAD,
    CONVERGED,
    NAMES,
    NONFINITE,
    OVERFLOW,
    MolecularError,
    describe,
)
from solvers.molecular.trajectory import MolecularTrajectory, gather_frames, speeds
from systems.molecular.model import MolecularModel


# Bytes that the frames of one block may take, and frames that it has at most.
_BLOCK_BYTES = 2**26
_BLOCK_FRAMES = 64
# Seconds between two reports of progress, about.
_BLOCK_SECONDS = 1.0
# Growths without a step between them, after which something else is wrong.
_MOST_GROWTHS = 12


class Progress(eqx.Module):
    """What a run tells while it goes on.

    - `step`, `stop`: where it is, and where it will end.
    - `steps_per_second`: of the last block.
    - `time_per_day`: simulated time in a day of computing, in the unit of time.
    - `temperature`: of the last saved frame; `None` before the first one.
    """

    step: int
    stop: int
    steps_per_second: float
    time_per_day: float
    temperature: float | None


def run_dynamics(
    problem: MolecularProblem,
    method: AbstractDynamics,
    *,
    steps: int,
    save_every: int = 100,
    state: MolecularState | None = None,
    precision: Precision = "double",
    engine: Engine = "auto",
    skin: float | None = None,
    lists: bool | None = None,
    save: tuple[Literal["velocities", "forces"], ...] = ("velocities",),
    progress: Callable[[Progress], Any] | None = None,
    throw: bool = True,
) -> MolecularTrajectory:
    """Molecular dynamics of a problem by a method.

    Steps run in one compiled loop, in which neighbour lists are made anew when something
    has moved half the skin. A list that becomes too small is made larger, and the run goes
    on from the last good step. A run in segments, each from the `state` of the last one,
    gives the same bits as the whole run on the same machine.

    **Arguments:**

    - `problem`, `method`: what moves, and how; the method has the time step.
    - `steps`: how many to take, counted from `state`.
    - `save_every`: a frame is saved at each step that is a multiple of it, counted from the
      start of the problem, and at that start.
    - `state`: where to go on, from a trajectory of the same problem and method.
    - `precision`: `"double"`, `"single"`, or `"mixed"`: forces of pairs in single, sums and
      motion in double precision.
    - `engine`: what sums over pairs: `"jax"`, `"native"` (kernels compiled for this
      processor, with neighbour lists), or `"auto"`: native where that can serve. The
      trajectory tells by `engine` and `engine_reason` which it was. Lists are made by a
      kernel unless `"jax"` was asked for, where this machine serves.
    - `skin`: how much further lists reach than forces, in the unit of length; a fifth of
      the range if left out. It changes the speed, and the result only by rounding.
    - `lists`: `True` for neighbour lists, `False` for all pairs; left out, lists are used
      from 150 particles on, where the box is wide enough for them.
    - `save`: what each frame has beside positions and energies.
    - `progress`: called after every block of steps, about once a second.
    - `throw`: raise [`MolecularError`][solvers.molecular.status.MolecularError] for a run
      that explodes, which has the trajectory so far; else the trajectory tells by its
      `status`.

    Raises `ValueError` for counts that are not positive, atoms that overlap at the start,
    naming them, a box too narrow for the range of a list, and (`EngineRefusal`) if the
    native engine was asked for and cannot serve.
    """
    check_counts(steps, save_every)
    model, method, dtype = in_precision(problem.model, method, precision)
    lists = True if lists is None and engine == "native" else lists
    if state is None:
        with_lists = choose_skin(problem.model, problem.box, skin, lists) is not None
    else:
        with_lists = state.neighbours is not None
    chosen = choose_engine(engine, model, problem.box, with_lists=with_lists)
    model = chosen.model
    parts: list[dict[str, np.ndarray]] = []
    if state is None:
        state = initial_state(
            eqx.tree_at(lambda p: p.model, problem, model),
            method,
            dtype=dtype,
            skin=skin,
            lists=lists,
            engine=engine,
        )
        first = observe_once(method, model, state, tuple(save))
        parts.append({name: np.asarray(value)[None] for name, value in first.items()})
    run = Run(model, method, for_engine(state, engine), save_every, tuple(save), parts)
    fault = run.go(int(state.step) + steps, progress)
    trajectory = dataclasses.replace(
        run.trajectory(fault), engine=chosen.engine, engine_reason=chosen.reason
    )
    if throw and fault:
        raise MolecularError(fault[1], trajectory)
    return trajectory


class Run:
    """The loop outside compiled programs: blocks, growth, and what they gave."""

    def __init__(
        self,
        model: MolecularModel,
        method: AbstractDynamics,
        state: MolecularState,
        save_every: int,
        save: tuple[str, ...],
        parts: list[dict[str, np.ndarray]],
    ):
        self.model, self.method, self.state = model, method, state
        self.save_every, self.save, self.parts = save_every, save, parts
        self.limit = jnp.asarray(step_limit(model), state.positions.dtype)
        self.lists = self.growths = self.stuck = 0
        self.began, self.first_step = time.perf_counter(), int(state.step)
        frame = 8 * (9 * model.particles + 40)
        self.room = max(1, min(_BLOCK_FRAMES, _BLOCK_BYTES // frame))
        self.time_step = float(method.duration)
        self.converged = False

    def go(
        self, stop: int, progress: Callable[[Progress], Any] | None
    ) -> tuple[int, str] | None:
        """Run to a step; the status and the sentence of a fault, if there was one."""
        length = self.save_every
        while int(self.state.step) < stop and not self.converged:
            begin, before = time.perf_counter(), int(self.state.step)
            target = min(stop, before + length)
            fault = self._take(self._block(target))
            if fault is not None:
                return fault
            taken = int(self.state.step) - before
            rate = taken / max(time.perf_counter() - begin, 1e-6)
            if progress is not None:
                self._report(progress, stop, rate)
            # The first block also compiles, so that its pace says little.
            length = max(1, min(int(rate * _BLOCK_SECONDS), 8 * max(length, taken)))
        return None

    def _block(self, stop: int) -> Block:
        return run_block(
            self.method,
            self.model,
            self.state,
            jnp.asarray(stop),
            jnp.asarray(self.save_every),
            self.limit,
            self.room,
            self.save,
        )

    def _take(self, block: Block) -> tuple[int, str] | None:
        """What a block gave; the status and the sentence of a fault, if there was one."""
        saved = int(block.saved)
        if saved:
            self.parts.append(
                {name: np.asarray(values[:saved]) for name, values in block.frames.items()}
            )
        self.lists += int(block.lists)
        self.converged = int(block.status) == CONVERGED
        if int(block.status) != BAD:
            self.state = block.state
            return None
        good = int(block.state.step) - 1
        self.stuck = self.stuck + 1 if good == int(self.state.step) else 0
        if good > int(self.state.step):
            # The same steps once more, up to the last good one.
            self.state = self._block(good).state
        fault = find_fault(self.method, self.model, self.state, self.limit)
        status = int(fault.status)
        if status == OVERFLOW:
            return self._grow()
        box, reach = self.state.box, self.model.range
        if status == NONFINITE and reach is not None and box.periodic:
            # All pairs of a box that shrank below twice the range are no numbers either.
            width = float(jnp.min(box.heights()))
            if width < 2.05 * reach:
                return status, (
                    f"At step {good + 1} the box became {width:.4g} wide, too narrow for twice "
                    f"the range {reach:.4g}. Take more particles or a shorter range."
                )
        return status, describe(status, good + 1, int(fault.atom), float(fault.moved))

    def _grow(self) -> tuple[int, str] | None:
        """A larger list for the last good state."""
        self.growths += 1
        old = self.state.neighbours
        if self.stuck > _MOST_GROWTHS:
            raise RuntimeError(
                f"The neighbour list overflowed at step {int(self.state.step) + 1} however "
                "large it was made: a fault of simkit."
            )
        try:
            grown = first_list(
                self.state.positions,
                self.state.box,
                old.range,
                old.skin,
                spare=1.25 * 1.3**self.stuck,
                kind=type(old),
            )
        except ValueError as error:
            return NAMES.index("exploded"), (
                f"The run cannot go on after step {int(self.state.step)}. {error}"
            )
        self.state = eqx.tree_at(
            lambda s: (s.neighbours, s.stale), self.state, (grown, jnp.asarray(True))
        )
        return None

    def _report(self, progress: Callable[[Progress], Any], stop: int, rate: float) -> None:
        temperature = float(self.parts[-1]["temperature"][-1]) if self.parts else None
        progress(
            Progress(
                step=int(self.state.step),
                stop=stop,
                steps_per_second=rate,
                time_per_day=rate * self.time_step * 86400,
                temperature=temperature,
            )
        )

    def trajectory(self, fault: tuple[int, str] | None) -> MolecularTrajectory:
        """All that was saved."""
        empty = not self.parts
        if empty:
            frame = observe_once(self.method, self.model, self.state, self.save)
            self.parts.append({name: np.asarray(v)[None][:0] for name, v in frame.items()})
        for part in self.parts:
            part["times"] = part["steps"] * self.time_step
        counts = {
            "steps": int(self.state.step) - self.first_step,
            "lists": self.lists,
            "growths": self.growths,
            "seconds": time.perf_counter() - self.began,
        }
        return MolecularTrajectory(
            **gather_frames(self.parts),
            units=self.model.units,
            status=NAMES[fault[0]] if fault else "successful",
            message=fault[1] if fault else "",
            state=self.state,
            statistics=speeds(counts, self.time_step, self.model.units),
        )


def check_counts(steps: int, save_every: int, owner: str = "run_dynamics") -> None:
    """Raise `ValueError` for numbers of steps that are no whole numbers from 1."""
    for name, count in (("steps", steps), ("save_every", save_every)):
        if not (isinstance(count, int | np.integer) and count >= 1):
            raise ValueError(f"{owner}: {name} is {count!r}, expected a whole number from 1.")
