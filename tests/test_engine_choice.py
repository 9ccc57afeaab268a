"""The engine of a case: asked for by name, told in the result, its file and on the screen."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner, Result

from simkit.cli.application import cli
from simkit.config.reader import read_case
from simkit.config.schema import EngineName, FitTable
from simkit.fitting.assembly import posterior_from_case
from simkit.fitting.fit import fit
from simkit.fitting.tables import curve_times
from simkit.identity import object_facts
from simkit.results import Fit, Trajectory
from simkit.simulation import simulate
from simkit.store import StoreError, load, save
from simkit.store.run_folder import RunRefused
from solvers.ensemble.choice import ENGINES
from solvers.ensemble.law import EngineRefusal
from solvers.integrators.stiff import Kvaerno5
from solvers.sharding import make_mesh
from systems.chaos import Lorenz63

from .cases import load as load_case
from .helpers_fits import decay_posterior
from .samples import sample_ensemble, sample_fit
from .test_bad_input import CASE as FIT, DATA


NAMED = ("native", "lanes", "diffrax")

LORENZ = """\
schema = 1
title = "Convection"
system.type = "Lorenz63"
times = { stop = 2, save_every = 0.5 }
method = { type = "Tsit5", rtol = 1e-9, atol = 1e-9 }
output = { plots = false, report = false }
[ensemble]
members = 4
segment = 2
parameters = { rho = { type = "uniform", lower = 20, upper = 30 } }
"""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The case file of a small ensemble."""
    path = tmp_path_factory.mktemp("lorenz") / "case.toml"
    path.write_text(LORENZ)
    return path


@pytest.fixture(scope="module")
def solved(case: Path) -> dict[str, Trajectory]:
    """Its result by each engine."""
    return {name: simulate(read_case(case, [f"ensemble.engine={name}"])) for name in ENGINES}


def run(*words: str | Path) -> Result:
    """The command line, without the cache that belongs to the process."""
    return CliRunner().invoke(cli, [str(word) for word in words], env={"SIMKIT_CACHE": "off"})


# In the case and the result


def test_the_case_knows_the_engines_that_there_are() -> None:
    assert sorted(typing.get_args(EngineName)) == sorted(ENGINES)


