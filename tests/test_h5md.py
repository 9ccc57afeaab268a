"""Molecular trajectories as H5MD files: other readers, every bit back, harm refused."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import h5py
import jax
import numpy as np
import pytest

from simkit.molecular.simulation_files import load_molecules, save_molecules
from simkit.molecular.simulation_state import decode_state, encode_state
from simkit.store.h5md import is_h5md
from simkit.store.schema import StoreError
from solvers.molecular.driver import run_dynamics
from solvers.molecular.lists import for_engine
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.thermostats import NoseHooverChain
from solvers.molecular.trajectory import MolecularTrajectory, joined
from systems.molecular.boxes import OpenBox
from systems.molecular.units import METAL, REAL, REDUCED, SI

from .helpers_molecular_dynamics import fluid


METHOD = NoseHooverChain(0.004, 1.0, 0.2)


def _run(problem: MolecularProblem, steps: int, state: Any = None) -> MolecularTrajectory:
    return run_dynamics(
        problem,
        METHOD,
        steps=steps,
        save_every=20,
        state=state,
        lists=True,
        skin=0.3,
        save=("velocities", "forces"),
    )


@pytest.fixture(scope="module")
def problem() -> MolecularProblem:
    """108 particles."""
    return fluid()


@pytest.fixture(scope="module")
def half(problem: MolecularProblem) -> MolecularTrajectory:
    """The first 150 steps of a run."""
    return _run(problem, 150)


@pytest.fixture(scope="module")
def file(
    half: MolecularTrajectory,
    problem: MolecularProblem,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Those in a file."""
    path = tmp_path_factory.mktemp("h5md") / "half.h5md"
    save_molecules(half, path, model=problem.model, title="A Lennard-Jones fluid")
    return path


