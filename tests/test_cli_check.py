"""`simkit check`: what is wrong with a case, before the long run."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simkit.trial
from simkit.fitting.gradient_check import GradientCheck, derivative
from simkit.trial import Trial

from .helpers_cli import LYNX_HARE, SMALL, run, write_case


DECAY = """\
import jax
import jax.numpy as jnp
from systems.base import AbstractODE, State, parameter


class Decay(AbstractODE):
    rate: float = parameter(1.0, positive=True)
    states = (State("amount", 1.0),)

    def vector_field(self, t, y, inputs):
        return -self.rate * y


class Stopped(Decay):
    def vector_field(self, t, y, inputs):
        return -jax.lax.stop_gradient(self.rate) * y


class Undefined(Decay):
    def vector_field(self, t, y, inputs):
        return -self.rate * y * (1 + jnp.sqrt(0.0 * self.rate))


class Untraceable(Decay):
    def vector_field(self, t, y, inputs):
        return -self.rate * y if self.rate > 0 else y
"""
FIT = """\
schema = 1
title = "A decay"
system.type = "checked_decay:Decay"
[data]
file = "seen.csv"
time = "time"
observables = { amount = { column = "amount", state = "amount" } }
[fit]
starts = 4
parameters = { rate = { start = [0.2, 3.0] } }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A case of a system of the user's own, with data."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "checked_decay.py").write_text(DECAY)
    times = np.linspace(0.1, 2.0, 8)
    seen = np.exp(-1.3 * times) + 0.02 * np.sin(7 * times)
    rows = [f"{t:.4f},{x:.6f}" for t, x in zip(times, seen, strict=True)]
    (folder / "seen.csv").write_text("\n".join(["time,amount", *rows]) + "\n")
    write_case(folder, FIT)
    return folder


def _never(*arguments: object) -> Trial:
    raise AssertionError("tried although the case is broken, or was to be looked at alone")


def test_check_tells_that_a_case_is_well() -> None:
    answer = run("check", LYNX_HARE)
    assert answer.exit_code == 0, answer.output
    assert answer.stderr == ""
    assert "LotkaVolterra by Tsit5, 42 measurements, a fit from 64 starts" in answer.stdout
    assert "Tried: 1 solve" in answer.stdout
    assert "Gradient of 8 parameters against finite differences: the worst" in answer.stdout


def test_mistakes_are_told_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simkit.trial, "try_case", _never)
    answer = run("check", LYNX_HARE, "--json", "--set", "fit.strts=3")
    assert answer.exit_code == 2
    found = json.loads(answer.stdout)
    assert found["errors"][0]["key"] == "fit.strts"
    assert found["trial"] is None
    answer = run("check", LYNX_HARE, "--static", "--json")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert (found["errors"], found["measurements"], found["trial"]) == ([], 42, None)


