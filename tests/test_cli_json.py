"""What `--json` prints, of every command, well or not, is what the committed schema says."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import Result

import simkit.fitting.fit
import simkit.simulation
from simkit.cli.application import cli
from simkit.cli.interruption import end_at_once
from simkit.cli.outcomes import SCHEMA_FILE, error_json
from simkit.cli.summaries import summary
from simkit.store.writer import save

from .helpers_cli import LYNX_HARE, SMALL, run, write_case
from .samples import sample_ensemble, sample_fit, sample_trajectory


SCHEMA = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
ENSEMBLE = """
[ensemble]
members = 3
parameters = { mass = { type = "uniform", lower = 1, upper = 2 } }
"""


def _validator(name: str) -> jsonschema.Draft202012Validator:
    """For what one command prints; the others of the schema do not count."""
    (outcome,) = [item for item in SCHEMA["anyOf"] if item["$anchor"] == name]
    return jsonschema.Draft202012Validator({"$defs": SCHEMA["$defs"], **outcome})


def _outcome(answer: Result, name: str, code: int = 0) -> Any:
    """The JSON that a command printed, after a look at its exit code and its shape."""
    assert answer.exit_code == code, answer.output
    values = json.loads(answer.stdout)
    _validator(name).validate(values)
    return values


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Result files of each kind."""
    folder = tmp_path_factory.mktemp("results")
    save(sample_trajectory(), folder / "solve.h5")
    save(sample_ensemble(), folder / "ensemble.h5")
    save(sample_fit(), folder / "fit.h5")
    return folder


def test_the_schema_is_one_and_has_every_command() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"].endswith("2020-12/schema")
    names = [outcome["$anchor"] for outcome in SCHEMA["anyOf"]]
    assert sorted(names) == sorted([*cli.commands, "error"])
    for command in cli.commands.values():
        assert "--json" in {name for option in command.params for name in option.opts}
    assert json.loads(run("--json-schema").stdout) == SCHEMA


def test_every_object_of_the_schema_is_closed() -> None:
    """So that a key that is added, lost or misspelt does not go unnoticed."""

    def look(schema: Any) -> None:
        if isinstance(schema, dict):
            if "properties" in schema:
                assert schema["additionalProperties"] is False
                optional = set(schema["properties"]) - set(schema["required"])
                assert optional <= {"profile", "figures", "report"}
            for inner in schema.values():
                look(inner)
        elif isinstance(schema, list):
            for inner in schema:
                look(inner)

    look(SCHEMA)


@pytest.mark.parametrize("file", ["solve.h5", "ensemble.h5", "fit.h5"])
@pytest.mark.parametrize("command", ["show", "analyse", "plot", "report", "export"])
def test_readers(command: str, file: str, results: Path, tmp_path: Path) -> None:
    output: dict[str, list[str | Path]] = {
        "plot": ["-o", tmp_path / "figures", "--format", "svg"],
        "report": ["-o", tmp_path / "report.html"],
        "export": ["-o", tmp_path / "tables"],
        "analyse": ["-o", tmp_path / "numbers.h5"],
    }
    words = [command, results / file, *output.get(command, []), "--json"]
    values = _outcome(run(*words), command)
    for path in values.get("files", values.get("figures", [])):
        assert Path(path).is_file()
    if command != "show":
        refused = _outcome(run(*words), "error", 2)
        assert "is there already" in refused["message"]


