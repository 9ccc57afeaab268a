"""The command line: quick answers, results, exit codes, and nothing overwritten."""

import dataclasses
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import simkit.fitting.fit
import simkit.fitting.uncertainty
import simkit.simulation
from simkit.catalogue import catalogue
from simkit.cli.application import cli
from simkit.cli.compilation_cache import cache_folder, use_compilation_cache
from simkit.cli.summaries import as_json
from simkit.progress import silent, terminal_progress
from simkit.results import Fit, Trajectory
from simkit.store.reader import load
from simkit.store.writer import save

from .samples import sample_ensemble, sample_fit, sample_trajectory


ROOT = Path(__file__).parent.parent
LYNX_HARE = ROOT / "data" / "lynx_hare" / "case.toml"
HEAVY = {"jax", "numpy", "h5py", "matplotlib"}

SMALL = """\
schema = 1
title = "A spring [m]"
system.type = "HarmonicOscillator"
times = { stop = 1, save_every = 0.25, unit = "s" }
output = { plots = false, report = false }
"""


def _run(*words: str | Path, env: Mapping[str, str] | None = None) -> Result:
    # The cache would outlive the test, for the settings of jax belong to the process.
    environment = {"SIMKIT_CACHE": "off", **(env or {})}
    return CliRunner().invoke(cli, [str(word) for word in words], env=environment)


def _write_case(folder: Path, text: str = SMALL) -> Path:
    path = folder / "case.toml"
    path.write_text(text)
    return path


def _seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _load_trajectory(path: Path) -> Trajectory:
    result = load(path)
    assert isinstance(result, Trajectory)
    return result


def _load_fit(path: Path) -> Fit:
    result = load(path)
    assert isinstance(result, Fit)
    return result


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


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["fit", "--help"],
        ["systems"],
        ["fit", str(LYNX_HARE), "--set", "fit.strts=3"],
        ["fit", str(LYNX_HARE), "--set", "data.time=month"],
    ],
    ids=" ".join,
)
def test_quick_answers_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('heavy:', sorted({HEAVY!r} & set(sys.modules))))\n"
        "from simkit.cli import main\n"
        f"main({words!r})\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.splitlines()[-1] == "heavy: []"
    assert run.returncode == (2 if "--set" in words else 0)


@pytest.mark.parametrize(
    ("words", "completion"),
    [
        (["--help"], None),
        (["--version"], None),
        (["fit", str(LYNX_HARE), "--set", "fit.strts=3"], None),
        ([], "simkit fi"),
        ([], "simkit systems Lot"),
    ],
)
def test_quick_answers_take_less_than_a_third_of_a_second(
    words: list[str], completion: str | None
) -> None:
    environment = dict(os.environ)
    if completion is not None:
        count = str(len(completion.split()) - 1)
        environment |= {
            "_SIMKIT_COMPLETE": "bash_complete", "COMP_WORDS": completion, "COMP_CWORD": count,
        }  # fmt: skip
    command = [str(Path(sys.executable).parent / "simkit"), *words]
    best = float("inf")
    for _ in range(20):
        begin, used = time.perf_counter(), _seconds_of_children()
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        elapsed = time.perf_counter() - begin
        # On a busy machine the clock tells of other programs; what this one used does not.
        busy = os.getloadavg()[0] > (os.cpu_count() or 1)
        best = min(best, _seconds_of_children() - used if busy else elapsed)
        if best < 0.3:
            break
    assert best < 0.3
    if completion is not None:
        wanted = {"fi": "plain,fit", "Lot": "plain,LotkaVolterra"}
        assert run.stdout.split() == [wanted[completion.split()[-1]]]


def test_every_command_and_option_has_help() -> None:
    for name, command in cli.commands.items():
        assert _run(name, "--help").exit_code == 0
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"
    absent = {"analyse", "resume", "devices"}
    assert not absent & set(cli.commands)


