"""Molecular dynamics of a case, in segments that are kept as they are finished."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from simkit.config.molecular_reader import LoadedMolecules, read_molecular_case
from simkit.molecular.case_problem import build_method, build_problem
from simkit.molecular.minimum import PREFIX, minimised, minimum_trajectory
from simkit.molecular.simulation_state import decode_state, encode_state
from simkit.precision import use_double_precision
from simkit.progress import Progress, silent
from simkit.segments import MOST_SEGMENTS, Checkpoint, Stopped
from solvers.molecular.driver import Progress as Pace, run_dynamics
from solvers.molecular.status import NAMES
from solvers.molecular.trajectory import MolecularTrajectory, joined
from systems.molecular.model import MolecularModel
from systems.molecular.units import Units


_STATISTICS = "statistics."
_TEXTS = ("message", "engine", "engine_reason")
_FIELDS = (
    *("steps", "times", "positions", "velocities", "forces", "box_vectors", "volume"),
    *("potential_energy", "kinetic_energy", "temperature", "pressure_tensor"),
    "conserved_energy",
)


@dataclasses.dataclass(frozen=True)
class MolecularRun:
    """What a case came to.

    - `trajectory`: the frames of the whole run, or up to the last good step.
    - `model`: the model behind it.
    """

    trajectory: MolecularTrajectory
    model: MolecularModel


def simulate_molecules(
    case: LoadedMolecules | str | os.PathLike[str],
    *,
    progress: Progress = silent,
    checkpoint: Checkpoint | None = None,
) -> MolecularRun:
    """Run a molecular case: its minimisation if it has one, then its dynamics.

    A run that went on from kept segments has the bits of one that was not stopped.

    **Arguments:**

    - `case`: a case that was read, or its file.
    - `progress`: told the steps that are done, and how fast they go.
    - `checkpoint`: where segments are kept; those that are there are not computed again.

    **Returns:** the trajectory; of a run that explodes, what was computed before, and its
    `status` and `message` say so.

    Raises `CaseError` for a mistake in the case, `ValueError` for what only its files and
    numbers show, such as atoms that overlap, `Stopped` if the checkpoint asks to stop and
    `OSError` if a segment cannot be kept.
    """
    loaded = case if isinstance(case, LoadedMolecules) else read_molecular_case(case)
    use_double_precision()
    problem, table = build_problem(loaded.case, loaded.folder), loaded.case.dynamics
    model = problem.model
    if table is None:
        return MolecularRun(minimum_trajectory(problem, loaded.case, progress), model)
    method = build_method(loaded.case)

    def advance(steps: int, state: Any, told: Callable[[Pace], Any]) -> MolecularTrajectory:
        start, statistics = problem, {}
        if state is None and loaded.case.minimisation is not None:
            start, statistics = minimised(problem, loaded.case, progress)
        found = run_dynamics(
            start,
            method,
            steps=steps,
            save_every=table.save_every,
            state=state,
            precision=table.precision,
            engine=table.engine,
            save=table.save,
            progress=told,
            throw=False,
        )
        return dataclasses.replace(found, statistics={**found.statistics, **statistics})

    size = segment_steps(loaded)
    run = _Segments(advance, table.steps, size, progress, checkpoint, model.units)
    return MolecularRun(run.trajectory(), model)


def segment_steps(loaded: LoadedMolecules) -> int:
    """Steps of the dynamics that are kept together: whole numbers of frames."""
    table = loaded.case.dynamics
    assert table is not None
    if table.segment is not None:
        return table.segment
    return math.ceil(table.steps / MOST_SEGMENTS / table.save_every) * table.save_every


class _Segments:
    """The steps of a run in segments, one after the other."""

    def __init__(
        self,
        advance: Callable[[int, Any, Callable[[Pace], Any]], MolecularTrajectory],
        steps: int,
        size: int,
        progress: Progress,
        checkpoint: Checkpoint | None,
        units: Units,
    ):
        self.advance, self.steps, self.size = advance, steps, size
        self.progress, self.checkpoint = progress, checkpoint
        self.units = units
        self.total = math.ceil(steps / size)

    def trajectory(self) -> MolecularTrajectory:
        """The whole run, or up to the segment in which it failed."""
        segments = self._kept()
        while len(segments) < self.total and (not segments or segments[-1].succeeded):
            self._stop_if_asked(len(segments))
            index = len(segments)
            steps = min(self.size, self.steps - index * self.size)
            with self._guarded():
                state = segments[-1].state if segments else None
                segments.append(self.advance(steps, state, self._tell))
                if self.checkpoint is not None:
                    self.checkpoint.folder.write(index, _as_arrays(segments[-1]))
        found = joined(*segments)
        first = segments[0].statistics
        start = {name: value for name, value in first.items() if name.startswith(PREFIX)}
        return dataclasses.replace(found, statistics={**found.statistics, **start})

    def _kept(self) -> list[MolecularTrajectory]:
        """Segments that are there, up to the first that is missing."""
        if self.checkpoint is None:
            return []
        folder = self.checkpoint.folder
        folder.confirm(
            {"live": {"platform": jax.default_backend()}, "segment": {"steps": self.size}}
        )
        there = folder.finished(self.checkpoint.notify)
        found = []
        while len(found) in there:
            found.append(_from_arrays(folder.read(len(found)), self.units))
        if found:
            self.progress(int(found[-1].state.step), self.steps, "steps")
        return found

    def _guarded(self) -> contextlib.AbstractContextManager[None]:
        stop = self.checkpoint.stop if self.checkpoint is not None else None
        return contextlib.nullcontext() if stop is None else stop.guard()

    def _stop_if_asked(self, done: int) -> None:
        stop = self.checkpoint.stop if self.checkpoint is not None else None
        if stop is not None and (stop.asked() or stop.late()):
            raise Stopped(done, self.total)

    def _tell(self, pace: Pace) -> None:
        words = f"{pace.steps_per_second:,.0f} steps/s"
        if self.units.si is not None:
            words += f", {pace.time_per_day * self.units.in_si('time') * 1e9:,.4g} ns/day"
        self.progress(pace.step, self.steps, words)


def _as_arrays(segment: MolecularTrajectory) -> dict[str, np.ndarray]:
    """A segment as arrays of numbers; its texts as bytes."""
    structure, arrays = encode_state(segment.state)
    values = {name: getattr(segment, name) for name in _FIELDS}
    texts = {"structure": structure, **{name: getattr(segment, name) for name in _TEXTS}}
    return {
        **arrays,
        **{name: value for name, value in values.items() if value is not None},
        **{f"{_STATISTICS}{name}": np.asarray(v) for name, v in segment.statistics.items()},
        **{name: np.frombuffer(t.encode(), np.uint8) for name, t in texts.items()},
        "status": np.asarray(NAMES.index(segment.status)),
    }


def _from_arrays(arrays: dict[str, np.ndarray], units: Units) -> MolecularTrajectory:
    texts = {name: arrays[name].tobytes().decode() for name in _TEXTS}
    structure = arrays["structure"].tobytes().decode()
    return MolecularTrajectory(
        **{name: arrays.get(name) for name in _FIELDS},  # pyright: ignore[reportArgumentType]
        units=units,
        status=NAMES[int(arrays["status"])],
        **texts,
        state=decode_state(structure, arrays),
        statistics={
            name.removeprefix(_STATISTICS): value.item()
            for name, value in arrays.items()
            if name.startswith(_STATISTICS)
        },
    )