def test_show_of_a_foreign_file(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = [1, 2, 3]
    assert _outcome(run("show", tmp_path / "other.h5", "--json"), "show")["result"] is None


@pytest.mark.parametrize(
    ("text", "override", "code"),
    [(SMALL, "times.stop=1", 0), (SMALL + ENSEMBLE, "ensemble.seed=3", 0),
     (SMALL, "method.max_steps=2", 3)],
)  # fmt: skip
def test_simulate(text: str, override: str, code: int, tmp_path: Path) -> None:
    case = write_case(tmp_path, text)
    words = ["simulate", case, "-o", tmp_path / "out", "--set", override, "--json"]
    values = _outcome(run(*words), "simulate", code)
    assert "profile" not in values
    _outcome(run(*words), "error", 2)  # the result is there
    if code == 0:
        assert _outcome(run(*words, "--resume"), "simulate") == values


@pytest.mark.parametrize(("status", "code"), [("converged", 0), ("no start converged", 3)])
def test_fit(status: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = dataclasses.replace(sample_fit(code != 0), status=status)
    monkeypatch.setattr(simkit.fitting.fit, "fit", lambda loaded, **how: sample)
    monkeypatch.setattr("simkit.fitting.uncertainty.uncertainty", lambda *_: None)
    words = [
        "fit",
        LYNX_HARE,
        "-o",
        tmp_path / "out",
        "--set",
        "output={report=false,plots=false}",
        "--json",
    ]
    assert _outcome(run(*words), "fit", code)["status"] == status


@pytest.mark.parametrize("words", [["systems"], ["systems", "Lorenz63"], ["systems", "SIR"],
                                   ["methods"], ["methods", "Milstein"]])  # fmt: skip
def test_lists(words: list[str]) -> None:
    _outcome(run(*words, "--json"), words[0])


def test_doctor_well_and_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _outcome(run("doctor", "--json"), "doctor")["faults"] == []
    monkeypatch.setattr("jax.__version__", "0.10.2")
    assert _outcome(run("doctor", "--json"), "doctor", 1)["faults"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fitt", "--json"], "No such command"),
        (["fit", "--json"], "Missing argument"),
        (["fit", "--json", "x.toml", "--stes", "3"], "No such option"),
        (["show", "none.h5", "--json"], "does not exist"),
        (["systems", "Nothing", "--json"], "expected"),
        (["show", LYNX_HARE, "--json"], "HDF5"),
        (["report", LYNX_HARE, "--max-bytes", "many", "--json"], "500M or 20G"),
    ],
)
def test_wrong_usage(words: list[str | Path], said: str) -> None:
    values = _outcome(run(*words), "error", 2)
    assert values["exit_code"] == 2
    assert said in values["message"]
    assert values["key"] is None


def test_a_broken_case_tells_its_parts() -> None:
    answer = run("fit", LYNX_HARE, "--set", "fit.strts=3", "--json")
    values = _outcome(answer, "error", 2)
    assert values["key"] == "fit.strts"
    assert values["expected"]
    assert answer.stderr == f"Error: {values['message']}\n"
    errors = _outcome(run("check", LYNX_HARE, "--set", "fit.strts=3", "--json"), "check", 2)
    assert errors["errors"][0]["key"] == "fit.strts"
    assert errors["errors"][0]["message"] == values["message"]


def test_nothing_is_printed_as_json_that_was_not_asked_for() -> None:
    answer = run("fit", LYNX_HARE, "--set", "fit.strts=3")
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert run("systems", "--", "--json").stdout == ""


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (RuntimeError("x"), 1)]
)
def test_interruptions_and_faults(
    error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(simkit.simulation, "simulate", fail)
    answer = run("simulate", write_case(tmp_path), "-o", tmp_path / "out", "--json")
    assert _outcome(answer, "error", code)["exit_code"] == code


def test_a_run_that_is_stopped(tmp_path: Path) -> None:
    case = write_case(tmp_path, SMALL + ENSEMBLE + "segment = 1\n")
    words = ["simulate", case, "-o", tmp_path / "out", "--time-limit", "0.001", "--json"]
    assert "--resume" in _outcome(run(*words), "error", 4)["message"]


def test_an_end_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    """In a process of its own, as it ends the process."""
    code = (
        f"from simkit.cli.interruption import {end_at_once.__name__} as end; end('a', 4, True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (4, "Error: a\n")
    assert done.stdout == f"{error_json('a', 4)}\n"


def _rename(values: Any) -> None:
    values["sytem"] = values.pop("system")


def _add(values: Any) -> None:
    values["parameters"]["predation"]["mean"] = 1.0


def _lose(values: Any) -> None:
    del values["states"]["prey"]["last"]


def _break(values: Any) -> None:
    values["succeeded"] = "1"


@pytest.mark.parametrize("change", [_rename, _add, _lose, _break])
def test_a_drift_is_found(change: Callable[[Any], None]) -> None:
    values = summary(sample_trajectory(), {"result": "result.h5"})
    _validator("simulate").validate(values)
    change(values)
    with pytest.raises(jsonschema.ValidationError):
        _validator("simulate").validate(values)
