"""Molecular cases on the command line: the run, going on, its end, and what is refused."""

import contextlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest

from simkit.cli.outcomes import SCHEMA_FILE
from simkit.config.errors import CaseError
from simkit.config.molecular import CutOff, Method, MolecularCase, Potential
from simkit.config.molecular_reader import (
    find_molecular_errors,
    is_molecular,
    read_molecular_case,
)
from simkit.molecular.case_problem import build_method, build_problem
from simkit.molecular.simulation import segment_steps, simulate_molecules
from simkit.molecular.simulation_files import load_molecules
from simkit.progress import silent
from simkit.segments import Checkpoint, Stopped
from simkit.store.run_folder import begin
from simkit.store.segments import segment_indices, segment_path

from .helpers_cli import LYNX_HARE, ROOT, run, write_case


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


def test_mdanalysis_reads_what_the_command_wrote(finished: Path) -> None:
    mda = pytest.importorskip("MDAnalysis")
    path = finished / "out" / "trajectory.h5md"
    universe = mda.Universe.empty(108, trajectory=True, velocities=True)
    universe.load_new(str(path), format="H5MD", convert_units=False)
    trajectory = load_molecules(path)
    found = np.asarray([step.positions.copy() for step in universe.trajectory])
    np.testing.assert_allclose(found, trajectory.positions, rtol=1e-5, atol=1e-5)


def test_the_case_of_argon_is_well(tmp_path: Path) -> None:
    answer = run("check", ARGON)
    assert answer.exit_code == 0, answer.output
    assert "256 particles of LennardJones by Langevin, 20000 steps" in answer.stdout
    answer = run("check", ARGON, "--json")
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


def test_every_type_of_a_case_is_a_class() -> None:
    """With the same arguments."""
    pairs = {
        "LennardJones": {}, "WeeksChandlerAndersen": {}, "SoftSphere": {},
        "Buckingham": {"repulsion": 9.0, "decay": 0.3, "dispersion": 1.0},
        "Morse": {"depth": 1.0, "steepness": 2.0, "distance": 1.1},
        "Yukawa": {"strength": 1.0, "screening": 2.0},
    }  # fmt: skip
    cut_offs = {
        "Truncated": {}, "Shifted": {}, "ForceShifted": {}, "Switched": {"onset": 1.5}
    }  # fmt: skip
    methods = {
        "VelocityVerlet": {}, "Langevin": {"temperature": 1.0, "friction": 1.0},
        "NoseHooverChain": {"temperature": 1.0, "relaxation_time": 1.0, "length": 4},
        "StochasticVelocityRescaling": {"temperature": 1.0, "relaxation_time": 1.0},
    }  # fmt: skip
    for union, tables in ((Potential, pairs), (CutOff, cut_offs), (Method, methods)):
        assert {kind.__name__ for kind in union.__args__} == set(tables)
    base = {"schema": 1, "title": "t"}
    molecules = {"lattice": "fcc", "repeats": 3, "density": 0.8}

    def case(pair: str, cut_off: str | None, method: str) -> MolecularCase:
        tables = {**molecules, "potential": {"type": pair, **pairs[pair]}}
        if cut_off is not None:
            tables["cutoff"] = {"type": cut_off, "radius": 2.0, **cut_offs[cut_off]}
        moves = {"type": method, "time_step": 0.004, **methods[method]}
        dynamics = {"method": moves, "steps": 10, "temperature": 1.0}
        return msgspec.convert(
            {**base, "molecules": tables, "dynamics": dynamics}, MolecularCase, strict=True
        )

    def term_of(made: MolecularCase) -> Any:
        return build_problem(made).model.terms[0]

    for pair in pairs:
        if pair == "WeeksChandlerAndersen":
            found = term_of(case(pair, None, "Langevin")).pair
        else:
            found = term_of(case(pair, "Shifted", "Langevin")).pair.pair
        assert type(found).__name__ == pair
    for cut_off in cut_offs:
        term = term_of(case("Morse", cut_off, "Langevin"))
        assert type(term.pair).__name__ == cut_off
        assert term.range == 2.0
    for method in methods:
        built = build_method(case("Morse", "Shifted", method))
        assert type(built).__name__ == method
        assert float(built.duration) == 0.004
