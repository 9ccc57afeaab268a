"""A molecular trajectory in a file, analysed in parts so that memory does not grow with it."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from simkit.molecular.block_errors import block_average
from simkit.molecular.displacements import diffusion_coefficient, mean_squared_displacement
from simkit.molecular.equilibration import equilibrated_from
from simkit.molecular.findings import MolecularFindings, Series
from simkit.molecular.frames import over_frames, shortest_height
from simkit.molecular.radial_distributions import RadialDistribution
from simkit.molecular.series import frame_series
from simkit.molecular.time_correlations import SEGMENTS
from simkit.molecular.values import Average, Curve
from simkit.progress import Progress, silent
from simkit.store.h5md_frames import FrameFile


_BINS = 200
# Bytes of positions that are held at once, and pairs that are looked at in all.
_PART_BYTES = 2**26
_HELD_BYTES = 2**28
_MOST_PAIRS = 5e8
_FEWEST_FRAMES = 8
_MOST_SPECIES = 3
# Lags of the displacement from which diffusion is read: the last four fifths.
_FORGOTTEN = 0.2


def analyse_trajectory(
    file: FrameFile, *, skip: int | None = None, progress: Progress = silent
) -> MolecularFindings:
    """Averages with errors, radial distribution, displacements and diffusion.

    Positions are read in parts; where there are too many for the memory, or pairs for a
    minute, some frames or particles stand for all, and a note says so.

    **Arguments:**

    - `file`: an open trajectory.
    - `skip`: frames at the start that count for no average; left out, those before
      equilibrium, found from energy and volume.
    - `progress`: told the frames that are read.

    Raises `ValueError` for no frames, more to skip than there are, and numbers that are not
    finite; `StoreError` for a file that proves to be damaged.
    """
    # Numbers near the largest overflow in sums, and what comes out says so.
    with np.errstate(all="ignore"):
        return _analysed(file, skip, progress)


def _analysed(file: FrameFile, skip: int | None, progress: Progress) -> MolecularFindings:
    if not file.frames:
        raise ValueError(f"{file.path} has no frames, expected at least one.")
    if skip is not None and not 0 <= skip < file.frames:
        raise ValueError(
            f"{skip} frames were to be left out of {file.frames}, expected fewer than there "
            "are."
        )
    series = frame_series(file)
    watched = [series[name].values for name in ("potential_energy", "volume") if name in series]
    skipped = equilibrated_from(*watched) if skip is None else skip
    averages = [_average(name, item, skipped) for name, item in series.items()]
    part = _Part(file, skipped, progress)
    curves, notes = [], []
    if skip is None and file.frames >= 16 and skipped >= file.frames // 2:
        notes.append(
            "The run was still changing at its half: averages may not be those of equilibrium."
        )
    for found in (_distributions(part), _displacements(part)):
        curves += found.curves
        averages += found.averages
        notes += found.notes
    facts, box = file.facts, file.box_vectors
    return MolecularFindings(
        title=facts.get("title", ""),
        system=facts.get("system", ""),
        method=facts.get("method", ""),
        status=facts.get("status", "unknown"),
        message=facts.get("message", ""),
        particles=file.particles,
        frames=file.frames,
        times=file.times,
        time_unit=file.units.get("time", "1"),
        skipped=skipped,
        series=series,
        averages=tuple(averages),
        curves=tuple(curves),
        box_vectors=None if box is None else box[[0, -1]],
        notes=tuple(notes),
        provenance=file.provenance,
    )


@dataclasses.dataclass(frozen=True)
class _Found:
    """Curves, averages and notes of one kind of observable."""

    curves: tuple[Curve, ...] = ()
    averages: tuple[Average, ...] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Part:
    """The frames of a file that count."""

    file: FrameFile
    skipped: int
    progress: Progress

    @property
    def frames(self) -> int:
        return self.file.frames - self.skipped

    @property
    def length(self) -> str:
        return self.file.units.get("length", "1")

    def boxes(self) -> np.ndarray | None:
        box = self.file.box_vectors
        return None if box is None else box[self.skipped :]

    def positions(self, words: str, particles: np.ndarray) -> np.ndarray:
        """Positions of some particles in all frames."""
        found = np.empty((self.frames, len(particles), 3))
        for begin, values in self._parts(1):
            self.progress(begin, self.frames, words)
            found[begin : begin + len(values)] = values[:, particles]
        return _finite(found)

    def some_frames(self, every: int, words: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions of every so many frames in parts, and which frames they are."""
        for begin, values in self._parts(every):
            self.progress(begin, self.frames, words)
            chosen = np.arange(begin, min(begin + len(values) * every, self.frames), every)
            yield chosen[: len(values)], _finite(np.asarray(values, float))

    def _parts(self, every: int) -> Iterator[tuple[int, np.ndarray]]:
        read = self.file.read["positions"]
        size = max(1, _PART_BYTES // (24 * self.file.particles))
        for begin in range(0, self.frames, size * every):
            first = self.skipped + begin
            last = min(first + size * every, self.file.frames)
            if every == 1:
                yield begin, read(slice(first, last))
            else:
                single = [read(slice(k, k + 1)) for k in range(first, last, every)]
                yield begin, np.concatenate(single)


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.all(np.isfinite(values)):
        frame, atom = np.argwhere(~np.isfinite(values).all(axis=2))[0]
        raise ValueError(f"A position of atom {atom} is not a finite number (frame {frame}).")
    return values


def _average(name: str, series: Series, skipped: int) -> Average:
    value, error = block_average(series.values[skipped:])
    return Average(name.replace("_", " "), series.unit, value, error)


def _distributions(part: _Part) -> _Found:
    """Radial distribution functions: of all particles, and of pairs of few species."""
    boxes, particles = part.boxes(), part.file.particles
    if boxes is None or particles < 2:
        return _Found(notes=("No radial distribution function: the box is not periodic.",)
                      if boxes is None else ())  # fmt: skip
    height = shortest_height(boxes, len(boxes))
    if not (np.isfinite(height) and height > 0):
        raise ValueError(f"The box of {part.file.path} has no volume.")
    pairs = _pairs(part.file)
    count = max(_FEWEST_FRAMES, int(_MOST_PAIRS / (len(pairs) * float(particles) ** 2)))
    every = max(1, -(-part.frames // count))
    used = -(-part.frames // every)
    # Where even few frames have too many pairs, some particles stand in the middle for all.
    most = int(_MOST_PAIRS / (len(pairs) * used * particles))
    notes = []
    if every > 1:
        notes.append(f"Radial distribution from {used} of {part.frames} frames.")
    ones = {}
    for name, (first, second) in pairs.items():
        middle = first
        if len(first) > max(most, 64):
            middle = first[:: -(-len(first) // max(most, 64))]
            notes.append(f"{name}: around {len(middle)} of {len(first)} particles.")
        ones[name] = RadialDistribution(
            height / 2, _BINS, first=middle.astype(np.int32), second=second.astype(np.int32)
        )
    values = {name: [] for name in ones}
    for chosen, positions in part.some_frames(every, "radial distribution"):
        for name, one in ones.items():
            values[name].append(over_frames(one, positions, boxes[chosen]))
    curves = []
    for name, one in ones.items():
        mean, error = block_average(np.concatenate(values[name]))
        curves.append(Curve(name, "1", "r", part.length, one.distances, mean, error))
    return _Found(tuple(curves), notes=tuple(notes))


def _pairs(file: FrameFile) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Particles in the middle and around them, by the name of the curve."""
    everyone = np.arange(file.particles)
    found = {"g": (everyone, everyone)}
    if file.species is None:
        return found
    kinds = np.unique(file.species)
    if not 1 < len(kinds) <= _MOST_SPECIES:
        return found
    names = file.facts.get("species", "").split()
    members = [np.flatnonzero(file.species == kind) for kind in kinds]
    for i, first in enumerate(members):
        for j in range(i, len(members)):
            if len(first) > (i == j):
                labels = [
                    names[int(kind)] if 0 <= int(kind) < len(names) else str(kind)
                    for kind in (kinds[i], kinds[j])
                ]
                found[f"g {labels[0]}-{labels[1]}"] = (first, members[j])
    return found


def _displacements(part: _Part) -> _Found:
    """The mean squared displacement, and diffusion where it grows as a straight line."""
    file, frames = part.file, part.frames
    if not file.is_ours and file.box_vectors is not None:
        return _Found(notes=("No displacements: positions may be folded into the box.",))
    if frames < 2 * SEGMENTS:
        note = f"No displacements: {frames} frames, expected at least {2 * SEGMENTS}."
        return _Found(notes=(note,))
    intervals = np.diff(file.times[part.skipped :])
    interval = float(intervals[0])
    if not (interval > 0 and np.allclose(intervals, interval, rtol=1e-6)):
        return _Found(notes=("No displacements: frames are not at even times.",))
    room = max(1, int(_HELD_BYTES // (24 * frames)))
    chosen = np.arange(0, file.particles, -(-file.particles // room))
    notes = []
    if len(chosen) < file.particles:
        notes.append(f"Displacements of {len(chosen)} of {file.particles} particles.")
    positions = part.positions("displacements", chosen)
    length, time = part.length, file.units.get("time", "1")
    curve = mean_squared_displacement(positions, interval, length_unit=length, time_unit=time)
    start = _FORGOTTEN * float(curve.coordinate[-1])
    used = (curve.coordinate >= start) & (curve.coordinate > 0) & (curve.value > 0)
    if np.count_nonzero(used) < 3:
        notes.append("No diffusion coefficient: too few frames.")
        return _Found((curve,), notes=tuple(notes))
    power = float(np.polyfit(np.log(curve.coordinate[used]), np.log(curve.value[used]), 1)[0])
    if not 0.75 < power < 1.25:
        notes.append(
            f"No diffusion coefficient: displacements grow as the power {power:.2f} of time, "
            "not in proportion to it; a longer run may tell, unless it is a solid."
        )
        return _Found((curve,), notes=tuple(notes))
    diffusion = diffusion_coefficient(
        positions, interval, start=start, length_unit=length, time_unit=time
    )
    box = file.box_vectors
    if box is not None and np.ptp(box, axis=0).max() > 0:
        notes.append("Displacements hold changes of the box, which moves particles with it.")
    return _Found((curve,), (diffusion,), tuple(notes))
