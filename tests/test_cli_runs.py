"""Commands that compute: results, exit codes, and nothing overwritten."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import simkit.fitting.fit
import simkit.fitting.uncertainty
import simkit.simulation

from .helpers_cli import LYNX_HARE, SMALL, load_fit, load_trajectory, run, write_case
from .samples import sample_fit, sample_trajectory


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that takes no time: what is tested here is all that comes after it."""
    sample = sample_fit()

    def fit(loaded: object, **how: object) -> object:
        del loaded, how
        return dataclasses.replace(sample, uncertainty=None)

    def uncertainty(fit: object, method: object) -> object:
        del fit, method
        return sample.uncertainty

    monkeypatch.setattr(simkit.fitting.fit, "fit", fit)
    monkeypatch.setattr(simkit.fitting.uncertainty, "uncertainty", uncertainty)


def test_a_simulation_writes_its_result(tmp_path: Path) -> None:
    case = write_case(tmp_path)
    answer = run("simulate", case, "-o", tmp_path / "out", "--set", "times.stop=2")
    assert answer.exit_code == 0, answer.output
    assert answer.stderr == ""
    assert "A spring [m]" in answer.stdout
    result = load_trajectory(tmp_path / "out" / "result.h5")
    np.testing.assert_allclose(result.states["position"], np.cos(result.times), atol=1e-5)
    assert result.times.size == 9
    assert result.provenance.command == "simkit simulate case.toml --set times.stop=2"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.h5"]


def test_a_solve_that_fails_is_exit_code_3_and_written(tmp_path: Path) -> None:
    case = write_case(tmp_path)
    answer = run(
        "simulate", case, "-o", tmp_path / "out", "--set", "method.max_steps=2", "--json"
    )
    assert answer.exit_code == 3, answer.output
    values = json.loads(answer.stdout)
    assert values["succeeded"] == 0
    assert "successful" not in values["status"]
    assert values["states"]["position"]["last"] is None
    assert not load_trajectory(tmp_path / "out" / "result.h5").succeeded


def test_an_ensemble_takes_the_seed(tmp_path: Path) -> None:
    text = SMALL + "[ensemble]\nmembers = 3\nsegment = 2\n"
    text += 'parameters = { mass = { type = "uniform", lower = 1, upper = 2 } }\n'
    case = write_case(tmp_path, text)
    masses = []
    for number, seed in enumerate(["5", "5", "6"]):
        folder = tmp_path / str(number)
        answer = run("simulate", case, "-o", folder, "--seed", seed, "--json")
        assert answer.exit_code == 0, answer.output
        assert json.loads(answer.stdout)["members"] == 3
        result = load_trajectory(folder / "result.h5")
        masses.append(result.parameters["mass"].tolist())
        assert result.provenance.seed == int(seed)
    assert masses[0] == masses[1] != masses[2]


def test_a_seed_that_nothing_takes_is_refused(tmp_path: Path) -> None:
    answer = run("simulate", write_case(tmp_path), "-o", tmp_path / "out", "--seed", "3")
    assert answer.exit_code == 2
    assert "--seed is 3" in answer.stderr
    assert not (tmp_path / "out").exists()


def test_a_fit_prints_its_parameters_and_where_the_files_are(
    tmp_path: Path, fitted: None
) -> None:
    out = tmp_path / "out"
    answer = run("fit", LYNX_HARE, "-o", out, "--set", 'output.formats=["png"]')
    assert answer.exit_code == 0, answer.output
    sample = sample_fit()
    for name in sample.parameters.name:
        assert name in answer.stdout
    assert "90 % interval" in answer.stdout
    assert "Warning: 3 of 16 starts failed." in answer.stdout
    for path in (out / "result.h5", out / "figures", out / "report.html"):
        assert path.exists()
        assert str(path) in answer.stdout
    written = load_fit(out / "result.h5")
    assert written.uncertainty is not None
    assert written.estimates == sample.estimates


def test_a_fit_as_json(tmp_path: Path, fitted: None) -> None:
    words = ["--json", "--seed", "4", "--set", 'output={report = false, formats = ["png"]}']
    answer = run("fit", LYNX_HARE, "-o", tmp_path / "out", *words)
    assert answer.exit_code == 0, answer.output
    values = json.loads(answer.stdout)
    sample = sample_fit()
    assert values["kind"] == "fit"
    first = values["parameters"][0]
    assert first["name"] == "prey_growth"
    assert first["estimate"] == sample.parameters.estimate[0]
    assert first["interval"][0] < first["mean"] < first["interval"][1]
    assert first["upper"] is None  # an infinite bound
    assert values["starts"]["total"] == 16
    assert sum(values["starts"]["failed"].values()) == 3
    assert values["starts"]["counted"] == 13
    assert values["starts"]["at_optimum"] == 11
    assert Path(values["files"]["result"]).is_file()
    assert all(Path(path).is_file() for path in values["files"]["figures"])
    assert "report" not in values["files"]
    given = "--set fit.seed=4 --set uncertainty.laplace.seed=4"
    assert load_fit(tmp_path / "out" / "result.h5").provenance.command.endswith(given)


def test_a_fit_that_fails_is_exit_code_3_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = dataclasses.replace(sample_fit(False), status="no start converged")
    monkeypatch.setattr(simkit.fitting.fit, "fit", lambda loaded, **how: failed)
    answer = run("fit", LYNX_HARE, "-o", tmp_path / "out", "--set", "output.report=false")
    assert answer.exit_code == 3, answer.output
    assert "no start converged" in answer.stdout
    assert load_fit(tmp_path / "out" / "result.h5").status == "no start converged"
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_case_without_fit_is_not_fitted(tmp_path: Path) -> None:
    answer = run("fit", write_case(tmp_path), "-o", tmp_path / "out")
    assert answer.exit_code == 2
    assert "fit is missing, expected" in answer.stderr
    assert not (tmp_path / "out").exists()


def test_an_older_result_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("computed although the result is there already")

    monkeypatch.setattr(simkit.simulation, "simulate", never)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.h5").write_bytes(b"older")
    answer = run("simulate", write_case(tmp_path), "-o", tmp_path / "out")
    assert answer.exit_code == 2
    assert "is there already" in answer.stderr
    assert "--overwrite" in answer.stderr
    assert (tmp_path / "out" / "result.h5").read_bytes() == b"older"


def test_an_output_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = run("simulate", write_case(tmp_path), "-o", tmp_path / "file" / "out")
    assert answer.exit_code == 2
    assert "cannot be made" in answer.stderr


@pytest.mark.parametrize(
    ("name", "folder"), [("case.toml", "results/spring"), ("long.toml", "results/spring/long")]
)
def test_results_go_to_a_folder_of_the_name_of_the_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spring").mkdir()
    Path("spring", name).write_text(SMALL)
    monkeypatch.setattr(simkit.simulation, "simulate", lambda *_, **__: sample_trajectory())
    answer = run("simulate", f"spring/{name}")
    assert answer.exit_code == 0, answer.output
    assert (tmp_path / folder / "result.h5").is_file()
