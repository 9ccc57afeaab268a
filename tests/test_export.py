"""Exported results: every number comes back from CSV and netCDF, and nothing is lost."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result

from simkit.cli.application import cli
from simkit.results import Fit, Trajectory
from simkit.store import save
from simkit.store.export import export_csv, export_netcdf
from simkit.store.flat import FlatTable, attributes, flat_tables
from simkit.store.reader import open_result
from simkit.stored import StoredArray

from .samples import sample_ensemble, sample_fit, sample_trajectory


RESULTS = {
    "trajectory": sample_trajectory(),
    "ensemble": sample_ensemble(),
    "fit": sample_fit(),
    "fit without uncertainty": sample_fit(with_uncertainty=False),
}
TABLES = {
    "trajectory": {"states", "solve"},
    "ensemble": {"states", "solve", "members"},
    "fit": {
        *("covariance", "parameters", "starts", "starts_parameter", "observations", "curves"),
        *("derived", "uncertainty", "uncertainty_correlation", "uncertainty_curves"),
        *("uncertainty_derived", "posterior"),
    },
}


def _run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _assert_csv_holds(table: FlatTable, path: Path) -> None:
    rows = _rows(path)
    assert len(rows) == table.columns[0].values.size
    grid = np.meshgrid(*(axis.values for axis in table.axes), indexing="ij")
    wanted = {axis.name: labels for axis, labels in zip(table.axes, grid, strict=True)}
    wanted |= {column.name: column.values for column in table.columns}
    assert list(rows[0]) == list(wanted)
    for name, values in wanted.items():
        found = [row[name] for row in rows]
        if values.dtype.kind in "Ub":
            assert found == [str(value) for value in values.ravel().tolist()]
        else:
            read = np.array(found, dtype=values.dtype)
            np.testing.assert_array_equal(read, values.ravel(), err_msg=name)


@pytest.mark.parametrize("name", RESULTS)
def test_csv_holds_every_number(name: str, tmp_path: Path) -> None:
    result = RESULTS[name]
    written = export_csv(result, tmp_path / "tables")
    tables = {table.name: table for table in flat_tables(result)}
    assert set(tables) == TABLES.get(name, set(tables))
    expected = {f"{table}.csv" for table in tables} | {"columns.csv", "attributes.csv"}
    assert {path.name for path in written} == expected
    assert {path.name for path in (tmp_path / "tables").iterdir()} == expected
    for table in tables.values():
        _assert_csv_holds(table, tmp_path / "tables" / f"{table.name}.csv")


def test_every_array_of_a_result_is_in_a_table() -> None:
    for result in RESULTS.values():
        numbers = sum(
            column.values.size
            for table in flat_tables(result)
            for column in (*table.columns, *table.axes)
        )
        assert numbers >= _count(result)


def _count(value: object) -> int:
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, dict):
        return sum(map(_count, value.values()))
    fields = getattr(value, "__dataclass_fields__", {})
    return sum(_count(getattr(value, name)) for name in fields)


def test_units_and_meanings_stand_beside_the_tables(tmp_path: Path) -> None:
    export_csv(RESULTS["fit"], tmp_path)
    columns = {(row["table"], row["column"]): row for row in _rows(tmp_path / "columns.csv")}
    assert columns["curves", "time"]["unit"] == "year"
    assert columns["curves", "fitted.prey"]["unit"] == "thousand"
    assert columns["posterior", "predation"]["unit"] == "1/(year * thousand)"
    assert columns["parameters", "estimate"]["unit"] == "", "it differs from row to row"
    assert columns["parameters", "estimate"]["description"] == "estimate at the optimum"
    rows = _rows(tmp_path / "attributes.csv")
    values = {(row["table"], row["name"]): row["value"] for row in rows}
    fit = RESULTS["fit"]
    assert isinstance(fit, Fit)
    assert float(values["", "objective"]) == fit.objective
    assert json.loads(values["", "warnings"]) == list(fit.warnings)
    assert values["provenance", "case_text"] == fit.provenance.case_text


@pytest.mark.parametrize("name", RESULTS)
def test_netcdf_holds_every_number(name: str, tmp_path: Path) -> None:
    result = RESULTS[name]
    path = export_netcdf(result, tmp_path / "result.nc")
    for table in flat_tables(result):
        with xr.open_dataset(path, engine="h5netcdf", group=table.name) as group:
            for axis in table.axes:
                np.testing.assert_array_equal(group[axis.name].values, axis.values)
            for column in table.columns:
                found = group[column.name]
                assert found.dims == tuple(axis.name for axis in table.axes)
                np.testing.assert_array_equal(found.values, column.values)
                if column.values.dtype.kind in "fiub":
                    assert found.dtype == column.values.dtype
                assert found.attrs.get("units", "") == column.unit
                assert found.attrs["long_name"] == column.description
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        assert tree.attrs["title"] == result.title
        assert tree["provenance"].attrs["seed"] == result.provenance.seed
        for group, values in attributes(result).items():
            assert set(values) <= set((tree[group] if group else tree).attrs)


def test_awkward_names_do_not_meet(tmp_path: Path) -> None:
    names = ["time", "states.time", "a/b", "..", "", "é\n=1+1", "member"]
    times = np.arange(2.0)
    states = {name: times + index for index, name in enumerate(names)}
    result = Trajectory(
        title='"quotes", and\nlines',
        system="Own",
        method="Tsit5",
        times=times,
        states=states,
        status=np.array("successful"),
        parameters={},
        statistics={},
    )
    export_csv(result, tmp_path / "tables")
    for table in flat_tables(result):
        _assert_csv_holds(table, tmp_path / "tables" / f"{table.name}.csv")
    path = export_netcdf(result, tmp_path / "result.nc")
    with xr.open_dataset(path, engine="h5netcdf", group="states") as group:
        assert len(group.data_vars) == len(names)
        found = {variable.attrs["long_name"]: variable.values for variable in group.values()}
    for name, values in states.items():
        np.testing.assert_array_equal(found[f"states over time: {name}"], values)


@pytest.mark.parametrize("form", ["csv", "netcdf"])
def test_a_large_ensemble_is_exported_block_by_block(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes of CSV, and the same numbers of netCDF, as from memory."""
    generator = np.random.default_rng(5)
    whole = dataclasses.replace(
        sample_ensemble(),
        states={
            name: generator.normal(size=values.shape)
            for name, values in sample_ensemble().states.items()
        },
    )
    save(whole, tmp_path / "run.h5")
    write = export_csv if form == "csv" else export_netcdf
    write(whole, tmp_path / "whole")
    monkeypatch.setattr("simkit.store.reader.IN_MEMORY", 1)
    monkeypatch.setattr("simkit.stored.BLOCK_BYTES", 1)
    told: list[tuple[int, int]] = []
    with open_result(tmp_path / "run.h5") as opened:
        assert isinstance(opened, Trajectory)
        for values in opened.states.values():
            assert isinstance(values, StoredArray)
            # Each member is a block of its own.
            values.chunks = (1, values.shape[1])
        write(
            opened,
            tmp_path / "parts",
            progress=lambda done, total, message: told.append((done, total)),
        )
    members = whole.status.size
    assert (1, members) in told and (members, members) in told
    if form == "csv":
        names = {path.name for path in (tmp_path / "whole").iterdir()}
        assert names == {path.name for path in (tmp_path / "parts").iterdir()}
        for name in names:
            parts, expected = (tmp_path / x / name for x in ("parts", "whole"))
            assert parts.read_bytes() == expected.read_bytes()
        return
    with (
        xr.open_datatree(tmp_path / "whole", engine="h5netcdf") as first,
        xr.open_datatree(tmp_path / "parts", engine="h5netcdf") as second,
    ):
        xr.testing.assert_identical(first, second)


