"""Molecular cases on the command line: the run, going on, its end, and what is refused."""

import contextlib
import json
import signal
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import jsonschema
import numpy as np
import pytest

from simkit.cli.outcomes import SCHEMA_FILE
from simkit.config.errors import CaseError
from simkit.config.molecular_reader import (
    find_molecular_errors,
    is_molecular,
    read_molecular_case,
)
from simkit.importers.xyz import Structure, write_xyz
from simkit.molecular.case_problem import build_problem
from simkit.molecular.simulation import segment_steps, simulate_molecules
from simkit.molecular.simulation_files import load_molecules
from simkit.molecular.trial import check_forces
from simkit.progress import silent
from simkit.segments import Checkpoint, Stopped
from simkit.store.run_folder import begin
from simkit.store.segments import segment_indices, segment_path
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.start import initial_state
from solvers.molecular.verlet import VelocityVerlet
from systems.molecular.boxes import OpenBox
from systems.molecular.model import AbstractTerm, MolecularModel
from systems.molecular.pair_sums import Evaluation

from .helpers_cli import LYNX_HARE, ROOT, run, write_case
from .helpers_runs import kept_segments, serving, wait_for_segments


ARGON = ROOT / "data" / "argon" / "case.toml"
SMALL = """\
schema = 1
title = "A Lennard-Jones fluid [m]"

[molecules]
lattice = "fcc"
repeats = 3
density = 0.8
potential = { type = "LennardJones", epsilon = 1.0, sigma = 1.0 }
cutoff = { type = "ForceShifted", radius = 2.2 }

[dynamics]
steps = 240
save_every = 20
segment = 80

[dynamics.method]
type = "NoseHooverChain"
time_step = 0.004
temperature = 1.0
relaxation_time = 0.2
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 108 particles, with what was printed."""
    folder = tmp_path_factory.mktemp("molecules")
    answer = run("simulate", write_case(folder, SMALL), "-o", folder / "out", "--json")
    assert answer.exit_code == 0, answer.output
    (folder / "printed.json").write_text(answer.stdout)
    return folder


def _validate(name: str, values: Any) -> None:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    (outcome,) = [item for item in schema["anyOf"] if item["$anchor"] == name]
    jsonschema.Draft202012Validator({"$defs": schema["$defs"], **outcome}).validate(values)


def test_a_case_is_run(finished: Path) -> None:
    values = json.loads((finished / "printed.json").read_text())
    _validate("simulate", values)
    assert (values["particles"], values["steps"], values["frames"]) == (108, 240, 13)
    assert values["status"] == "successful"
    assert values["nanoseconds_per_day"] is None
    assert sorted(path.name for path in (finished / "out").iterdir()) == ["trajectory.h5md"]
    trajectory = load_molecules(finished / "out" / "trajectory.h5md")
    assert trajectory.steps.tolist() == list(range(0, 241, 20))
    assert values["observables"]["temperature"]["last"] == trajectory.temperature[-1]
    # A chain keeps its energy, and the crystal melts.
    assert np.ptp(trajectory.conserved_energy) / 108 < 1e-2
    assert np.std(trajectory.positions[-1] - trajectory.positions[0]) > 0.05


