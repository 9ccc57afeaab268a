"""`simulate`: labels, units, ensembles, seeds, statuses and errors."""

import subprocess
import sys
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from simkit.config.reader import read_case
from simkit.simulation import simulate
from solvers.integrators.deterministic import Tsit5
from solvers.integrators.stochastic import EulerMaruyama
from systems.pharmacology import OneCompartmentOral
from systems.stochastic import OrnsteinUhlenbeck

from .helpers_fits import Decay, Explosive


TIMES = np.linspace(0.0, 2.0, 5)
TIGHT = Tsit5(rtol=1e-10, atol=1e-10)
NOISE = EulerMaruyama(step=0.05)


def decay(**changes: Any):
    """An ensemble of three decays."""
    standard = {"times": TIMES, "method": TIGHT, "parameters": {"rate": [0.1, 0.5, 2.0]}}
    return simulate(Decay(), **{**standard, **changes})


def test_labels_units_and_parameters():
    result = simulate(Decay(rate=0.4), times=TIMES, method=TIGHT, title="A", time_unit="h")
    assert (result.title, result.system, result.method) == ("A", "Decay", "Tsit5")
    assert list(result.states) == ["amount"]
    assert result.state_units == {"amount": "mg"}
    assert result.parameter_units == {"rate": "1/h"}
    assert result.time_unit == "h"
    assert result.parameters["rate"] == 0.4
    assert result.status == "successful"
    assert result.succeeded
    assert not result.is_ensemble
    np.testing.assert_array_equal(result.times, TIMES)
    np.testing.assert_allclose(result.states["amount"], 2 * np.exp(-0.4 * TIMES), rtol=1e-8)
    assert result.statistics["steps"] > 0
    assert simulate(Decay(), times=TIMES, method=TIGHT).title == "Decay"


def test_start_initial_state_and_inputs():
    later = simulate(
        Decay(rate=1.0),
        times=[1.0, 3.0],
        start=0.0,
        method=TIGHT,
        initial_state={"amount": 5.0},
    )
    np.testing.assert_allclose(later.states["amount"], 5 * np.exp([-1.0, -3.0]), rtol=1e-8)
    oral = simulate(OneCompartmentOral(), times=[0.0, 1.0], inputs={"dose": 7.0}, method=TIGHT)
    assert next(iter(oral.states.values()))[0] == 7.0


def test_one_time_alone_is_the_initial_state():
    result = simulate(Decay(), times=[0.0])
    np.testing.assert_array_equal(result.states["amount"], [2.0])


def test_an_ensemble_over_parameters():
    result = decay()
    assert result.is_ensemble
    assert result.states["amount"].shape == (3, 5)
    assert result.status.tolist() == ["successful"] * 3
    np.testing.assert_array_equal(result.parameters["rate"], [0.1, 0.5, 2.0])
    expected = 2 * np.exp(-np.outer([0.1, 0.5, 2.0], TIMES))
    np.testing.assert_allclose(result.states["amount"], expected, rtol=1e-8)
    assert result.statistics["steps"].shape == (3,)


def test_an_ensemble_over_initial_states_keeps_the_fixed_parameters():
    result = simulate(
        Decay(rate=0.5), times=TIMES, method=TIGHT, initial_states={"amount": [1.0, 4.0]}
    )
    expected = np.outer([1.0, 4.0], np.exp(-0.5 * TIMES))
    np.testing.assert_allclose(result.states["amount"], expected, rtol=1e-8)
    assert result.parameters["rate"].shape == ()


def test_segments_change_nothing_and_are_told():
    calls = []

    def progress(done: int, total: int, message: str) -> None:
        calls.append((done, total, message))

    parts = decay(segment=2, progress=progress)
    # To the last bits, as a program for two members rounds otherwise than one for three.
    whole = decay().states["amount"]
    np.testing.assert_allclose(parts.states["amount"], whole, rtol=1e-14)
    assert calls == [(2, 3, "members"), (3, 3, "members")]


def test_a_member_that_fails_is_told_and_costs_no_other():
    """y' = r y^2 from 1 blows up at 1 / r."""
    result = simulate(
        Explosive(), times=TIMES, method=TIGHT, parameters={"rate": [0.2, 0.8, 0.3, np.nan]}
    )
    assert result.succeeded.tolist() == [True, False, True, False]
    assert result.status.tolist() == [
        "successful",
        "step_size_underflow",
        "successful",
        "nonfinite_start",
    ]
    values = result.states["amount"]
    np.testing.assert_allclose(values[0], 1 / (1 - 0.2 * TIMES), rtol=1e-8)
    np.testing.assert_allclose(values[2], 1 / (1 - 0.3 * TIMES), rtol=1e-8)
    np.testing.assert_array_equal(np.isnan(values[1]), TIMES > 1.25)
    np.testing.assert_allclose(values[1][:3], 1 / (1 - 0.8 * TIMES[:3]), rtol=1e-8)


def test_one_solve_that_fails_leaves_nan_from_there_on():
    result = simulate(Explosive(rate=0.8), times=TIMES, method=TIGHT)
    assert result.status == "step_size_underflow"
    assert not result.succeeded
    np.testing.assert_array_equal(np.isnan(result.states["amount"]), TIMES > 1.25)


def noisy(**changes: Any) -> np.ndarray:
    """Paths of an Ornstein-Uhlenbeck process."""
    standard = {"times": TIMES, "method": NOISE, "members": 4, "seed": 3}
    result = simulate(OrnsteinUhlenbeck(), **{**standard, **changes})
    return next(iter(result.states.values()))


def test_seeds_decide_the_noise():
    paths = noisy()
    assert paths.shape == (4, 5)
    np.testing.assert_array_equal(paths, noisy())
    assert np.all(paths[:, 1:] != noisy(seed=4)[:, 1:])
    assert len(np.unique(paths[:, 1])) == 4


