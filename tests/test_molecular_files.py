"""H5MD files through show, analyse, plot, report and export: ours, foreign, and harmed."""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import jsonschema
import numpy as np
import pytest

from simkit.cli.outcomes import SCHEMA_FILE
from simkit.molecular.equilibration import equilibrated_from
from simkit.molecular.simulation_files import load_molecules
from simkit.molecular.trajectory_analysis import analyse_trajectory
from simkit.results import Provenance
from simkit.store.h5md import H5MDTrajectory, Observable, write_h5md
from simkit.store.h5md_frames import is_trajectory, open_frames

from .helpers_cli import LYNX_HARE, run, write_case
from .helpers_mutations import mutated


MUTATIONS = int(os.environ.get("SIMKIT_MUTATIONS", "24"))
MIXTURE = """\
schema = 1
title = "Soft spheres"

[molecules]
packing = { distance = 0.5 }
density = 0.6
units = "metal"
seed = 3
species = [{ name = "A", mass = 40.0, count = 40 }, { name = "B", mass = 20.0, count = 24 }]

[molecules.potential]
type = "WeeksChandlerAndersen"
epsilon = 0.01
sigma = [1.0, 0.9]

[minimisation]
method = { type = "FIRE", tolerance = 1e-3 }

[dynamics]
steps = 800
save_every = 20
seed = 2

[dynamics.method]
type = "StochasticCellRescaling"
pressure = 30000.0
relaxation_time = 0.2
compressibility = 1e-5
dynamics = { type = "Langevin", time_step = 0.002, temperature = 100.0, friction = 5.0 }
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a mixture of 64 spheres at constant pressure, and what was printed."""
    folder = tmp_path_factory.mktemp("mixture")
    case = write_case(folder, MIXTURE)
    answer = run("simulate", case, "-o", folder / "out", "--json")
    assert answer.exit_code == 0, answer.output
    (folder / "printed.json").write_text(answer.stdout)
    return folder / "out" / "trajectory.h5md"