def test_what_was_stopped_goes_on_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    case = read_molecular_case(finished / "case.toml")

    class AfterOne:
        """Asks to stop when a segment is there."""

        def asked(self) -> bool:
            return bool(segment_indices(tmp_path / "run"))

        def late(self) -> bool:
            return False

        def guard(self) -> Any:
            return contextlib.nullcontext()

    told: list[str] = []
    with begin(tmp_path / "run", {}, resume=False) as folder, pytest.raises(Stopped) as stopped:
        simulate_molecules(case, checkpoint=Checkpoint(folder, stop=AfterOne()))
    assert (stopped.value.done, stopped.value.total) == (1, 3)
    with begin(tmp_path / "run", {}, resume=True) as folder:
        found = simulate_molecules(
            case,
            progress=lambda done, total, message: told.append(message),
            checkpoint=Checkpoint(folder),
        ).trajectory
    whole = load_molecules(finished / "out" / "trajectory.h5md")
    for name in ("steps", "positions", "velocities", "conserved_energy"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    for name in ("positions", "velocities", "images", "key", "step"):
        np.testing.assert_array_equal(getattr(found.state, name), getattr(whole.state, name))
    for mine, theirs in zip(found.state.variables, whole.state.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert any(words.endswith("steps/s") for words in told)
    # A segment that was harmed is computed again, and those behind it.
    path = segment_path(tmp_path / "run", 1)
    path.write_bytes(path.read_bytes()[:-1])
    warned: list[str] = []
    with begin(tmp_path / "run", {}, resume=True) as folder:
        checkpoint = Checkpoint(folder, notify=warned.append)
        again = simulate_molecules(case, progress=silent, checkpoint=checkpoint).trajectory
    np.testing.assert_array_equal(again.positions, whole.positions)
    assert len(warned) == 1


def test_the_command_stops_and_goes_on(finished: Path, tmp_path: Path) -> None:
    case = finished / "case.toml"
    words = ["simulate", case, "-o", tmp_path / "out", "--time-limit", "0.001"]
    answer = run(*words)
    assert answer.exit_code == 4, answer.output
    assert "with 1 segment done" in answer.stderr
    answer = run(
        "simulate", case, "-o", tmp_path / "out", "--set", "dynamics.seed=3", "--resume"
    )
    assert answer.exit_code == 2
    assert "dynamics.seed is 0 there and 3 here" in answer.stderr
    answer = run("simulate", case, "-o", tmp_path / "out", "--resume")
    assert answer.exit_code == 0, answer.output
    one = load_molecules(tmp_path / "out" / "trajectory.h5md")
    other = load_molecules(finished / "out" / "trajectory.h5md")
    np.testing.assert_array_equal(one.positions, other.positions)
    assert not (tmp_path / "out" / ".run").exists()


def test_a_finished_run_is_told_again_and_stays(finished: Path) -> None:
    case, path = finished / "case.toml", finished / "out" / "trajectory.h5md"
    before = path.read_bytes()
    answer = run("simulate", case, "-o", finished / "out", "--resume", "--json")
    assert answer.exit_code == 0
    assert json.loads(answer.stdout) == json.loads((finished / "printed.json").read_text())
    answer = run("simulate", case, "-o", finished / "out")
    assert answer.exit_code == 2
    assert "is there already" in answer.stderr
    answer = run("simulate", case, "-o", finished / "out", "--resume", "--seed", "5")
    assert answer.exit_code == 2
    assert "dynamics.seed is 0 there and 5 here" in answer.stderr
    assert path.read_bytes() == before


def test_a_run_that_explodes_keeps_what_it_has(finished: Path, tmp_path: Path) -> None:
    answer = run(
        *("simulate", finished / "case.toml", "-o", tmp_path / "out", "--json"),
        *("--set", "dynamics.method.time_step=0.08", "--set", "dynamics.save_every=1"),
    )
    assert answer.exit_code == 3, answer.output
    values = json.loads(answer.stdout)
    _validate("simulate", values)
    assert values["status"] in ("exploded", "nonfinite")
    assert "step" in values["message"]
    assert "atom" in values["message"]
    trajectory = load_molecules(tmp_path / "out" / "trajectory.h5md")
    assert trajectory.frames == values["frames"] >= 1
    assert trajectory.message == values["message"]


def test_where_the_time_of_a_run_went(finished: Path, tmp_path: Path) -> None:
    words = ["-o", tmp_path / "out", "--profile", tmp_path / "profile", "--json"]
    answer = run("simulate", finished / "case.toml", *words)
    assert answer.exit_code == 0, answer.output
    values = json.loads(answer.stdout)
    _validate("simulate", values)
    seconds = values["profile"]["seconds"]
    assert seconds["total"] == pytest.approx(sum(seconds.values()) - seconds["total"])
    assert min(seconds["run"], seconds["write"]) > 0
    assert any(path.endswith("perfetto_trace.json.gz") for path in values["profile"]["files"])


def test_mdanalysis_reads_what_the_command_wrote(finished: Path) -> None:
    mda = pytest.importorskip("MDAnalysis")
    path = finished / "out" / "trajectory.h5md"
    universe = mda.Universe.empty(108, trajectory=True, velocities=True)
    universe.load_new(str(path), format="H5MD", convert_units=False)
    trajectory = load_molecules(path)
    found = np.asarray([step.positions.copy() for step in universe.trajectory])
    np.testing.assert_allclose(found, trajectory.positions, rtol=1e-5, atol=1e-5)


def test_the_case_of_argon_is_well(tmp_path: Path) -> None:
    answer = run("check", ARGON, "--static")
    assert answer.exit_code == 0, answer.output
    assert "256 particles of LennardJones by Langevin, 20000 steps" in answer.stdout
    answer = run("check", ARGON, "--static", "--json")
    _validate("check", json.loads(answer.stdout))
    case = read_molecular_case(ARGON)
    problem = build_problem(case.case)
    assert problem.model.particles == 256
    np.testing.assert_allclose(256 / float(problem.box.volume()), 0.0213)
    assert problem.model.units.name == "metal"
    assert segment_steps(case) == 700
    assert not is_molecular(LYNX_HARE)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("dynamics.stps=3", "dynamics.stps is not a known key"),
        ("dynamics.steps=0", "dynamics.steps is 0 (a whole number), expected a whole number"),
        ("molecules.density=-1", "molecules.density is -1"),
        ("molecules.constant=1.7", "molecules.constant is 1.7 (a number) beside a density"),
        ("molecules.repeats=2", "expected one at least twice as wide as the range 2.2"),
        ('molecules.potential.type="LennardJone"', 'nearest is "LennardJones"'),
        ('molecules.potential.type="Yukawa"', "molecules.potential.epsilon is not a known key"),
        ('molecules.potential={type="WeeksChandlerAndersen"}', "has a range of its own"),
        (
            'molecules.cutoff={type="Switched", onset=3.0, radius=2.0}',
            "molecules.cutoff.onset is 3 (a number)",
        ),
        (
            'dynamics.method={type="VelocityVerlet", time_step=0.004}',
            "dynamics.temperature is missing",
        ),
        ("dynamics.segment=30", "expected a multiple of dynamics.save_every = 20"),
        ('dynamics.precision="half"', 'dynamics.precision is "half"'),
        ("molecules.potential.epsilon=[1.0, 2.0]", "epsilon is a list of 2 numbers, expected"),
        ("molecules.potential.sigma=[[1.0], 2.0]", "a list of rows of different lengths"),
        ('molecules.file="start.xyz"', "molecules.file is given beside a lattice"),
        ("molecules.packing={distance=0.9}", "molecules.packing is given beside a lattice"),
        ("molecules.tail_correction=true", "expected a cut-off by Truncated or Switched"),
        ('molecules.species=[{name="A", count=9}]', "has counts that come to 9, expected 108"),
        ('molecules.species=[{name="A"}]', "molecules.species[0].count is missing"),
        ("molecules.repeats=[3, 3]", "is a list of 2 values, expected one whole number or th"),
        ("molecules.repeats=900", "makes 2916000000 particles, expected from 1 to 20000000"),
        ('molecules.terms=[{potential={type="Tersoff", file="x"}}]', "which is not there"),
        (
            'molecules.terms=[{potential={type="SoftSphere"}}]',
            "molecules.terms[0].cutoff is missing",
        ),
        (
            'dynamics.method={type="MonteCarloBarostat", pressure=1.0}',
            "dynamics.method.dynamics is missing",
        ),
    ],
)
def test_mistakes_are_told_in_a_sentence(change: str, sentence: str, tmp_path: Path) -> None:
    path = write_case(tmp_path, SMALL)
    with pytest.raises(CaseError) as error:
        read_molecular_case(path, [change])
    message = str(error.value)
    assert message.startswith(str(path))
    assert sentence in message
    assert "\n" not in message
    assert message in [str(item) for item in find_molecular_errors(path, [change])]