def test_a_static_check_imports_nothing_heavy() -> None:
    """Nor does the refusal of a broken case, so that both take no time."""
    code = "import sys; from simkit.cli.application import cli; cli(standalone_mode=False)"
    code += "; print('jax' in sys.modules)"
    words = ["check", str(LYNX_HARE), "--static"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_the_gradient_of_a_fit_is_right(folder: Path) -> None:
    answer = run("check", folder / "case.toml", "--json")
    assert answer.exit_code == 0, answer.output
    trial = json.loads(answer.stdout)["trial"]
    assert trial["solves"] == {"successful": 1}
    assert trial["failure"] is None
    assert trial["gradient"]["parameters"] == 2
    assert trial["gradient"]["wrong"] == []
    worst = trial["gradient"]["worst"]
    assert worst["name"] in ("rate", "noise.amount")
    assert worst["relative_difference"] < 1e-5
    assert worst["gradient"] == pytest.approx(worst["finite_difference"], rel=1e-5)


def test_a_wrong_gradient_is_told(folder: Path) -> None:
    """Of a part that is not differentiated."""
    answer = run("check", folder / "case.toml", "--set", "system.type=checked_decay:Stopped")
    assert answer.exit_code == 3, answer.output
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1
    assert (
        "the gradient of the objective is wrong for rate: it is 0, by finite" in answer.stderr
    )


def test_a_gradient_that_is_not_there_is_told(folder: Path) -> None:
    """Of a root where it has no derivative: all the law's derivatives are lost."""
    words = ["--set", "system.type=checked_decay:Undefined", "--json"]
    answer = run("check", folder / "case.toml", *words)
    assert answer.exit_code == 3, answer.output
    trial = json.loads(answer.stdout)["trial"]
    assert "rate" in trial["gradient"]["wrong"]
    assert trial["gradient"]["worst"]["name"] == "rate"
    assert "wrong for rate" in trial["failure"]


def test_a_law_that_jax_cannot_trace_is_told(folder: Path) -> None:
    override = "system.type=checked_decay:Untraceable"
    answer = run("check", folder / "case.toml", "--set", override)
    assert answer.exit_code == 2, answer.output
    assert 'system.type is "checked_decay:Untraceable" (text), which cannot' in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_a_fit_whose_solve_fails_is_told(folder: Path) -> None:
    answer = run("check", folder / "case.toml", "--set", "method.max_steps=1")
    assert answer.exit_code == 3, answer.output
    assert "at the case's own values the solve failed (1 with max_steps_" in answer.stderr
    assert "nor can 7 other points be solved" in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_own_values_that_fail_are_a_warning_where_others_can_be_solved(folder: Path) -> None:
    """A rate of 1e9 takes more steps than are allowed."""
    words = ["--set", "system.parameters.rate=1e9", "--set", "method.max_steps=2000", "--json"]
    answer = run("check", folder / "case.toml", *words)
    assert answer.exit_code == 0, answer.output
    trial = json.loads(answer.stdout)["trial"]
    assert trial["solves"] == {"max_steps_reached": 1}
    assert "another point was looked at" in trial["warnings"][0]
    assert trial["gradient"]["worst"]["relative_difference"] < 1e-4


ENSEMBLE = """
[ensemble]
members = 1_000_000
parameters = { mass = { type = "uniform", lower = 1, upper = 2 } }
"""


@pytest.mark.parametrize(
    ("text", "override", "solves"),
    [
        (SMALL, "times.stop=2", {"successful": 1}),
        (SMALL, "method.max_steps=2", {"max_steps_reached": 1}),
        (SMALL + ENSEMBLE, "ensemble.seed=1", {"successful": 4}),
    ],
)
def test_a_simulation_is_tried(
    text: str, override: str, solves: dict[str, int], tmp_path: Path
) -> None:
    """An ensemble by a few of its members, and by the engine that will solve all."""
    case = write_case(tmp_path, text)
    answer = run("check", case, "--set", override, "--json")
    assert answer.exit_code == (0 if "successful" in solves else 3), answer.output
    trial = json.loads(answer.stdout)["trial"]
    assert trial["solves"] == solves
    assert trial["gradient"] is None
    assert (trial["engine"] is None) == (text == SMALL)
    assert list(tmp_path.iterdir()) == [case], "nothing is written"


def test_an_engine_that_cannot_serve_is_told(tmp_path: Path) -> None:
    case = write_case(tmp_path, SMALL + ENSEMBLE)
    words = ["--set", "ensemble.engine=native", "--set", "method.type=StormerVerlet"]
    answer = run("check", case, *words)
    assert answer.exit_code == 2, answer.output
    assert "ensemble.engine" in answer.stderr


def test_a_trial_that_takes_too_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def slow(*arguments: Any) -> Trial:
        time.sleep(3.0)
        return Trial({})

    monkeypatch.setattr(simkit.trial, "try_case", slow)
    began = time.monotonic()
    answer = run("check", write_case(tmp_path), "--time-limit", "0.2")
    assert time.monotonic() - began < 2.5
    assert answer.exit_code == 4
    assert answer.stderr.startswith("Error: the trial took more than 0.2 s and was given up;")


def test_derivatives_by_differences_and_how_sure_they_are() -> None:
    found, scatter = derivative(np.exp, 0.02)
    assert found == pytest.approx(1.0, rel=1e-9)
    assert scatter < 1e-6
    noise = np.random.default_rng(0)
    found, scatter = derivative(lambda x: float(np.sin(3 * x) + 1e-6 * noise.normal()), 0.02)
    assert abs(found - 3.0) < 1e-2
    found, scatter = derivative(lambda x: x if abs(x) < 1e-3 else np.inf, 0.02)
    assert found == pytest.approx(1.0)
    found, scatter = derivative(lambda x: np.nan, 0.02)
    assert np.isnan(found)
    assert np.isinf(scatter)


def test_what_differences_cannot_tell_is_not_called_wrong() -> None:
    check = GradientCheck(
        names=("a", "b", "c", "d"),
        gradient=np.array([1.0, 2.0, 0.0, 1e-9]),
        differences=np.array([1.0, 2.5, 0.0, 0.0]),
        scatter=np.array([1e-9, 0.5, 0.0, 1e-9]),
    )
    assert check.judged.tolist() == [True, False, True, True]
    assert not check.wrong.any()
    sure = GradientCheck(check.names, check.gradient, check.differences, np.full(4, 1e-9))
    assert sure.wrong.tolist() == [False, True, False, False]
    assert sure.names[sure.worst] == "b"
    absent = GradientCheck(("a", "b"), np.array([1.0, np.inf]), np.ones(2), np.zeros(2))
    assert absent.wrong.tolist() == [False, True]
    assert absent.worst == 1


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
    case = write_case(tmp_path, text)
    assert run("check", case).exit_code == 0
    for override, words in {
        "system.parameters.rte=1": "rte",
        "system.initial_state.amont=1": "expected amount",
        "method.type=Milstein": "expected a method for Decay (ODE)",
        "system.type=own_decay:Deca": "Deca",
        "system.type=no_such_module:Decay": "no_such_module",
    }.items():
        answer = run("check", case, "--set", override)
        assert answer.exit_code == 2, answer.output
        assert answer.stderr.count("\n") == 1
        assert words in answer.stderr