def _outcome(name: str, text: str) -> Any:
    """What a command printed, after a look at its shape."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    (outcome,) = [item for item in schema["anyOf"] if item["$anchor"] == name]
    values = json.loads(text)
    jsonschema.Draft202012Validator({"$defs": schema["$defs"], **outcome}).validate(values)
    return values


def test_a_minimised_mixture_at_constant_pressure(finished: Path) -> None:
    values = _outcome("simulate", (finished.parent.parent / "printed.json").read_text())
    assert (values["system"], values["particles"]) == ("WeeksChandlerAndersen", 64)
    assert values["method"] == "StochasticCellRescaling around Langevin"
    assert values["minimisation"]["converged"] is True
    assert values["minimisation"]["largest_force"] < 1e-3
    assert values["nanoseconds_per_day"] > 0
    assert values["engine"] in ("jax", "native")
    trajectory = load_molecules(finished)
    assert trajectory.statistics["minimisation_steps"] == values["minimisation"]["steps"] > 0
    assert trajectory.volume[0] == pytest.approx(64 / 0.6)
    assert np.ptp(trajectory.volume) > 0.1


def test_show_tells_what_it_is(finished: Path) -> None:
    values = _outcome("show", run("show", finished, "--json").stdout)
    printed = json.loads((finished.parent.parent / "printed.json").read_text())
    assert values["result"] == printed
    paths = {item["path"]: item for item in values["variables"]}
    assert paths["/particles/trajectory/position/value"]["shape"] == [41, 64, 3]
    assert paths["/particles/trajectory/position/value"]["units"] == "Angstrom"
    said = run("show", finished).stdout
    assert "64 particles of WeeksChandlerAndersen by StochasticCellRescaling" in said
    assert "time: 0 to 1.6 ps" in said


def test_analyse_gives_averages_with_errors(finished: Path, tmp_path: Path) -> None:
    words = ["--skip", "9", "-o", tmp_path / "numbers.csv", "--json"]
    answer = run("analyse", finished, *words)
    assert answer.exit_code == 0, answer.output
    values = _outcome("analyse", answer.stdout)
    trajectory = load_molecules(finished)
    assert values["skipped"] == 9
    for name, kept in (
        ("temperature", trajectory.temperature), ("pressure", trajectory.pressure),
        ("density", 64 / trajectory.volume), ("total energy", trajectory.total_energy),
    ):  # fmt: skip
        found = values["averages"][name]
        assert found["mean"] == pytest.approx(kept[9:].mean())
        assert 0 < found["standard_error"] < 5 * kept[9:].std() / np.sqrt(32)
    assert values["averages"]["density"]["unit"] == "Angstrom^-3"
    curves = values["curves"]
    names = ["g", "g A-A", "g A-B", "g B-B", "mean squared displacement"]
    assert sorted(curves) == sorted(names)
    r = np.asarray(curves["g A-B"]["coordinate"]["values"])
    g = np.asarray(curves["g A-B"]["values"])
    assert np.all(g[r < 0.7] == 0)
    assert g.max() > 1.5
    assert (tmp_path / "numbers.csv").read_text().startswith("quantity,average,standard_error")
    refused = run("analyse", finished, "--skip", "41")
    assert refused.exit_code == 2
    assert "41 frames were to be left out of 41" in refused.stderr
    said = run("analyse", finished, "--skip", "9").stdout
    assert "of which the first 9 count for no average" in said
    assert "Averages" in said
    refused = run("analyse", LYNX_HARE, "--skip", "2")
    assert refused.exit_code == 2


def test_plot_report_and_export(finished: Path, tmp_path: Path) -> None:
    answer = run("plot", finished, "-o", tmp_path / "figures", "--format", "svg", "--json")
    paths = _outcome("plot", answer.stdout)["figures"]
    names = {"course.svg", "distribution.svg", "displacement.svg"}
    assert {Path(path).name for path in paths} == names
    answer = run("report", finished, "-o", tmp_path / "report.html")
    assert answer.exit_code == 0, answer.output
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 3
    for words in ("The run reached its end.", "Averages over", "Radial distribution", "g A-B"):
        assert words in page
    answer = run("export", finished, "-o", tmp_path / "tables")
    assert answer.exit_code == 0, answer.output
    table = np.genfromtxt(tmp_path / "tables" / "frames.csv", delimiter=",", names=True)
    trajectory = load_molecules(finished)
    np.testing.assert_array_equal(table["temperature"], trajectory.temperature)
    vectors = trajectory.box_vectors
    assert vectors is not None
    np.testing.assert_array_equal(table["box_cz"], vectors[:, 2, 2])


def test_a_minimum_alone(tmp_path: Path) -> None:
    case = write_case(tmp_path, MIXTURE.partition("[dynamics]")[0])
    answer = run("simulate", case, "-o", tmp_path / "out", "--json")
    assert answer.exit_code == 0, answer.output
    values = _outcome("simulate", answer.stdout)
    assert (values["method"], values["frames"]) == ("FIRE", 1)
    assert values["minimisation"]["largest_force"] < 1e-3
    trajectory = load_molecules(tmp_path / "out" / "trajectory.h5md")
    assert trajectory.forces is not None
    assert np.abs(trajectory.forces).max() < 1e-3
    assert trajectory.kinetic_energy[0] == 0
    again = run("simulate", case, "-o", tmp_path / "out", "--resume", "--json")
    assert json.loads(again.stdout) == values
    found = _outcome(
        "analyse", run("analyse", tmp_path / "out" / "trajectory.h5md", "--json").stdout
    )
    assert found["averages"]["temperature"] == {
        "unit": "K",
        "mean": 0.0,
        "standard_error": None,
    }
    given = ["--set", "minimisation.most_steps=2", "--json"]
    answer = run("simulate", case, "-o", tmp_path / "other", *given)
    assert answer.exit_code == 3
    values = _outcome("simulate", answer.stdout)
    assert values["status"] == "unconverged"
    assert "gave up after 2 steps" in values["message"]
    answer = run("simulate", case, "--seed", "3", "-o", tmp_path / "third")
    assert answer.exit_code == 2
    assert "nothing in" in answer.stderr


def test_equilibrium_begins_where_the_drift_ends() -> None:
    noise = np.random.default_rng(5).standard_normal(400)
    assert equilibrated_from(noise) < 40
    drifting = noise.copy()
    drifting[:100] += np.linspace(40, 0, 100)
    assert 80 <= equilibrated_from(noise, drifting) <= 130


def _random_walk(path: Path, frames: int = 200, particles: int = 30) -> None:
    """Particles that diffuse with the coefficient 0.5, in a box of edge 4."""
    generator = np.random.default_rng(1)
    moves = generator.standard_normal((frames, particles, 3)) * np.sqrt(0.1)
    box = np.broadcast_to(4.0 * np.eye(3), (frames, 3, 3))
    trajectory = H5MDTrajectory(
        steps=np.arange(frames),
        times=0.1 * np.arange(frames),
        positions=4 * generator.random((particles, 3)) + np.cumsum(moves, axis=0),
        box_vectors=box,
        observables={"temperature": Observable(1 + 0.1 * generator.standard_normal(frames))},
        facts={"title": "walks", "status": "successful"},
        species=np.arange(particles) % 2,
        provenance=Provenance(),
    )
    write_h5md(trajectory, path)


def test_diffusion_of_a_random_walk(tmp_path: Path) -> None:
    _random_walk(tmp_path / "walks.h5md")
    with open_frames(tmp_path / "walks.h5md") as file:
        found = analyse_trajectory(file)
    (diffusion,) = [item for item in found.averages if item.name == "diffusion coefficient"]
    assert abs(diffusion.value - 0.5) < 5 * diffusion.standard_error
    assert diffusion.standard_error < 0.1
    # An ideal gas: no structure.
    total = found.distributions[0]
    assert abs(np.mean(total.value[50:]) - 1) < 0.05
    assert [curve.name for curve in found.distributions] == ["g", "g 0-0", "g 0-1", "g 1-1"]


def test_parts_give_what_the_whole_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _random_walk(tmp_path / "walks.h5md")

    def analysed() -> Any:
        with open_frames(tmp_path / "walks.h5md") as file:
            return analyse_trajectory(file, skip=3)

    whole = analysed()
    monkeypatch.setattr("simkit.molecular.trajectory_analysis._PART_BYTES", 24 * 30 * 50)
    parts = analysed()
    for one, other in zip(whole.curves, parts.curves, strict=True):
        np.testing.assert_allclose(one.value, other.value, rtol=1e-12)
    # Fewer frames and particles stand for all, and it is said.
    monkeypatch.setattr("simkit.molecular.trajectory_analysis._MOST_PAIRS", 4 * 20 * 30**2)
    monkeypatch.setattr("simkit.molecular.trajectory_analysis._HELD_BYTES", 24 * 197 * 10)
    some = analysed()
    assert "Radial distribution from 20 of 197 frames." in some.notes
    assert "Displacements of 10 of 30 particles." in some.notes
    means = [np.mean(found.distributions[0].value[100:]) for found in (some, whole)]
    np.testing.assert_allclose(*means, rtol=0.1)


def test_a_file_of_another_program(tmp_path: Path) -> None:
    mda = pytest.importorskip("MDAnalysis")
    positions = np.random.default_rng(2).random((5, 20, 3)).astype(np.float32) * 9
    universe = mda.Universe.empty(20, trajectory=True)
    universe.load_new(positions, dimensions=np.array([9.0, 9, 9, 90, 90, 90]))
    path = tmp_path / "other.h5md"
    with mda.Writer(str(path), n_atoms=20, convert_units=False) as writer:
        for _ in universe.trajectory:
            writer.write(universe)
    writer.h5md_file.close()  # which leaving the block does not do
    assert is_trajectory(path)
    shown = _outcome("show", run("show", path, "--json").stdout)["result"]
    assert (shown["particles"], shown["frames"], shown["status"]) == (20, 5, "unknown")
    np.testing.assert_allclose(shown["box"]["last"], 9 * np.eye(3), atol=1e-5)
    values = _outcome("analyse", run("analyse", path, "--json").stdout)
    assert list(values["curves"]) == ["g"]
    assert "No displacements: positions may be folded into the box." in values["notes"]
    answer = run("report", path)
    assert answer.exit_code == 0, answer.output
    assert "A trajectory of another program." in (tmp_path / "report.html").read_text()


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    _random_walk(tmp_path / "walks.h5md", 2, 3)
    with h5py.File(tmp_path / "walks.h5md", "r+") as file:
        file["simkit"].attrs["schema_version"] = 99
    for command in ("show", "analyse", "plot", "report", "export"):
        answer = run(command, tmp_path / "walks.h5md")
        assert answer.exit_code == 2
        assert "has schema version 99, but this simkit reads" in answer.stderr


def test_harmed_files_end_in_a_sentence(tmp_path: Path) -> None:
    """Bytes, attributes, shapes, types, values and links changed at random."""
    _random_walk(tmp_path / "sound.h5md", 3, 6)
    content = (tmp_path / "sound.h5md").read_bytes()
    generator = np.random.default_rng(7)
    refused = 0
    for number in range(MUTATIONS):
        harmed, what = mutated(content, generator, tmp_path)
        path = tmp_path / "harmed.h5md"
        path.write_bytes(harmed)
        out = tmp_path / f"out{number}"
        for words in (
            ["show", path], ["analyse", path], ["export", path, "-o", out / "tables"],
            ["report", path, "-o", out / "report.html"],
            ["plot", path, "-o", out / "figures", "--format", "svg"],
        ):  # fmt: skip
            answer = run(*words)
            assert answer.exit_code in (0, 2), f"{number}: {what}: {answer.output}"
            refused += answer.exit_code == 2
            for line in answer.stderr.splitlines() if answer.exit_code else []:
                assert line.startswith("Error: "), f"{number}: {what}: {line}"
                assert line.isprintable()
            if answer.exit_code and words[0] in ("report", "analyse"):
                break  # the figures come from the same numbers
    assert refused > MUTATIONS / 4
