"""Molecular trajectories as H5MD 1.1, which MDAnalysis, VMD and GROMACS tools read.

The file has one group of particles, `particles/trajectory` (the only name that MDAnalysis
finds by itself), and one group for each observable; steps and times are one dataset, which
all of them share by hard links. What H5MD has no place for stands in the group `/simkit`, as
in other result files: status, provenance, and the state from which the run goes on.

Positions are as the particles went, not folded into the box, so that there is no `image`.
Units are texts of variable length, as MDAnalysis wants them; reduced units have none, for
which H5MD knows no words.

Source: P. de Buyl, P. H. Colberg, F. Höfling, Comput. Phys. Commun. 185, 1546 (2014), and
the specification of H5MD 1.1, https://nongnu.org/h5md.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simkit.provenance import versions
from simkit.results import Provenance
from simkit.store.atomic import refuse_existing, write_whole
from simkit.store.datasets import write_array, write_attribute
from simkit.store.guard import Guard, opened
from simkit.store.reader import known_version
from simkit.store.schema import (
    RUN_GROUP,
    SCHEMA_VERSION,
    Form,
    StoreError,
    from_link_name,
    to_link_name,
)


KIND = "MolecularTrajectory"
"""What `/simkit` of such a file says that it holds."""

_PARTICLES = "particles/trajectory"
_VECTORS = {"positions": "position", "velocities": "velocity", "forces": "force"}
_MOST_BYTES = 2**31


@dataclasses.dataclass(frozen=True)
class Observable:
    """One quantity over time.

    - `values`: shape `(frames, ...)`.
    - `unit`: as text; `""` for none.
    """

    values: np.ndarray
    unit: str = ""


@dataclasses.dataclass(frozen=True)
class H5MDTrajectory:
    """What a file holds, as plain arrays.

    - `steps`, `times`: shape `(frames,)`.
    - `positions`: shape `(frames, particles, 3)`; `velocities`, `forces` alike, or `None`.
    - `box_vectors`: vectors as rows, shape `(frames, 3, 3)`; `None` for an open box.
    - `observables`: by name.
    - `units`: texts for `time`, `length`, `velocity` and `force`; empty for reduced units.
    - `masses`, `species`: shape `(particles,)`, or `None`.
    - `facts`: texts that describe the run, by name; `title` and `status` among them.
    - `restart`: arrays of the state from which the run goes on, by name.
    - `provenance`: where it comes from.
    """

    steps: np.ndarray
    times: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None = None
    forces: np.ndarray | None = None
    box_vectors: np.ndarray | None = None
    observables: Mapping[str, Observable] = dataclasses.field(default_factory=dict)
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    masses: np.ndarray | None = None
    species: np.ndarray | None = None
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    restart: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    provenance: Provenance = Provenance()  # noqa: RUF009


def write_h5md(
    trajectory: H5MDTrajectory, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write a trajectory to an H5MD file, whole or not at all.

    **Arguments:**

    - `path`: the file; its folder must exist.
    - `overwrite`: whether a file that is already there is replaced. It stays as it was
      until the new one is complete on the disk.

    Raises `FileExistsError`, `FileNotFoundError` for the folder, and `ValueError` for arrays
    that do not fit together.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {target.parent}.")
    refuse_existing(target, overwrite)
    _check(trajectory)
    # Built in memory, as in the writer of results: HDF5 does not bear a full disk.
    with h5py.File(
        "result", "w", driver="core", backing_store=False, libver=("v108", "v108")
    ) as file:
        _fill(file, trajectory)
        file.flush()
        image = file.id.get_file_image()
    write_whole(target, image, overwrite=overwrite)


def read_h5md(path: str | os.PathLike[str], *, max_bytes: int = _MOST_BYTES) -> H5MDTrajectory:
    """Read a file that [`write_h5md`][simkit.store.h5md.write_h5md] wrote, with all its bits.

    **Arguments:**

    - `max_bytes`: what its arrays may come to in memory.

    Raises `OSError` if there is no such file, and `StoreError` for one that is damaged,
    is not of this kind or is too large.
    """
    with opened(path, max_bytes) as guard:
        if RUN_GROUP not in guard.file:
            raise StoreError(f"{guard.path} is no molecular trajectory of simkit.")
        run = guard.group(guard.file, RUN_GROUP)
        kind = guard.attribute(run, "kind", str)
        if kind != KIND:
            raise StoreError(f"{guard.path} holds a {kind}, expected a {KIND}.")
        known_version(guard, run)
        return _read(guard, run)


def is_h5md(path: str | os.PathLike[str]) -> bool:
    """Whether a file says that it is a molecular trajectory of simkit.

    Raises `OSError` and `StoreError` as [`read_h5md`][simkit.store.h5md.read_h5md] does.
    """
    with opened(path, _MOST_BYTES) as guard:
        if RUN_GROUP not in guard.file:
            return False
        run = guard.group(guard.file, RUN_GROUP)
        return guard.attribute(run, "kind", str) == KIND


def _check(trajectory: H5MDTrajectory) -> None:
    frames = len(trajectory.steps)
    shape = np.shape(trajectory.positions)
    if len(shape) != 3 or shape[0] != frames or shape[2] != 3:
        raise ValueError(
            f"write_h5md: positions have shape {shape}, expected ({frames}, particles, 3)."
        )
    for name in ("velocities", "forces"):
        values = getattr(trajectory, name)
        if values is not None and np.shape(values) != shape:
            raise ValueError(
                f"write_h5md: {name} have shape {np.shape(values)}, expected {shape}."
            )
    others = {name: item.values for name, item in trajectory.observables.items()}
    others["times"] = trajectory.times
    if trajectory.box_vectors is not None:
        others["box_vectors"] = trajectory.box_vectors
    for name, values in others.items():
        if np.shape(values)[:1] != (frames,):
            raise ValueError(
                f"write_h5md: {name} have shape {np.shape(values)}, expected {frames} frames."
            )


def _fill(file: h5py.File, trajectory: H5MDTrajectory) -> None:
    _write_head(file, trajectory.facts)
    units = trajectory.units
    particles = file.create_group(_PARTICLES)
    first = particles.create_group("position")
    step = write_array(first, "step", np.asarray(trajectory.steps, np.int64), (), {})
    time = write_array(first, "time", np.asarray(trajectory.times), (), {})
    if "time" in units:
        write_attribute(time, "unit", Form.TEXT, units["time"])

    def element(group: h5py.Group, values: np.ndarray, unit: str) -> None:
        if "step" not in group:
            group["step"], group["time"] = step, time
        write_array(group, "value", np.asarray(values), (), {"unit": unit} if unit else {})

    kinds = {"positions": "length", "velocities": "velocity", "forces": "force"}
    for name, link in _VECTORS.items():
        values = getattr(trajectory, name)
        if values is not None:
            element(particles.require_group(link), values, units.get(kinds[name], ""))
    box = particles.create_group("box")
    periodic = trajectory.box_vectors is not None
    box.attrs.create("dimension", 3)
    box.attrs.create("boundary", np.asarray([b"periodic" if periodic else b"none"] * 3))
    if trajectory.box_vectors is not None:
        element(box.create_group("edges"), trajectory.box_vectors, units.get("length", ""))
    for link, values in (("mass", trajectory.masses), ("species", trajectory.species)):
        if values is not None:
            write_array(particles, link, np.asarray(values), (), {})
    observables = file.create_group("observables")
    for name, item in trajectory.observables.items():
        element(observables.create_group(name), item.values, item.unit)
    _write_run(file, trajectory)


def _write_head(file: h5py.File, facts: Mapping[str, str]) -> None:
    # Texts of fixed length, as the specification has them.
    head = file.create_group("h5md")
    head.attrs.create("version", np.asarray([1, 1], np.int32))
    author = head.create_group("author")
    author.attrs.create("name", np.bytes_(facts.get("author", "unknown").encode()))
    creator = head.create_group("creator")
    creator.attrs.create("name", np.bytes_(b"simkit"))
    creator.attrs.create("version", np.bytes_(versions()["simkit-jax"].encode()))


def _write_run(file: h5py.File, trajectory: H5MDTrajectory) -> None:
    run = file.create_group(RUN_GROUP)
    write_attribute(run, "schema_version", Form.INTEGER, SCHEMA_VERSION)
    write_attribute(run, "kind", Form.TEXT, KIND)
    for field in dataclasses.fields(Provenance):
        value = getattr(trajectory.provenance, field.name)
        form = Form.INTEGER if field.name == "seed" else Form.TEXT
        write_attribute(run, field.name, form, value)
    facts = run.create_group("facts")
    for name, text in trajectory.facts.items():
        write_attribute(facts, name, Form.TEXT, text)
    restart = run.create_group("restart")
    for name, values in trajectory.restart.items():
        write_array(restart, to_link_name(name), np.asarray(values), (), {})


def _read(guard: Guard, run: h5py.Group) -> H5MDTrajectory:
    particles = guard.group(guard.group(guard.file, "particles"), "trajectory")
    position = guard.group(particles, "position")
    found: dict[str, Any] = {
        "steps": guard.array(position, "step", 1),
        "times": guard.array(position, "time", 1),
        "units": _units(guard, particles),
    }
    for name, link in _VECTORS.items():
        if link in particles:
            found[name] = guard.array(guard.group(particles, link), "value", 3)
    box = guard.group(particles, "box")
    if "edges" in box:
        found["box_vectors"] = guard.array(guard.group(box, "edges"), "value", 3)
    for name, link in (("masses", "mass"), ("species", "species")):
        if link in particles:
            found[name] = guard.array(particles, link, 1)
    observables = guard.group(guard.file, "observables")
    found["observables"] = {
        str(name): _observable(guard, guard.group(observables, str(name)))
        for name in observables
    }
    facts, restart = guard.group(run, "facts"), guard.group(run, "restart")
    found["facts"] = {str(name): guard.attribute(facts, name, str) for name in facts.attrs}
    found["restart"] = {
        from_link_name(str(name)): guard.array(restart, str(name)) for name in restart
    }
    found["provenance"] = Provenance(
        **{
            field.name: guard.attribute(run, field.name, int if field.name == "seed" else str)
            for field in dataclasses.fields(Provenance)
        }
    )
    trajectory = H5MDTrajectory(**found)
    try:
        _check(trajectory)
    except ValueError as error:
        reason = str(error).removeprefix("write_h5md: ")
        raise StoreError(f"{guard.path} is damaged: {reason}") from None
    return trajectory


def _observable(guard: Guard, group: h5py.Group) -> Observable:
    values = guard.dataset(group, "value")
    unit = guard.attribute(values, "unit", str) if "unit" in values.attrs else ""
    return Observable(guard.array(group, "value"), unit)


def _units(guard: Guard, particles: h5py.Group) -> dict[str, str]:
    places = {
        "time": ("position", "time"),
        "length": ("position", "value"),
        "velocity": ("velocity", "value"),
        "force": ("force", "value"),
    }
    found = {}
    for quantity, (link, name) in places.items():
        if link in particles:
            dataset = guard.dataset(guard.group(particles, link), name)
            if "unit" in dataset.attrs:
                found[quantity] = guard.attribute(dataset, "unit", str)
    return found