@pytest.mark.parametrize(
    "words",
    [["fitt"], ["fit"], ["fit", "x.toml", "--stes", "3"], ["show", "none.h5"], ["plot"]],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    answer = _run(*words)
    assert answer.exit_code == 2
    assert "Traceback" not in answer.output


def test_a_simulation_writes_its_result(tmp_path: Path) -> None:
    case = _write_case(tmp_path)
    answer = _run("simulate", case, "-o", tmp_path / "out", "--set", "times.stop=2")
    assert answer.exit_code == 0, answer.output
    assert answer.stderr == ""
    assert "A spring [m]" in answer.stdout
    result = _load_trajectory(tmp_path / "out" / "result.h5")
    np.testing.assert_allclose(result.states["position"], np.cos(result.times), atol=1e-5)
    assert result.times.size == 9
    assert result.provenance.command == "simkit simulate case.toml --set times.stop=2"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.h5"]


def test_a_solve_that_fails_is_exit_code_3_and_written(tmp_path: Path) -> None:
    case = _write_case(tmp_path)
    answer = _run(
        "simulate", case, "-o", tmp_path / "out", "--set", "method.max_steps=2", "--json"
    )
    assert answer.exit_code == 3, answer.output
    values = json.loads(answer.stdout)
    assert values["succeeded"] == 0
    assert "successful" not in values["status"]
    assert values["states"]["position"]["last"] is None
    assert not _load_trajectory(tmp_path / "out" / "result.h5").succeeded


def test_an_ensemble_takes_the_seed(tmp_path: Path) -> None:
    text = SMALL + "[ensemble]\nmembers = 3\nsegment = 2\n"
    text += 'parameters = { mass = { type = "uniform", lower = 1, upper = 2 } }\n'
    case = _write_case(tmp_path, text)
    masses = []
    for number, seed in enumerate(["5", "5", "6"]):
        folder = tmp_path / str(number)
        answer = _run("simulate", case, "-o", folder, "--seed", seed, "--json")
        assert answer.exit_code == 0, answer.output
        assert json.loads(answer.stdout)["members"] == 3
        result = _load_trajectory(folder / "result.h5")
        masses.append(result.parameters["mass"].tolist())
        assert result.provenance.seed == int(seed)
    assert masses[0] == masses[1] != masses[2]


def test_a_seed_that_nothing_takes_is_refused(tmp_path: Path) -> None:
    answer = _run("simulate", _write_case(tmp_path), "-o", tmp_path / "out", "--seed", "3")
    assert answer.exit_code == 2
    assert "--seed is 3" in answer.stderr
    assert not (tmp_path / "out").exists()


def test_a_fit_prints_its_parameters_and_where_the_files_are(
    tmp_path: Path, fitted: None
) -> None:
    out = tmp_path / "out"
    answer = _run("fit", LYNX_HARE, "-o", out, "--set", 'output.formats=["png"]')
    assert answer.exit_code == 0, answer.output
    sample = sample_fit()
    for name in sample.parameters.name:
        assert name in answer.stdout
    assert "90 % interval" in answer.stdout
    assert "Warning: 3 of 16 starts failed." in answer.stdout
    for path in (out / "result.h5", out / "figures", out / "report.html"):
        assert path.exists()
        assert str(path) in answer.stdout
    written = _load_fit(out / "result.h5")
    assert written.uncertainty is not None
    assert written.estimates == sample.estimates


def test_a_fit_as_json(tmp_path: Path, fitted: None) -> None:
    words = ["--json", "--seed", "4", "--set", 'output={report = false, formats = ["png"]}']
    answer = _run("fit", LYNX_HARE, "-o", tmp_path / "out", *words)
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
    assert _load_fit(tmp_path / "out" / "result.h5").provenance.command.endswith(given)


def test_a_fit_that_fails_is_exit_code_3_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = dataclasses.replace(sample_fit(False), status="no start converged")
    monkeypatch.setattr(simkit.fitting.fit, "fit", lambda loaded, **how: failed)
    answer = _run("fit", LYNX_HARE, "-o", tmp_path / "out", "--set", "output.report=false")
    assert answer.exit_code == 3, answer.output
    assert "no start converged" in answer.stdout
    assert _load_fit(tmp_path / "out" / "result.h5").status == "no start converged"
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_case_without_fit_is_not_fitted(tmp_path: Path) -> None:
    answer = _run("fit", _write_case(tmp_path), "-o", tmp_path / "out")
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
    answer = _run("simulate", _write_case(tmp_path), "-o", tmp_path / "out")
    assert answer.exit_code == 2
    assert "is there already" in answer.stderr
    assert "--overwrite" in answer.stderr
    assert (tmp_path / "out" / "result.h5").read_bytes() == b"older"


def test_an_output_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = _run("simulate", _write_case(tmp_path), "-o", tmp_path / "file" / "out")
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
    answer = _run("simulate", f"spring/{name}")
    assert answer.exit_code == 0, answer.output
    assert (tmp_path / folder / "result.h5").is_file()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            RuntimeError("a\nbroken\x1b[31m thing"),
            1,
            "fault of simkit, RuntimeError: a\\nbroken",
        ),
    ],
)
def test_how_a_run_can_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    words: str,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(simkit.simulation, "simulate", fail)
    case = _write_case(tmp_path)
    answer = _run("simulate", case, "-o", tmp_path / "out")
    assert answer.exit_code == code
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "result.h5").exists()
    if code == 1:
        answer = _run("simulate", case, "-o", tmp_path / "out", "--traceback")
        assert "Traceback (most recent call last)" in answer.stderr


