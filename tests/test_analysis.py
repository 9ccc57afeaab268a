"""`simkit analyse`: its numbers are those of formulae, its files those of its numbers."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result

from simkit.analysis import analyse, identifiability
from simkit.cli.application import cli
from simkit.results import Fit, Trajectory
from simkit.store.writer import save

from .samples import sample_ensemble, sample_fit, sample_trajectory


def with_correlation(matrix: np.ndarray) -> Fit:
    """The sample, whose first parameters have these correlations and the others none."""
    base = sample_fit(with_uncertainty=False)
    whole = np.eye(base.parameters.name.size)
    whole[: len(matrix), : len(matrix)] = matrix
    errors = base.parameters.standard_error
    return dataclasses.replace(base, covariance=whole * np.outer(errors, errors))


@pytest.mark.parametrize("correlation", [0.0, 0.6, -0.9, 0.9999])
def test_two_parameters_that_go_together(correlation: float):
    """Of two, the error is inflated by 1/sqrt(1 - r^2), and the index is 1/sqrt(1 - |r|)."""
    fit = with_correlation(np.array([[1.0, correlation], [correlation, 1.0]]))
    found = identifiability(fit)
    inflation = 1 / np.sqrt(1 - correlation**2)
    expected = [inflation, inflation, 1, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(found.inflation, expected, rtol=1e-9)
    size = abs(correlation)
    assert found.collinearity == pytest.approx(1 / np.sqrt(1 - size), rel=1e-9)
    assert found.condition_number == pytest.approx((1 + size) / (1 - size), rel=1e-9)
    said = " ".join(found.remarks)
    assert ("prey_growth and predation are strongly correlated" in said) == (size > 0.95)
    assert ("hardly tell prey_growth, predation apart" in said) == (size > 0.999)
    if size > 0.1:
        weights = [found.weakest[name] for name in ("prey_growth", "predation")]
        np.testing.assert_allclose(np.abs(weights), np.sqrt(0.5), rtol=1e-6)
        # What moves together in the estimates is a valley in that direction.
        assert np.sign(weights[0] * weights[1]) == np.sign(correlation)


def test_a_singular_matrix_and_a_parameter_at_its_bound():
    fit = with_correlation(np.ones((2, 2)))
    found = identifiability(fit)
    assert found.collinearity == np.inf
    assert any("singular" in remark for remark in found.remarks)
    at_bound = np.array([True] + [False] * 7)
    table = dataclasses.replace(fit.parameters, at_bound=at_bound)
    found = identifiability(dataclasses.replace(fit, parameters=table))
    assert np.isnan(found.inflation[0])
    assert found.collinearity == pytest.approx(1.0)
    assert found.remarks == ("prey_growth lies on a bound: its error means nothing.",)


def test_a_fit_without_any_error():
    base = sample_fit(with_uncertainty=False)
    found = identifiability(dataclasses.replace(base, covariance=np.full((8, 8), np.nan)))
    assert np.isnan(found.inflation).all() and np.isnan(found.collinearity)


def test_measures_of_a_fit():
    fit = sample_fit()
    measures = analyse(fit).values["measures"]
    assert (measures["observations"], measures["parameters"]) == (42, 8)
    deviance = -2 * fit.log_likelihood
    assert measures["aic"] == pytest.approx(deviance + 16)
    assert measures["aicc"] == pytest.approx(deviance + 16 + 2 * 8 * 9 / 33)
    assert measures["bic"] == pytest.approx(deviance + 8 * np.log(42))
    residuals = analyse(fit).values["residuals"]["prey"]
    mine = fit.observations.residual[fit.observations.observable == "prey"]
    assert residuals["root_mean_square"] == pytest.approx(np.sqrt(np.mean(mine**2)))


def test_a_single_solve():
    base = sample_trajectory()
    times = np.array([0.0, 1.0, 3.0])
    result = dataclasses.replace(
        base,
        times=times,
        states={"prey": np.array([2.0, 6.0, 4.0]), "predator": times * np.nan},
    )
    found = analyse(result).values["states"]
    assert found["prey"] | {"unit": ""} == {
        "unit": "", "first": 2.0, "last": 4.0, "lowest": 2.0, "time_of_lowest": 0.0,
        "highest": 6.0, "time_of_highest": 1.0, "mean": pytest.approx((4.0 + 10.0) / 3.0),
    }  # fmt: skip
    assert np.isnan(found["predator"]["highest"])


def test_levels_are_probabilities():
    with pytest.raises(ValueError, match=r"level of a quantile is 1\.5, expected one from 0"):
        analyse(sample_ensemble(), [1.5])


def run(*words: Any) -> Result:
    return CliRunner().invoke(cli, ["analyse", *map(str, words)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analysis")
    samples: dict[str, Trajectory | Fit] = {
        "ensemble": sample_ensemble(40), "solve": sample_trajectory(), "fit": sample_fit()
    }  # fmt: skip
    for name, result in samples.items():
        save(result, folder / f"{name}.h5")
    return folder


def test_an_ensemble_on_the_terminal_and_in_files(folder: Path, tmp_path: Path):
    done = run(folder / "ensemble.h5", "--quantile", 0.5, "-o", tmp_path / "found.csv")
    assert done.exit_code == 0, done.output
    assert "39 of 40 members of LotkaVolterra reached the end." in done.output
    assert "1 failed: maximum number of steps reached" in done.output
    assert "11 of 21 times shown" in done.output
    result = sample_ensemble(40)
    good = result.states["prey"][result.succeeded]
    assert f"{good[:, -1].mean():.4g}" in done.output
    with open(tmp_path / "found.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "prey"]
    medians = [float(row["quantile_0.5"]) for row in rows]
    np.testing.assert_array_equal(medians, np.median(good, axis=0))
    assert (tmp_path / "found.units.csv").read_text().splitlines()[1] == "prey,thousand"
    assert (tmp_path / "found.failed.csv").read_text().rstrip().endswith(",1")
    assert run(folder / "ensemble.h5", "-o", tmp_path / "found.h5").exit_code == 0
    with xr.open_dataset(
        tmp_path / "found.h5", engine="h5netcdf", group="statistics"
    ) as dataset:
        mean = dataset["mean"].sel(state="prey")
        assert mean.dims == ("time",)
        np.testing.assert_allclose(mean, good.mean(axis=0), rtol=1e-13)
        assert dataset["time"].attrs["units"] == "year"


@pytest.mark.parametrize("name", ["ensemble", "solve", "fit"])
def test_json_has_the_numbers_and_the_files(name: str, folder: Path, tmp_path: Path):
    output = tmp_path / "found.h5"
    values = json.loads(run(folder / f"{name}.h5", "--json", "-o", output).stdout)
    assert values["kind"] == name
    assert values["files"] == [str(output)]
    with h5py.File(output) as file:
        assert file.attrs["Conventions"] == "CF-1.11"
        assert len(file) == {"ensemble": 3, "solve": 2, "fit": 3}[name]


def test_what_is_there_stays(folder: Path, tmp_path: Path):
    for output, words in {
        folder / "fit.h5": "is the result itself",
        tmp_path / "found.txt": "expected .h5 or .csv",
    }.items():
        done = run(folder / "fit.h5", "-o", output, "--overwrite")
        assert done.exit_code == 2 and words in done.stderr
    (tmp_path / "found.residuals.csv").write_text("mine")
    done = run(folder / "fit.h5", "-o", tmp_path / "found.csv")
    assert done.exit_code == 2
    assert "found.residuals.csv is there already, expected a new file" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["found.residuals.csv"]
    assert (tmp_path / "found.residuals.csv").read_text() == "mine"
