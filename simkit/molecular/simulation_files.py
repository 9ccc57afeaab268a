"""Molecular trajectories to H5MD files and back, in units that other programs know."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from simkit.molecular.simulation_state import decode_state, encode_state
from simkit.results import Provenance
from simkit.store.h5md import H5MDTrajectory, Observable, read_h5md, write_h5md
from simkit.store.schema import StoreError
from solvers.molecular.trajectory import MolecularTrajectory
from systems.molecular.model import MolecularModel
from systems.molecular.units import AVOGADRO, UNITS, Units


_OBSERVABLES = {
    "potential_energy": "energy",
    "kinetic_energy": "energy",
    "conserved_energy": "energy",
    "temperature": "temperature",
    "pressure_tensor": "pressure",
    "volume": "volume",
}
_VECTORS = {"positions": "length", "velocities": "velocity", "forces": "force"}


@dataclasses.dataclass(frozen=True)
class _FileUnits:
    """Units of a file: their texts, and what one of ours is in them."""

    texts: dict[str, str]
    factors: dict[str, float] = dataclasses.field(default_factory=dict)

    def factor(self, quantity: str) -> float:
        return self.factors.get(quantity, 1.0)


def _file_units(units: Units) -> _FileUnits:
    """Units that MDAnalysis has a word for; those of the model where it has."""
    if units.name == "metal":
        newton = units.in_si("force")
        texts = ("ps", "Angstrom", "Angstrom ps-1", "kJ mol-1 Angstrom-1")
        # 1 kJ/mol/Angstrom in newton is 1e3 / AVOGADRO / 1e-10.
        factors = {"force": newton * AVOGADRO * 1e-13}
    elif units.name == "real":
        texts = ("fs", "Angstrom", "Angstrom fs-1", "kcal mol-1 Angstrom-1")
        factors = {}
    elif units.name == "SI":
        texts = ("s", "nm", "m s-1", "N")
        factors = {"length": 1e9}
    else:
        return _FileUnits({})
    return _FileUnits(
        dict(zip(("time", "length", "velocity", "force"), texts, strict=True)), factors
    )


def save_molecules(
    trajectory: MolecularTrajectory,
    path: str | os.PathLike[str],
    *,
    model: MolecularModel | None = None,
    title: str = "",
    facts: Mapping[str, str] | None = None,
    provenance: Provenance | None = None,
    overwrite: bool = False,
) -> None:
    """Write a molecular trajectory to an H5MD 1.1 file, whole or not at all.

    MDAnalysis reads it with no topology: `MDAnalysis.Universe(path, format="H5MD")`; in
    reduced units, for which it has no words, by `Universe.empty(particles)` and
    `load_new(path, format="H5MD", convert_units=False)`. Lengths, times, velocities and
    forces are in the units of the model, except for forces of `METAL` (kJ/mol/angstrom) and
    lengths of `SI` (nm).

    **Arguments:**

    - `path`: the file; its folder must exist.
    - `model`: of the run, for masses and species.
    - `title`: one line for people.
    - `facts`: further texts that describe the run: `system`, `method`, and `species`, the
      symbols of the species in their order.
    - `provenance`: where the trajectory comes from.
    - `overwrite`: whether a file that is already there is replaced.

    Raises `FileExistsError`, `FileNotFoundError` for the folder, and `TypeError` for the
    state of a method that files do not know (minimisers).
    """
    units = _file_units(trajectory.units)
    structure, arrays = encode_state(trajectory.state)
    vectors: dict[str, Any] = {"box_vectors": None}
    for name, quantity in (*_VECTORS.items(), ("box_vectors", "length")):
        values = getattr(trajectory, name)
        factor = units.factor(quantity)
        vectors[name] = values if values is None or factor == 1 else values * factor
    statistics = {f"statistics.{name}": v for name, v in trajectory.statistics.items()}
    write_h5md(
        H5MDTrajectory(
            steps=trajectory.steps,
            times=trajectory.times,
            **vectors,
            observables={
                name: Observable(getattr(trajectory, name), _unit_of(trajectory.units, kind))
                for name, kind in _OBSERVABLES.items()
            },
            units=units.texts,
            masses=None if model is None else np.asarray(model.masses),
            species=None if model is None else np.asarray(model.species),
            facts={
                **(facts or {}),
                "title": title,
                "units": trajectory.units.name,
                "status": trajectory.status,
                "message": trajectory.message,
                "engine": trajectory.engine,
                "engine_reason": trajectory.engine_reason,
                "state": structure,
            },
            restart={**arrays, **{k: np.asarray(float(v)) for k, v in statistics.items()}},
            provenance=provenance or Provenance(),
        ),
        path,
        overwrite=overwrite,
    )


def load_molecules(
    path: str | os.PathLike[str], *, units: Units | None = None, max_bytes: int = 2**31
) -> MolecularTrajectory:
    """Read a trajectory that `save_molecules` wrote.

    Its `state` has all the bits of the one that was written: a run goes on from it. So have
    the frames, except for lengths of `SI` and forces of `METAL`, which have their last one
    rounded.

    **Arguments:**

    - `path`: the file.
    - `units`: those of the model; needed for a set of one's own, else known by their name.
    - `max_bytes`: what the arrays may come to in memory.

    Raises `OSError` if there is no such file, `StoreError` for one that is damaged or of
    another kind, and `ValueError` for units that are not those of the file.
    """
    return load_with_provenance(path, units=units, max_bytes=max_bytes)[0]


def load_with_provenance(
    path: str | os.PathLike[str], *, units: Units | None = None, max_bytes: int = 2**31
) -> tuple[MolecularTrajectory, Provenance]:
    """As `load_molecules`, and where the trajectory comes from."""
    stored = read_h5md(path, max_bytes=max_bytes)
    try:
        name = stored.facts["units"]
        structure, status = stored.facts["state"], stored.facts["status"]
        message = stored.facts["message"]
        observables = {key: stored.observables[key].values for key in _OBSERVABLES}
    except KeyError as error:
        raise StoreError(f"{path} is damaged or incomplete: {error} is missing.") from None
    units = units or UNITS.get(name)
    if units is None or units.name != name:
        given = "no units were given" if units is None else f"units {units.name!r} were given"
        raise ValueError(f"{path} is in the units {name!r}, and {given}; expected those.")
    file_units = _file_units(units)
    vectors: dict[str, Any] = {}
    for field, quantity in (*_VECTORS.items(), ("box_vectors", "length")):
        values, factor = getattr(stored, field), file_units.factor(quantity)
        vectors[field] = values if values is None or factor == 1 else values / factor
    mark = "statistics."
    arrays = {k: v for k, v in stored.restart.items() if not k.startswith(mark)}
    trajectory = MolecularTrajectory(
        steps=stored.steps,
        times=stored.times,
        **vectors,
        **observables,
        units=units,
        status=status,
        message=message,
        state=decode_state(structure, arrays),
        engine=stored.facts.get("engine", ""),
        engine_reason=stored.facts.get("engine_reason", ""),
        statistics={
            key.removeprefix(mark): float(value)
            for key, value in stored.restart.items()
            if key.startswith(mark)
        },
    )
    return trajectory, stored.provenance


def _unit_of(units: Units, quantity: str) -> str:
    if units.name == "reduced":
        return ""
    if quantity == "volume":
        return f"{units.length}+3"
    return getattr(units, quantity)