def test_a_member_depends_on_the_seed_and_its_number_alone():
    np.testing.assert_array_equal(noisy(members=2), noisy()[:2])
    np.testing.assert_array_equal(noisy(segment=3), noisy())


def test_provenance_is_filled():
    provenance = simulate(Decay(), times=TIMES, seed=11).provenance
    assert provenance.command == "simkit.simulate"
    assert provenance.seed == 11
    started, stopped = (
        datetime.fromisoformat(text) for text in (provenance.started, provenance.stopped)
    )
    assert stopped >= started
    assert started.tzinfo is not None
    assert provenance.device
    assert '"jax"' in provenance.versions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": None}, "simulate: give the times to save"),
        ({"times": [0.0, 2.0, 1.0]}, "`times` must be increasing numbers"),
        ({"times": [[0.0, 1.0]]}, "`times` must be increasing numbers"),
        ({"times": []}, "`times` must be increasing numbers"),
        ({"times": [0.0, np.nan]}, "finite times"),
        ({"start": 1.0}, r"times\[0\] is 0, before start = 1"),
        ({"parameters": {"rate": [0.1, -0.2]}}, "parameter 'rate' is -0.2 in a member"),
        ({"initial_states": {"mass": [1.0]}}, "There is no state 'mass'"),
        ({"initial_states": {"amount": [[1.0]]}}, r"shapes .*expected one \(members,\)"),
        ({"initial_states": {"amount": [1.0, 2.0]}}, "numbers of members disagree"),
        ({"members": 4}, "numbers of members disagree"),
        ({"initial_state": {"mass": 1.0}}, "no state 'mass'"),
        ({"inputs": {"dose": 1.0}}, "no input 'dose'"),
        ({"method": NOISE}, "EulerMaruyama"),
        ({"segment": 0}, "`segment` is 0, expected a number of at least 1"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        decay(**arguments)


def test_an_unknown_parameter_is_told():
    with pytest.raises(KeyError, match="no parameter 'speed'"):
        decay(parameters={"speed": [1.0]})


def test_what_is_no_system_is_told():
    subject: Any = 3.0
    with pytest.raises(TypeError, match="subject is of type float, expected a system"):
        simulate(subject, times=TIMES)


CASE = """
schema = 1
title = "Noisy relaxation"

[system]
type = "OrnsteinUhlenbeck"

[times]
stop = 1.0
save_at = [0.0, 0.25, 1.0]
unit = "s"

[method]
type = "EulerMaruyama"
step = 0.05

[ensemble]
members = 40
seed = 5
segment = 16

[ensemble.parameters]
reversion_rate = { type = "normal", mean = 0.2, sd = 1.0 }

[ensemble.initial_state]
position = { type = "uniform", lower = 2.0, upper = 3.0 }
"""


@pytest.fixture
def case(tmp_path):
    """A case with an ensemble, and what overrides it."""
    path = tmp_path / "case.toml"
    state = OrnsteinUhlenbeck().states[0].name
    path.write_text(CASE.replace("position =", f"{state} ="))
    return lambda *overrides: read_case(path, overrides)


def test_a_case_with_an_ensemble(case):
    result = simulate(case())
    values = next(iter(result.states.values()))
    assert values.shape == (40, 3)
    assert (result.title, result.time_unit) == ("Noisy relaxation", "s")
    np.testing.assert_array_equal(result.times, [0.0, 0.25, 1.0])
    assert np.all((values[:, 0] >= 2.0) & (values[:, 0] <= 3.0))
    assert len(np.unique(values[:, 0])) == 40
    assert result.provenance.command == "simkit simulate"
    assert result.provenance.case_text.strip() == case().text.strip()
    assert result.provenance.seed == 5


def test_draws_of_a_parameter_are_cut_to_its_declared_bounds(case):
    """Uncut, four in ten of these rates would be negative."""
    rates = simulate(case()).parameters["reversion_rate"]
    assert rates.shape == (40,)
    assert np.all(rates > 0)
    # The mean of this normal density cut at zero.
    assert rates.mean() == pytest.approx(0.875, abs=0.4)


def test_a_member_of_a_case_depends_on_the_seed_and_its_number_alone(case):
    many, few = simulate(case()), simulate(case("ensemble.members=7"))
    for name, values in few.states.items():
        np.testing.assert_array_equal(values, many.states[name][:7])
    np.testing.assert_array_equal(
        few.parameters["reversion_rate"], many.parameters["reversion_rate"][:7]
    )
    other = simulate(case("ensemble.seed=6"))
    assert np.all(other.parameters["reversion_rate"] != many.parameters["reversion_rate"])


def test_arguments_beside_a_case_are_refused_and_not_ignored(case):
    with pytest.raises(ValueError, match="`times` is given beside a case"):
        simulate(case(), times=TIMES)
    with pytest.raises(ValueError, match="`members` is given beside a case"):
        simulate(case(), members=3)


def test_importing_simkit_neither_imports_jax_nor_sets_its_precision():
    """In a process of its own, for this one has jax already."""
    program = """
import sys
import simkit as sk
assert "jax" not in sys.modules and "jax_md" not in sys.modules
import jax
assert not jax.config.read("jax_enable_x64")
system = sk.systems.VanDerPol()
assert not jax.config.read("jax_enable_x64")
result = sk.simulate(system, times=[0.0, 0.5], method=sk.solvers.Tsit5(rtol=1e-10, atol=1e-10))
assert jax.config.read("jax_enable_x64")
assert "jax_md" not in sys.modules
assert all(values.dtype == "float64" for values in result.states.values())
print("done")
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "done\n"