@pytest.mark.parametrize("name", NAMED)
def test_each_engine_gives_the_same_states(name: str, solved: dict[str, Trajectory]) -> None:
    result, reference = solved[name], solved["diffrax"]
    assert (result.engine, result.engine_reason) == (name, "It was asked for.")
    for state, values in result.states.items():
        np.testing.assert_allclose(values, reference.states[state], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(result.statistics["steps"], reference.statistics["steps"])


def test_auto_takes_the_compiled_kernel_and_says_so(solved: dict[str, Trajectory]) -> None:
    result = solved["auto"]
    assert (result.engine, "compiled kernel" in result.engine_reason) == ("native", True)
    for state, values in result.states.items():
        np.testing.assert_array_equal(values, solved["native"].states[state])


def test_devices_keep_the_engine(case: Path, solved: dict[str, Trajectory]) -> None:
    result = simulate(read_case(case), mesh=make_mesh(jax.devices()[:1]))
    assert result.engine == "native"
    assert result.engine_reason == solved["auto"].engine_reason


def test_python_takes_the_engine_too() -> None:
    start = {name: [1.0, 1.1] for name in "xyz"}
    result = simulate(Lorenz63(), times=[0.0, 1.0], initial_states=start, engine="native")
    assert result.engine == "native"
    with pytest.raises(EngineRefusal, match="no kernel for the method Kvaerno5"):
        simulate(
            Lorenz63(), times=[0.0, 1.0], initial_states=start, engine="native",
            method=Kvaerno5(),
        )  # fmt: skip
    with pytest.raises(ValueError, match="`engine` is 'fast', expected one of 'auto'"):
        simulate(Lorenz63(), times=[0.0, 1.0], initial_states=start, engine="fast")
    with pytest.raises(ValueError, match="`engine` is 'native', but engines solve ensembles"):
        simulate(Lorenz63(), times=[0.0, 1.0], engine="native")


# In a run that goes on


def test_a_run_that_goes_on_keeps_its_engine(case: Path, tmp_path: Path) -> None:
    """All segments are there, so that nothing is solved: the folder says what solved them."""

    def stop(done: int, total: int, message: str) -> None:
        if done == stops:
            raise RuntimeError("lost")

    def go_on(**how: Any) -> Trajectory:
        return simulate(read_case(case), checkpoint=tmp_path / "run", **how)

    stops = 2
    with pytest.raises(RuntimeError, match="lost"):
        go_on(progress=stop)
    facts = tmp_path / "run" / "run.json"
    text = facts.read_text()
    assert json.loads(text)["facts"]["engine"] == "native"
    facts.write_text(text.replace('"engine": "native"', '"engine": "lanes"'))
    with pytest.raises(RunRefused, match='engine is "lanes" there and "native" here'):
        go_on()
    facts.write_text(text.replace("a compiled kernel", "a kernel of the first part"))
    stops = 4
    with pytest.raises(RuntimeError, match="lost"):
        go_on(progress=stop)
    result = go_on()
    assert result.engine == "native"
    assert "a kernel of the first part" in result.engine_reason
    assert not facts.exists()


def test_the_engine_is_part_of_what_a_run_is(case: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, message: str) -> None:
        if done == 2:
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        simulate(read_case(case), checkpoint=tmp_path / "run", progress=stop)
    with pytest.raises(RunRefused, match=r'ensemble.engine is "auto" there and "native" here'):
        simulate(read_case(case, ["ensemble.engine=native"]), checkpoint=tmp_path / "run")
    posterior = decay_posterior()
    other = dataclasses.replace(posterior, engine="diffrax")
    assert object_facts("fit", posterior) != object_facts("fit", other)


# In the file


@pytest.mark.parametrize("result", [sample_ensemble(), sample_fit(False)], ids=["run", "fit"])
def test_the_file_says_the_engine_and_older_ones_are_read(
    result: Trajectory | Fit, tmp_path: Path
) -> None:
    path = tmp_path / "result.h5"
    save(result, path)
    found = load(path)
    assert found.engine == result.engine != ""
    assert found.engine_reason == result.engine_reason != ""
    with h5py.File(path, "r+") as file:
        del file.attrs["engine"], file.attrs["engine_reason"]
    with pytest.raises(StoreError, match="attribute 'engine' of / is missing"):
        load(path)
    with h5py.File(path, "r+") as file:
        file["simkit"].attrs["schema_version"] = np.int64(1)
    found = load(path)
    assert (found.engine, found.engine_reason) == ("", "")
    assert found.title == result.title
    with h5py.File(path, "r+") as file:
        file["simkit"].attrs["schema_version"] = np.int64(0)
    with pytest.raises(StoreError, match="schema version 0, expected"):
        load(path)


# On the command line


def test_the_command_line_tells_the_engine(case: Path, tmp_path: Path) -> None:
    answer = run("simulate", case, "-o", tmp_path, "--quiet")
    assert answer.exit_code == 0, answer.output
    line = "Solved by native: The law became a compiled kernel, which is the fastest."
    assert answer.stdout.splitlines().count(line) == 1
    shown = run("show", tmp_path / "result.h5", "--json")
    values = json.loads(shown.stdout)["result"]
    assert values["engine"] == "native"
    assert values["engine_reason"] == line.removeprefix("Solved by native: ")
    save(sample_fit(), tmp_path / "fit.h5")
    shown = run("show", tmp_path / "fit.h5")
    assert "\nSolved by diffrax: Not native: Its kernels are for a CPU" in shown.stdout


def test_one_solve_names_no_engine(case: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.toml"
    alone.write_text(LORENZ.partition("[ensemble]")[0])
    answer = run("simulate", alone, "-o", tmp_path / "out", "--json", "--quiet")
    values = json.loads(answer.stdout)
    assert (values["engine"], values["engine_reason"]) == (None, None)
    result = load(tmp_path / "out" / "result.h5")
    assert (result.engine, result.engine_reason) == ("", "")


def refused(path: Path, command: str, *settings: str) -> str:
    """The one sentence that a command says, which leaves nothing behind."""
    out = path.parent / "refused"
    words = [word for setting in settings for word in ("--set", setting)]
    answer = run(command, path, "-o", out, "--quiet", *words)
    assert answer.exit_code == 2, answer.output
    assert answer.stdout == ""
    assert answer.stderr.startswith("Error: ")
    assert answer.stderr.count("\n") == 1
    assert answer.stderr.endswith(", expected auto or another engine.\n")
    assert not out.exists()
    return answer.stderr


@pytest.mark.parametrize("engine", ["native", "lanes"])
def test_an_engine_that_cannot_serve_ends_a_simulation(engine: str, case: Path) -> None:
    sentence = refused(
        case, "simulate", f"ensemble.engine={engine}", 'method={type = "Kvaerno5"}'
    )
    assert f'case.toml: ensemble.engine is "{engine}" (text), which cannot serve' in sentence
    assert "Kvaerno5" in sentence


def test_an_engine_that_cannot_serve_ends_a_fit(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(DATA)
    (tmp_path / "case.toml").write_text(FIT)
    settings = ('fit.engine="native"', 'method.type="Kvaerno5"')
    sentence = refused(tmp_path / "case.toml", "fit", *settings)
    assert 'case.toml: fit.engine is "native" (text), which cannot serve here (' in sentence
    assert "no kernel for the method Kvaerno5" in sentence


# In a fit


def test_the_engine_of_a_posterior_serves_its_solves() -> None:
    """What is told is what was traced, of one group and of many."""
    for name in ("native", "diffrax"):
        for given in (decay_posterior(), posterior_from_case(load_case("theophylline"))):
            posterior = dataclasses.replace(given, engine=name)
            x, times = jnp.zeros(len(given.parameters.entries)), curve_times(posterior)
            found = eqx.filter_eval_shape(posterior.solutions, x, times)
            assert (found.engine, found.engine_reason) == (name, "It was asked for.")


def test_a_case_and_options_give_a_fit_its_engine() -> None:
    assert posterior_from_case(load_case("lynx_hare")).engine == "auto"
    case = load_case("lynx_hare", "fit.engine=diffrax")
    assert posterior_from_case(case).engine == "diffrax"
    posterior = dataclasses.replace(decay_posterior(), method=Kvaerno5())
    with pytest.raises(EngineRefusal, match=r"engine='native' cannot serve: .*Kvaerno5"):
        fit(posterior, options=FitTable(starts=2, engine="native"))


def test_a_posterior_of_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="`engine` is 'fast', expected one of"):
        dataclasses.replace(decay_posterior(), engine="fast")