def test_show_tells_what_is_in_a_file(tmp_path: Path) -> None:
    save(sample_ensemble(), tmp_path / "result.h5")
    answer = _run("show", tmp_path / "result.h5")
    assert answer.exit_code == 0, answer.output
    assert "12 members" in answer.stdout
    assert "member 12 x time 21" in answer.stdout
    values = json.loads(_run("show", tmp_path / "result.h5", "--json").stdout)
    assert values["result"]["succeeded"] == 11
    assert "/states/prey" in {item["path"] for item in values["variables"]}


def test_show_tells_what_is_in_a_foreign_file(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.arange(3)
    values = json.loads(_run("show", tmp_path / "other.h5", "--json").stdout)
    assert values["result"] is None
    assert [item["path"] for item in values["variables"]] == ["/numbers"]
    for command in ("plot", "report"):
        answer = _run(command, tmp_path / "other.h5")
        assert answer.exit_code == 2
        assert "not a result file of simkit" in answer.stderr
    (tmp_path / "text.h5").write_text("no HDF5")
    assert _run("show", tmp_path / "text.h5").exit_code == 2


def test_plot_and_report_write_and_do_not_overwrite(tmp_path: Path) -> None:
    file = tmp_path / "result.h5"
    save(sample_trajectory(), file)
    answer = _run("plot", file, "--format", "png")
    assert answer.exit_code == 0, answer.output
    written = answer.stdout.split()
    assert written == [str(path) for path in sorted((tmp_path / "figures").iterdir())[::-1]]
    assert _run("plot", file, "--format", "png").exit_code == 2
    assert _run("plot", file, "--format", "png", "--overwrite").exit_code == 0
    answer = _run("report", file, "--json")
    assert answer.exit_code == 0, answer.output
    report = Path(json.loads(answer.stdout)["report"])
    assert report == tmp_path / "report.html"
    report.write_text("mine")
    assert _run("report", file).exit_code == 2
    assert report.read_text() == "mine"


@pytest.mark.parametrize("command", ["systems", "methods"])
def test_lists_have_a_line_for_each(command: str) -> None:
    known = getattr(catalogue(), command)
    lines = _run(command).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(known)
    assert json.loads(_run(command, "--json").stdout).keys() == known.keys()
    for name, entry in known.items():
        shown = _run(command, name).stdout
        assert entry.summary.split()[0] in shown
        for part in getattr(entry, "parameters", getattr(entry, "options", {})):
            assert part in shown
    first = next(iter(known))
    wrong = _run(command, first.lower())
    assert wrong.exit_code == 2
    assert f'nearest is "{first}"' in wrong.stderr


def test_check_tells_that_a_case_is_well() -> None:
    answer = _run("check", LYNX_HARE)
    assert answer.exit_code == 0
    assert "LotkaVolterra by Tsit5, 42 measurements, a fit from 64 starts" in answer.stdout
    values = json.loads(_run("check", LYNX_HARE, "--json").stdout)
    assert values["errors"] == []
    assert values["measurements"] == 42
    answer = _run("check", LYNX_HARE, "--json", "--set", "fit.strts=3")
    assert answer.exit_code == 2
    assert json.loads(answer.stdout)["errors"][0]["key"] == "fit.strts"


def test_check_makes_an_own_system(tmp_path: Path) -> None:
    (tmp_path / "own_decay.py").write_text(
        "from systems.base import AbstractODE, State, parameter\n"
        "class Decay(AbstractODE):\n"
        "    rate: float = parameter(1.0, positive=True)\n"
        "    states = (State('amount', 1.0),)\n"
        "    def vector_field(self, t, y, inputs):\n"
        "        return -self.rate * y\n"
    )
    text = SMALL.replace('"HarmonicOscillator"', '"own_decay:Decay"')
    case = _write_case(tmp_path, text)
    assert _run("check", case).exit_code == 0
    for override, words in {
        "system.parameters.rte=1": "rte",
        "system.initial_state.amont=1": "expected amount",
        "method.type=Milstein": "expected a method for Decay (ODE)",
        "system.type=own_decay:Deca": "Deca",
        "system.type=no_such_module:Decay": "no_such_module",
    }.items():
        answer = _run("check", case, "--set", override)
        assert answer.exit_code == 2, answer.output
        assert answer.stderr.count("\n") == 1
        assert words in answer.stderr


def test_numbers_that_are_not_finite_are_null() -> None:
    assert json.loads(as_json({"a": [float("nan"), 1.0], "b": float("inf")})) == {
        "a": [None, 1.0],
        "b": None,
    }


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    for stream, enabled in ((io.StringIO(), True), (Terminal(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with terminal_progress(enabled) as progress:
            assert progress is silent
            progress(1, 4, "starts")
        assert stream.getvalue() == ""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with terminal_progress() as progress:
        progress(0, 0, "starting [jax]")
        progress(1, 4, "starts [1]")
    assert "starts [1]" in terminal.getvalue()
    assert "1/4" in terminal.getvalue()


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SIMKIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache_folder()
    assert folder is not None
    assert folder.parent == tmp_path / "simkit" / "xla"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = cache_folder()
    assert folder is not None
    assert folder.is_relative_to(tmp_path / "home" / ".cache")
    (tmp_path / "home").write_text("a file, so that no folder can be made in it")
    assert use_compilation_cache() is None
    monkeypatch.setenv("SIMKIT_CACHE", "off")
    assert cache_folder() is None


def test_the_cache_serves_the_next_run_quietly(tmp_path: Path) -> None:
    """Two processes: the second compiles nothing, and neither warns of anything."""
    case = _write_case(tmp_path)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("SIMKIT_CACHE", None)
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # set by jax in this process
    programs = []
    for number in range(2):
        words = ["simulate", str(case), "-o", str(tmp_path / str(number))]
        run = subprocess.run(
            [sys.executable, "-c", f"from simkit.cli import main; main({words!r})"],
            capture_output=True, text=True, env=environment, cwd=ROOT,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert run.stderr == ""
        found = (tmp_path / "cache" / "simkit" / "xla").glob("*/*-cache")
        programs.append(sorted(path.name for path in found))
    assert programs[0]
    assert programs[1] == programs[0]