def test_a_mistake_ends_the_commands_with_nothing_written(tmp_path: Path) -> None:
    path = write_case(tmp_path, SMALL.replace("steps = 240", "steps = 0"))
    for words in (["check", path], ["check", path, "--json"], ["simulate", path]):
        answer = run(*words, *([] if words[0] == "check" else ["-o", tmp_path / "out"]))
        assert answer.exit_code == 2
        assert "dynamics.steps is 0" in answer.output
        assert "Traceback" not in answer.output
    assert not (tmp_path / "out").exists()
    answer = run(
        "simulate", write_case(tmp_path, SMALL), "-o", tmp_path / "out", "--devices", "2"
    )
    assert answer.exit_code == 2
    assert "--devices was given" in answer.stderr
    assert not (tmp_path / "out").exists()


def test_a_fit_on_the_command_line_says_where_it_is(tmp_path: Path) -> None:
    answer = run("fit", write_case(tmp_path, SMALL), "-o", tmp_path / "out")
    assert answer.exit_code == 2
    assert "sk.molecular.fit_averages and match_forces do." in answer.stderr
    assert not (tmp_path / "out").exists()


def test_a_check_tries_forces_and_steps(tmp_path: Path) -> None:
    answer = run("check", write_case(tmp_path, SMALL), "--json")
    assert answer.exit_code == 0, answer.output
    values = json.loads(answer.stdout)
    _validate("check", values)
    trial = values["trial"]
    assert (trial["particles"], trial["forces"]["atoms"], trial["steps"]) == (108, 8, 50)
    assert trial["forces"]["wrong"] == []
    assert trial["forces"]["worst"]["relative_difference"] < 1e-4
    assert trial["energy_wander"] < 0.01
    assert trial["warnings"] == []
    np.testing.assert_allclose(trial["closest"]["distance"], (4 / 0.8) ** (1 / 3) / 2**0.5)
    words = ["--set", "dynamics.method.time_step=0.03", "--set", "dynamics.temperature=3.0"]
    answer = run("check", tmp_path / "case.toml", *words)
    assert answer.exit_code in (0, 3)
    assert "0.03 is too long" in answer.stderr or "exploded" in answer.stderr