def _same(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def test_a_run_goes_on_from_a_file_with_the_same_bits(
    problem: MolecularProblem, half: MolecularTrajectory, file: Path
) -> None:
    back = load_molecules(file)
    # How lists are made is of the engine, and not of the file.
    _same(back.state, for_engine(half.state, "jax"))
    assert back.state.neighbours is not None
    for name in ("steps", "times", "positions", "velocities", "forces", "box_vectors",
                 "potential_energy", "pressure_tensor", "conserved_energy"):  # fmt: skip
        np.testing.assert_array_equal(getattr(back, name), getattr(half, name))
    assert (back.status, back.statistics) == (half.status, half.statistics)
    rest = _run(problem, 150, back.state)
    whole = _run(problem, 300)
    _same(whole.state, rest.state)
    np.testing.assert_array_equal(joined(back, rest).positions, whole.positions)


def test_mdanalysis_reads_a_file_in_reduced_units(
    half: MolecularTrajectory, file: Path
) -> None:
    mda = pytest.importorskip("MDAnalysis")
    universe = mda.Universe.empty(108, trajectory=True, velocities=True, forces=True)
    universe.load_new(str(file), format="H5MD", convert_units=False)
    assert len(universe.trajectory) == half.frames
    for frame, step in enumerate(universe.trajectory):
        np.testing.assert_allclose(step.positions, half.positions[frame], rtol=1e-5, atol=1e-5)
        assert half.velocities is not None
        assert half.forces is not None
        np.testing.assert_allclose(step.velocities, half.velocities[frame], rtol=1e-5)
        np.testing.assert_allclose(step.forces, half.forces[frame], rtol=1e-5)
        assert step.data["step"] == half.steps[frame]
        assert step.data["temperature"] == half.temperature[frame]
        assert half.box_vectors is not None
        np.testing.assert_allclose(
            step.triclinic_dimensions, half.box_vectors[frame], rtol=1e-6
        )


@pytest.mark.parametrize("units", [METAL, REAL, SI])
def test_mdanalysis_reads_units(units: Any, half: MolecularTrajectory, tmp_path: Path) -> None:
    mda = pytest.importorskip("MDAnalysis")
    # The numbers as if they were of these units: lengths of some angstrom.
    scale = {"metal": 1.0, "real": 1.0, "SI": 1e-10}[units.name]
    assert half.box_vectors is not None
    assert half.velocities is not None
    assert half.forces is not None
    made = dataclasses.replace(
        half,
        units=units,
        positions=half.positions * scale,
        box_vectors=half.box_vectors * scale,
    )
    path = tmp_path / "run.h5md"
    save_molecules(made, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        universe = mda.Universe(str(path), format="H5MD")
    step = universe.trajectory[3]
    # MDAnalysis has angstrom, ps, angstrom/ps and kJ/mol/angstrom.
    metre, second = units.in_si("length"), units.in_si("time")
    newton = 1e3 / 6.02214076e23 / 1e-10
    expected = {
        "positions": made.positions[3] * metre / 1e-10,
        "velocities": half.velocities[3] * (metre / second) / 100,
        "forces": half.forces[3] * units.in_si("force") / newton,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(step, name), values, rtol=3e-5, atol=1e-5)
    np.testing.assert_allclose(step.time, half.times[3] * second / 1e-12, rtol=1e-6)
    back = load_molecules(path)
    assert back.units == units
    assert back.forces is not None
    np.testing.assert_allclose(back.forces, half.forces, rtol=1e-14)


def test_the_file_is_h5md(file: Path, half: MolecularTrajectory) -> None:
    with h5py.File(file) as opened:
        stored: Any = opened
        assert stored["h5md"].attrs["version"].tolist() == [1, 1]
        assert stored["h5md/creator"].attrs["name"] == b"simkit"
        group = stored["particles/trajectory"]
        assert group["box"].attrs["dimension"] == 3
        assert group["box"].attrs["boundary"].tolist() == [b"periodic"] * 3
        assert group["box/edges/value"].shape == (half.frames, 3, 3)
        assert group["mass"].shape == group["species"].shape == (108,)
        # One dataset of steps for all.
        assert group["position/step"] == group["force/step"]
        assert group["position/step"] == stored["observables/temperature/step"]
        assert "unit" not in group["position/value"].attrs
        assert stored["simkit"].attrs["kind"] == "MolecularTrajectory"
    assert is_h5md(file)


def test_an_open_box_has_no_edges(half: MolecularTrajectory, tmp_path: Path) -> None:
    path = tmp_path / "open.h5md"
    state = eqx.tree_at(lambda s: s.box, half.state, OpenBox())
    save_molecules(dataclasses.replace(half, box_vectors=None, state=state), path)
    with h5py.File(path) as stored:
        box: Any = stored["particles/trajectory/box"]
        assert box.attrs["boundary"].tolist() == [b"none"] * 3
        assert "edges" not in box
    back = load_molecules(path)
    assert back.box_vectors is None
    assert isinstance(back.state.box, OpenBox)


def test_what_is_there_stays_and_damage_is_refused(
    file: Path, half: MolecularTrajectory, tmp_path: Path
) -> None:
    before = file.read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        save_molecules(half, file)
    assert file.read_bytes() == before
    harmed = tmp_path / "harmed.h5md"
    harmed.write_bytes(before[: len(before) // 2])
    with pytest.raises(StoreError, match="damaged"):
        load_molecules(harmed)
    harmed.write_bytes(before)
    with h5py.File(harmed, "r+") as stored:
        del stored["simkit/restart/state.velocities"]
    with pytest.raises(StoreError, match=r"state\.velocities"):
        load_molecules(harmed)
    with pytest.raises(ValueError, match="units 'reduced'"):
        load_molecules(file, units=METAL)
    assert load_molecules(file, units=REDUCED).units == REDUCED


def test_only_known_classes_make_a_state(half: MolecularTrajectory) -> None:
    structure, arrays = encode_state(half.state)
    with pytest.raises(StoreError, match="damaged"):
        decode_state(structure.replace("OrthorhombicBox", "Path"), arrays)
    with pytest.raises(StoreError, match="damaged"):
        decode_state("[" * 100_000, arrays)
    strange = eqx.tree_at(lambda s: s.variables, half.state, {"a": 1})
    with pytest.raises(TypeError, match="dict"):
        encode_state(strange)
