"""Result files read by programs that are not ours: netCDF-C, h5dump, ArviZ.

Each test is left out, and says so, where its reader is not installed.
"""

import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simkit.results import Fit, Trajectory
from simkit.store import save
from simkit.store.export import export_netcdf
from simkit.store.flat import flat_tables

from .samples import NAMES, sample_ensemble, sample_fit, sample_trajectory


RESULTS = {
    "trajectory": sample_trajectory(),
    "ensemble": sample_ensemble(),
    "fit": sample_fit(),
    "fit without uncertainty": sample_fit(with_uncertainty=False),
}


def _imported(module: str) -> Any:
    with warnings.catch_warnings():
        # Old and new releases of these warn about each other, which is not our matter.
        warnings.simplefilter("ignore")
        return pytest.importorskip(module, reason=f"{module} is not installed")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each result as a result file and, with `.nc`, exported; nobody changes them."""
    folder = tmp_path_factory.mktemp("files")
    found = {}
    for name, result in RESULTS.items():
        found[name] = folder / f"{name}.h5"
        save(result, found[name])
        found[f"{name}.nc"] = export_netcdf(result, folder / f"{name}.nc")
    return found


# netCDF-C, the library behind R, MATLAB, Julia, NCO and CDO


@pytest.mark.parametrize("name", ["trajectory", "ensemble"])
def test_netcdf_reads_a_trajectory(name: str, files: dict[str, Path]) -> None:
    netcdf = _imported("netCDF4")
    result = RESULTS[name]
    assert isinstance(result, Trajectory)
    with netcdf.Dataset(files[name]) as file:
        file.set_auto_mask(False)
        np.testing.assert_array_equal(file["time"][:], result.times)
        assert file["time"].units == "year"
        for state, values in result.states.items():
            variable = file[f"states/{state}"]
            np.testing.assert_array_equal(variable[:], values)
            assert variable.dimensions == ("member", "time")[-values.ndim :]
            assert variable.units == "thousand"
        np.testing.assert_array_equal(file["status"][...], result.status)
        for parameter, values in result.parameters.items():
            np.testing.assert_array_equal(file[f"parameters/{parameter}"][...], values)
        assert file.title == result.title
        assert file["simkit"].seed == result.provenance.seed


@pytest.mark.parametrize("name", ["fit", "fit without uncertainty"])
def test_netcdf_reads_a_fit(name: str, files: dict[str, Path]) -> None:
    netcdf = _imported("netCDF4")
    fit = RESULTS[name]
    assert isinstance(fit, Fit)
    with netcdf.Dataset(files[name]) as file:
        file.set_auto_mask(False)
        np.testing.assert_array_equal(file["parameter"][:], fit.parameters.name)
        np.testing.assert_array_equal(file["covariance"][:], fit.covariance)
        for group in ("parameters", "starts", "observations", "derived"):
            table = getattr(fit, group)
            for column, variable in file[group].variables.items():
                if hasattr(table, column):
                    np.testing.assert_array_equal(variable[:], getattr(table, column))
        for observable, values in fit.curves.fitted.items():
            variable = file[f"curves/fitted/{observable}"]
            np.testing.assert_array_equal(variable[:], values)
            assert variable.dimensions == ("group", "point")
        if fit.uncertainty is not None:
            draws = np.stack([file[f"posterior/{name}"][0] for name in NAMES], axis=1)
            np.testing.assert_array_equal(draws, fit.uncertainty.draws)


@pytest.mark.parametrize("name", RESULTS)
def test_netcdf_reads_what_was_exported(name: str, files: dict[str, Path]) -> None:
    netcdf = _imported("netCDF4")
    with netcdf.Dataset(files[f"{name}.nc"]) as file:
        file.set_auto_mask(False)
        assert file.data_model == "NETCDF4"
        tables = flat_tables(RESULTS[name])
        assert set(file.groups) == {table.name for table in tables} | {"provenance"}
        for table in tables:
            group = file[table.name]
            for column in (*table.axes, *table.columns):
                np.testing.assert_array_equal(group[column.name][...], column.values)
            for column in table.columns:
                assert group[column.name].dimensions == tuple(axis.name for axis in table.axes)


# The tools of the HDF Group


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("ending", ["", ".nc"])
def test_h5dump_reads_every_dataset(name: str, ending: str, files: dict[str, Path]) -> None:
    h5dump = shutil.which("h5dump")
    if h5dump is None:
        pytest.skip("h5dump is not installed")
    path = files[f"{name}{ending}"]
    done = subprocess.run([h5dump, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "unable to" not in done.stdout


def test_h5dump_prints_the_numbers(files: dict[str, Path]) -> None:
    h5dump = shutil.which("h5dump")
    if h5dump is None:
        pytest.skip("h5dump is not installed")
    words = [h5dump, "-y", "-w", "0", "-m", "%.17g", "-d", "/states/prey", files["trajectory"]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    data = done.stdout.partition("DATA {")[2].partition("}")[0]
    result = RESULTS["trajectory"]
    assert isinstance(result, Trajectory)
    assert [float(number) for number in data.split(",")] == result.states["prey"].tolist()


# ArviZ, for posterior draws


def test_arviz_reads_the_draws(files: dict[str, Path]) -> None:
    arviz = _imported("arviz")
    fit = RESULTS["fit"]
    assert isinstance(fit, Fit)
    assert fit.uncertainty is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = arviz.from_netcdf(files["fit"], engine="h5netcdf")
        table = arviz.summary(data, round_to="none")
    posterior = data["posterior"]
    # The groups of ArviZ 1 inherit the axes of the file besides.
    assert posterior.sizes["chain"] == 1
    assert posterior.sizes["draw"] == fit.uncertainty.draws.shape[0]
    for column, name in enumerate(NAMES.tolist()):
        assert posterior[name].dims == ("chain", "draw")
        np.testing.assert_array_equal(
            posterior[name].values[0], fit.uncertainty.draws[:, column]
        )
        assert float(table.loc[name, "mean"]) == pytest.approx(
            fit.uncertainty.draws[:, column].mean(), rel=1e-6
        )