def test_a_check_names_atoms_that_overlap(tmp_path: Path) -> None:
    positions = np.array([[0.0, 0, 0], [3.0, 0, 0], [3.05, 0, 0]])
    structure = Structure(("A",) * 3, positions, np.eye(3) * 8, (True, True, True))
    write_xyz(tmp_path / "start.xyz", structure)
    crystal = 'lattice = "fcc"\nrepeats = 3\ndensity = 0.8\n'
    path = write_case(tmp_path, SMALL.replace(crystal, 'file = "start.xyz"\n'))
    answer = run("check", path)
    assert answer.exit_code == 2
    assert "Atoms 1 and 2 overlap at the start: they are 0.05 apart" in answer.stderr
    answer = run("simulate", path, "-o", tmp_path / "out")
    assert answer.exit_code == 2
    assert "Atoms 1 and 2 overlap" in answer.stderr
    assert not (tmp_path / "out").exists()


class _Wrong(AbstractTerm):
    """A term of which the force on one atom is wrong."""

    def evaluate(self, positions: Any, species: Any, box: Any, neighbours: Any) -> Evaluation:
        del species, box, neighbours
        forces = -2 * positions
        forces = forces.at[2].multiply(1.01)
        return Evaluation(energy=jnp.sum(positions**2), forces=forces, virial=jnp.zeros((3, 3)))


def test_a_wrong_force_is_found() -> None:
    positions = np.random.default_rng(0).random((5, 3)) + 1
    problem = MolecularProblem(MolecularModel(_Wrong(), np.ones(5)), positions, OpenBox())
    found = check_forces(problem.model, initial_state(problem, VelocityVerlet(1e-3)))
    assert found.atoms[found.wrong].tolist() == [2]
    assert found.atoms[found.worst] == 2
    np.testing.assert_allclose(found.relative_difference[found.worst], 0.01, rtol=0.02)


def test_sigterm_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    """A real process."""
    path = write_case(tmp_path, SMALL.replace("segment = 80", "segment = 20"))
    words = ["simulate", path, "-o", tmp_path / "out", "--set", "dynamics.steps=2000"]
    with serving(tmp_path, SIMKIT_CACHE="off") as server:
        process = server.start(*words)
        wait_for_segments(tmp_path / "out", 1)
        process.signal(signal.SIGTERM)
        assert process.wait(60) == 4, process.errors
    assert "Error: stopped by SIGTERM with" in process.errors
    assert "the same command with --resume goes on from there" in process.errors
    assert 0 < len(kept_segments(tmp_path / "out")) < 100
    answer = run(*words, "--resume")
    assert answer.exit_code == 0, answer.output
    trajectory = load_molecules(tmp_path / "out" / "trajectory.h5md")
    assert trajectory.steps.tolist() == list(range(0, 2001, 20))