# The command


@pytest.fixture
def result_file(tmp_path: Path) -> Path:
    save(sample_trajectory(), tmp_path / "run.h5")
    return tmp_path / "run.h5"


def test_the_command_writes_csv_beside_the_result(result_file: Path) -> None:
    answer = _run("export", result_file)
    assert answer.exit_code == 0, answer.output
    folder = result_file.parent / "run_csv"
    written = [Path(line) for line in answer.stdout.splitlines()]
    assert sorted(written) == sorted(folder.iterdir())
    times = [float(row["time"]) for row in _rows(folder / "states.csv")]
    assert times == sample_trajectory().times.tolist()


def test_the_command_writes_netcdf(result_file: Path) -> None:
    target = result_file.parent / "new" / "tables.nc"
    answer = _run("export", result_file, "--format", "netcdf", "-o", target, "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout) == {"files": [str(target)]}
    with xr.open_dataset(target, engine="h5netcdf", group="states") as group:
        assert set(group.data_vars) == {"prey", "predator"}


@pytest.mark.parametrize("form", ["csv", "netcdf"])
def test_nothing_is_overwritten_unasked(form: str, result_file: Path) -> None:
    assert _run("export", result_file, "--format", form).exit_code == 0
    before = {path: path.read_bytes() for path in result_file.parent.rglob("*.[cn]*")
              if path.is_file()}  # fmt: skip
    answer = _run("export", result_file, "--format", form)
    assert answer.exit_code == 2
    assert "is there already, expected a new file; --overwrite replaces it" in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in before} == before
    assert _run("export", result_file, "--format", form, "--overwrite").exit_code == 0


def test_targets_that_cannot_be(result_file: Path) -> None:
    (result_file.parent / "folder").mkdir()
    for words, said in {
        ("--format", "netcdf", "-o", "folder"): "is a folder, expected a file for netcdf",
        ("--format", "csv", "-o", "run.h5"): "is a file, expected a folder for csv",
        ("--format", "netcdf", "-o", "run.h5", "--overwrite"): "is the result itself",
        ("--format", "xlsx"): "'xlsx' is not one of 'csv', 'netcdf'",
    }.items():
        resolved = [
            str(result_file.parent / w) if w in ("folder", "run.h5") else w for w in words
        ]
        content = result_file.read_bytes()
        answer = _run("export", result_file, *resolved)
        assert answer.exit_code == 2, words
        assert said in answer.stderr
        assert result_file.read_bytes() == content


def test_a_file_that_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "other.h5").write_text("no")
    answer = _run("export", tmp_path / "other.h5", "-o", tmp_path / "tables")
    assert answer.exit_code == 2
    assert answer.stderr.endswith("other.h5 is not an HDF5 file.\n")
    assert not (tmp_path / "tables").exists()


def test_without_the_package(result_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5netcdf", None)
    answer = _run("export", result_file, "--format", "netcdf")
    assert answer.exit_code == 2
    assert "netCDF needs h5netcdf, which is not installed" in answer.stderr
    assert _run("export", result_file).exit_code == 0, "CSV needs no package"


def test_no_jax_is_imported(result_file: Path) -> None:
    code = (
        "import atexit, sys\n"
        "heavy = {'jax', 'matplotlib', 'pandas'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules))))\n"
        "from simkit.cli import main\n"
        f"main(['export', {str(result_file)!r}, '--format', 'netcdf'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
