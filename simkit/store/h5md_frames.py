"""H5MD files read in parts: of simkit and of other programs, with positions left on the disk.

Of the specification this is what most files use: one group of particles with a position,
a box that rests or changes with the frames, observables of one number for each frame. Steps
and times may be lists, or one number for even distances.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from simkit.results import Provenance
from simkit.store.guard import Guard, expanded, open_guarded, translated
from simkit.store.h5md import KIND, Observable
from simkit.store.reader import known_version
from simkit.store.schema import RUN_GROUP, StoreError, from_link_name


_VECTORS = {"positions": "position", "velocities": "velocity", "forces": "force"}
_MOST_BYTES = 2**31
_MOST_FRAME = 2**29
"""Bytes of the positions of one frame, which is read whole."""
_MOST_OBSERVABLES = 100
_STATISTICS = "statistics."


@dataclasses.dataclass(frozen=True)
class FrameFile:
    """A molecular trajectory in an open file.

    - `path`: the file, for messages.
    - `is_ours`: whether simkit wrote it, so that positions are not folded into the box.
    - `steps`, `times`: shape `(frames,)`; times are not a number where the file has none.
    - `particles`: how many.
    - `read`: for each of `positions`, `velocities` and `forces` that is there, what reads a
      slice of frames, shape `(frames, particles, 3)`.
    - `box_vectors`: vectors as rows, shape `(frames, 3, 3)`; `None` for an open box.
    - `observables`: those with a value for each frame, by name.
    - `units`: texts for `time` and `length`, where the file says them.
    - `masses`, `species`: shape `(particles,)`, or `None`.
    - `facts`: texts of simkit about the run; empty for other programs.
    - `statistics`: of the run, by name; empty for other programs.
    - `provenance`: where it comes from; blank for other programs.
    """

    path: str
    is_ours: bool
    steps: np.ndarray
    times: np.ndarray
    particles: int
    read: Mapping[str, Callable[[slice], np.ndarray]]
    box_vectors: np.ndarray | None
    observables: Mapping[str, Observable]
    units: Mapping[str, str]
    masses: np.ndarray | None
    species: np.ndarray | None
    facts: Mapping[str, str]
    statistics: Mapping[str, float]
    provenance: Provenance

    @property
    def frames(self) -> int:
        """How many frames there are."""
        return len(self.steps)


def is_trajectory(path: str | os.PathLike[str]) -> bool:
    """Whether a file is H5MD: that of simkit, or one of another program.

    Raises `OSError` if it cannot be read, and `StoreError` if it is not HDF5 or damaged.
    """
    with open_guarded(path, _MOST_BYTES) as guard, translated(guard.path):
        if RUN_GROUP not in guard.file:
            return "h5md" in guard.file and "particles" in guard.file
        run = guard.item(guard.file, RUN_GROUP)
        return "kind" in run.attrs and guard.attribute(run, "kind", str) == KIND


@contextlib.contextmanager
def open_frames(
    path: str | os.PathLike[str], *, max_bytes: int | None = None
) -> Iterator[FrameFile]:
    """Open a trajectory; vectors of its frames can be read within the `with` block.

    **Arguments:**

    - `path`: the file. It may come from anybody: what leads out of it or would fill the
      memory is refused.
    - `max_bytes`: what may be read at once; left out, 2 GiB, and of a small file what it
      may come to.

    Raises `OSError` if it cannot be read, and `StoreError` for a file that is damaged, is
    no H5MD file with positions in three dimensions, or is too large.
    """
    if max_bytes is None:
        max_bytes = min(_MOST_BYTES, expanded(os.stat(path).st_size))
    with open_guarded(path, max_bytes) as guard:
        with translated(guard.path):
            found = _open(guard)
        yield found


def _open(guard: Guard) -> FrameFile:
    file = guard.file
    if "h5md" not in file or "particles" not in file:
        raise StoreError(f"{guard.path} is no H5MD file.")
    particles = _particles(guard)
    position = guard.group(particles, "position")
    shape, read = guard.parts(position, "value", 3)
    frames, number, dimension = shape
    if dimension != 3 or not number:
        raise StoreError(
            f"{guard.path}: positions have shape {shape}, expected (frames, particles, 3)."
        )
    if 8 * 3 * number > min(_MOST_FRAME, guard.max_bytes):
        raise StoreError(f"{guard.path}: a frame of {number} particles is too large.")
    is_ours = RUN_GROUP in file
    facts, statistics, provenance = _run(guard) if is_ours else ({}, {}, Provenance())
    return FrameFile(
        path=str(guard.path),
        is_ours=is_ours,
        steps=_moments(guard, position, "step", frames, np.arange(frames)),
        times=_moments(guard, position, "time", frames, np.full(frames, np.nan)),
        particles=number,
        read={"positions": read, **_others(guard, particles, shape)},
        box_vectors=_box(guard, particles, frames),
        observables=_observables(guard, frames),
        units=_units(guard, position),
        masses=_of_particles(guard, particles, "mass", number),
        species=_of_particles(guard, particles, "species", number),
        facts=facts,
        statistics=statistics,
        provenance=provenance,
    )


def _particles(guard: Guard) -> h5py.Group:
    """The group `trajectory`, or the first one that has positions."""
    outer = guard.group(guard.file, "particles")
    names = sorted(map(str, outer), key=lambda name: (name != "trajectory", name))
    for name in names[:_MOST_OBSERVABLES]:
        item = guard.item(outer, name)
        if isinstance(item, h5py.Group) and "position" in item:
            return item
    raise StoreError(f"{guard.path} has no particles with a position.")


def _others(
    guard: Guard, particles: h5py.Group, shape: tuple[int, ...]
) -> dict[str, Callable[[slice], np.ndarray]]:
    found = {}
    for name in ("velocities", "forces"):
        link = _VECTORS[name]
        if link in particles:
            other, read = guard.parts(guard.group(particles, link), "value", 3)
            if other == shape:
                found[name] = read
            elif RUN_GROUP in guard.file:
                raise StoreError(
                    f"{guard.path}: {name} have shape {other}, expected {shape} as positions."
                )
    return found


def _moments(
    guard: Guard, group: h5py.Group, name: str, frames: int, missing: np.ndarray
) -> np.ndarray:
    """Steps or times of the frames: listed, or at even distances from an offset."""
    if name not in group:
        return missing
    values = guard.array(group, name)
    if values.ndim == 0 and values.dtype.kind in "fiu":
        dataset = guard.dataset(group, name)
        offset: Any = 0
        if "offset" in dataset.attrs:
            offset = guard.attribute(dataset, "offset", type(values.item()))
        return offset + values.item() * np.arange(frames)
    if values.shape != (frames,) or values.dtype.kind not in "fiu":
        raise StoreError(
            f"{guard.path}: {group.name}/{name} has shape {values.shape} and type "
            f"{values.dtype}, expected {frames} numbers."
        )
    return values


def _box(guard: Guard, particles: h5py.Group, frames: int) -> np.ndarray | None:
    if "box" not in particles:
        return None
    box = guard.group(particles, "box")
    if not _is_periodic(guard, box) or "edges" not in box:
        return None
    item = guard.item(box, "edges")
    if isinstance(item, h5py.Group):
        edges = guard.array(item, "value")
    else:
        edges = guard.array(box, "edges")
        edges = np.broadcast_to(edges, (frames, *edges.shape))
    if edges.shape == (frames, 3):
        edges = edges[:, :, None] * np.eye(3)
    if edges.shape != (frames, 3, 3) or edges.dtype.kind not in "fiu":
        raise StoreError(
            f"{guard.path}: the edges of the box have shape {edges.shape}, expected three "
            f"lengths or three vectors for {frames} frames."
        )
    return edges.astype(float)


def _is_periodic(guard: Guard, box: h5py.Group) -> bool:
    if "boundary" not in box.attrs:
        return "edges" in box
    stored = box.attrs.get_id("boundary")
    if stored.shape != (3,) or stored.get_storage_size() > guard.file_size:
        raise StoreError(f"{guard.path}: the boundary of the box is not three words.")
    words = [
        word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)
        for word in np.asarray(box.attrs["boundary"]).tolist()
    ]
    return all(word.strip() == "periodic" for word in words)


def _observables(guard: Guard, frames: int) -> dict[str, Observable]:
    """Those that have values for each frame: of the file, or of its groups of particles."""
    if "observables" not in guard.file:
        return {}
    outer = guard.group(guard.file, "observables")
    found: dict[str, Observable] = {}
    waiting = [("", outer)]
    while waiting and len(found) < _MOST_OBSERVABLES:
        prefix, group = waiting.pop()
        for name in list(map(str, group))[:_MOST_OBSERVABLES]:
            item = guard.item(group, name)
            if not isinstance(item, h5py.Group):
                continue
            if "value" not in item:
                if not prefix:
                    waiting.append((f"{name}/", item))
                continue
            dataset = guard.dataset(item, "value")
            small = dataset.shape in ((frames,), (frames, 3, 3))
            if small and dataset.dtype.kind in "fiu":
                found[prefix + name] = Observable(
                    guard.array(item, "value").astype(float), _unit(guard, dataset)
                )
            elif RUN_GROUP in guard.file:
                raise StoreError(
                    f"{guard.path}: {dataset.name} has shape {dataset.shape} and type "
                    f"{dataset.dtype}, expected numbers for {frames} frames."
                )
    return found


def _unit(guard: Guard, dataset: h5py.Dataset) -> str:
    if "unit" not in dataset.attrs:
        return ""
    try:
        return guard.attribute(dataset, "unit", str)
    except StoreError:
        if RUN_GROUP in guard.file:
            raise
        return ""  # bytes, as the specification has them too


def _units(guard: Guard, position: h5py.Group) -> dict[str, str]:
    found = {"length": _unit(guard, guard.dataset(position, "value"))}
    if "time" in position:
        found["time"] = _unit(guard, guard.dataset(position, "time"))
    return {name: text for name, text in found.items() if text}


def _of_particles(
    guard: Guard, particles: h5py.Group, name: str, number: int
) -> np.ndarray | None:
    """Masses or species, where they are one number for each particle."""
    if name not in particles:
        return None
    item = guard.item(particles, name)
    if not isinstance(item, h5py.Dataset):
        return None  # species that change with the frames
    values = guard.array(particles, name)
    return values if values.shape == (number,) and values.dtype.kind in "fiu" else None


def _run(guard: Guard) -> tuple[dict[str, str], dict[str, float], Provenance]:
    run = guard.group(guard.file, RUN_GROUP)
    kind = guard.attribute(run, "kind", str)
    if kind != KIND:
        raise StoreError(f"{guard.path} holds a {kind}, expected a {KIND}.")
    known_version(guard, run)
    facts = guard.group(run, "facts")
    restart = guard.group(run, "restart")
    statistics = {
        from_link_name(str(name)).removeprefix(_STATISTICS): guard.array(restart, str(name), 0)
        for name in restart
        if from_link_name(str(name)).startswith(_STATISTICS)
    }
    provenance = Provenance(
        **{
            field.name: guard.attribute(run, field.name, int if field.name == "seed" else str)
            for field in dataclasses.fields(Provenance)
        }
    )
    return (
        {str(name): guard.attribute(facts, name, str) for name in facts.attrs},
        {name: float(value) for name, value in statistics.items()},
        provenance,
    )
