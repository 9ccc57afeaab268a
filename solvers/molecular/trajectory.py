"""The answer of a molecular run: saved frames, where it stopped, and why."""

import dataclasses
from typing import Any

import numpy as np

from solvers.molecular.state import MolecularState
from systems.molecular.units import Units


@dataclasses.dataclass(frozen=True)
class MolecularTrajectory:
    """Saved frames of a molecular run, as arrays of numpy, particles in the user's order.

    - `steps`: the step of each frame, shape `(frames,)`.
    - `times`: its time since the problem began, in the unit of time.
    - `positions`: shape `(frames, particles, 3)`; as the particles went, not folded into
      the box.
    - `velocities`, `forces`: of the same shape, or `None` where not saved.
    - `box_vectors`: shape `(frames, 3, 3)`, vectors as rows; `None` for an open box.
    - `volume`: shape `(frames,)`; infinite for an open box.
    - `potential_energy`, `kinetic_energy`, `temperature`: shape `(frames,)`.
    - `pressure_tensor`: shape `(frames, 3, 3)`, in the unit of pressure.
    - `conserved_energy`: what exact motion would keep, shape `(frames,)`; not a number for
      methods that have none.
    - `units`: the units of all this.
    - `status`: `"successful"`, `"exploded"` or `"nonfinite"`; `message` says it in words.
    - `state`: where the run stopped, after its last good step; a run goes on from there.
    - `statistics`: `steps`, `lists` (neighbour lists made), `growths` (of the capacity),
      `seconds`, `steps_per_second`, `time_per_day` (simulated time in a day of computing)
      and, where the units have a size, `nanoseconds_per_day`.
    - `engine`: what summed over pairs, `"jax"` or `"native"`; `engine_reason` says in words
      why that one. Empty where it is not known.
    """

    steps: np.ndarray
    times: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None
    forces: np.ndarray | None
    box_vectors: np.ndarray | None
    volume: np.ndarray
    potential_energy: np.ndarray
    kinetic_energy: np.ndarray
    temperature: np.ndarray
    pressure_tensor: np.ndarray
    conserved_energy: np.ndarray
    units: Units
    status: str
    message: str
    state: MolecularState
    statistics: dict[str, float]
    engine: str = ""
    engine_reason: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether every step was taken."""
        return self.status == "successful"

    @property
    def pressure(self) -> np.ndarray:
        """A third of the trace of the pressure tensor, shape `(frames,)`."""
        return np.trace(self.pressure_tensor, axis1=1, axis2=2) / 3

    @property
    def total_energy(self) -> np.ndarray:
        """Kinetic and potential energy together, shape `(frames,)`."""
        return self.potential_energy + self.kinetic_energy

    @property
    def frames(self) -> int:
        """How many frames were saved."""
        return len(self.steps)


_PER_FRAME = (
    "steps",
    "times",
    "positions",
    "velocities",
    "forces",
    "box_vectors",
    "volume",
    "potential_energy",
    "kinetic_energy",
    "temperature",
    "pressure_tensor",
    "conserved_energy",
)


def gather_frames(parts: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Frames of several blocks, one after the other, by field of the trajectory."""
    return {
        name: np.concatenate([part[name] for part in parts]) if name in parts[0] else None
        for name in _PER_FRAME
    }


def joined(*segments: MolecularTrajectory) -> MolecularTrajectory:
    """One trajectory from segments of a run, each of which began where the last one ended."""
    parts = [
        {name: value for name in _PER_FRAME if (value := getattr(segment, name)) is not None}
        for segment in segments
    ]
    statistics = {
        name: sum(segment.statistics[name] for segment in segments)
        for name in ("steps", "lists", "growths", "seconds")
    }
    return dataclasses.replace(
        segments[-1],
        **gather_frames(parts),
        statistics=speeds(statistics, segments[-1].statistics["time_step"], segments[-1].units),
    )


def speeds(statistics: dict[str, float], time_step: float, units: Units) -> dict[str, float]:
    """The counts of a run, and how fast it went."""
    rate = statistics["steps"] / max(statistics["seconds"], 1e-9)
    found = {
        **statistics,
        "time_step": time_step,
        "steps_per_second": rate,
        "time_per_day": rate * time_step * 86400,
    }
    if units.si is not None:
        found["nanoseconds_per_day"] = found["time_per_day"] * units.in_si("time") * 1e9
    return found
