"""What a molecular trajectory says, as plain numbers for tables, pictures and reports."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from simkit.molecular.values import Average, Curve
from simkit.results import Provenance


@dataclasses.dataclass(frozen=True)
class Series:
    """One quantity in each frame.

    - `unit`: `"1"` for none.
    - `values`: shape `(frames,)`.
    """

    unit: str
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class MolecularFindings:
    """A molecular trajectory in numbers.

    - `title`, `system`, `method`: of the run; `""` where the file does not say.
    - `status`, `message`: how it ended, `"unknown"` in files of other programs.
    - `particles`, `frames`: how many.
    - `times`: of the frames, shape `(frames,)`; not a number where the file has none.
    - `time_unit`: `"1"` for none.
    - `skipped`: so many frames at the start count for no average: the run was still on its
      way to equilibrium.
    - `series`: quantities over time, by name.
    - `averages`: over the frames that count, with standard errors.
    - `curves`: radial distribution functions, and the mean squared displacement.
    - `box_vectors`: of the first and the last frame, shape `(2, 3, 3)`; `None` if open.
    - `notes`: what was left out, and what to beware of, in sentences.
    - `provenance`: where the trajectory comes from.
    """

    title: str
    system: str
    method: str
    status: str
    message: str
    particles: int
    frames: int
    times: np.ndarray
    time_unit: str
    skipped: int
    series: Mapping[str, Series]
    averages: tuple[Average, ...]
    curves: tuple[Curve, ...]
    box_vectors: np.ndarray | None
    notes: tuple[str, ...]
    provenance: Provenance

    @property
    def distributions(self) -> tuple[Curve, ...]:
        """The radial distribution functions among the curves."""
        return tuple(curve for curve in self.curves if curve.coordinate_name == "r")

    @property
    def displacement(self) -> Curve | None:
        """The mean squared displacement, where there is one."""
        found = [curve for curve in self.curves if curve.coordinate_name == "time"]
        return found[0] if found else None
