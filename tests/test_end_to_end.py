"""The command line as a user meets it: real processes, real data, real files."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray

from simkit.results import Fit, Trajectory
from simkit.store.reader import load

from .cases import ROOT


CASE = ROOT / "data" / "lynx_hare" / "case.toml"
pytestmark = pytest.mark.alone
PROGRAM = [str(Path(sys.executable).with_name("simkit"))]


def run(
    *arguments: object, cache: Path, check: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Call the command line in a process of its own, with a cache of its own."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "XLA_FLAGS": ""}
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        check=False,
    )
    if check is not None:
        assert done.returncode == check, done.stderr
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The demo, all of its 64 starts, run three times with one cache of programs."""
    folder = tmp_path_factory.mktemp("demo")
    outputs, seconds = [], []
    for name in ("first", "second", "third"):
        started = time.perf_counter()
        done = run("fit", CASE, "-o", folder / name, "--json", cache=folder / "cache")
        seconds.append(time.perf_counter() - started)
        outputs.append(json.loads(done.stdout))
    return folder, outputs, seconds


def test_one_command_leaves_file_figures_and_report(runs):
    folder, outputs, _ = runs
    assert outputs[0]["status"] == "converged"
    assert outputs[0]["starts"]["total"] == 64
    assert outputs[0]["starts"]["at_optimum"] >= 20
    assert (folder / "first" / "report.html").stat().st_size > 10_000
    figures = {path.name for path in (folder / "first" / "figures").iterdir()}
    assert {
        "fit.png",
        "fit.svg",
        "residuals.png",
        "waterfall.png",
        "correlations.png",
    } <= figures
    result = load(folder / "first" / "result.h5")
    assert isinstance(result, Fit)
    assert result.uncertainty is not None
    assert result.provenance.case_text == CASE.read_text()
    assert result.estimates["prey_growth"] == pytest.approx(0.5416855, rel=1e-6)


def test_the_file_opens_in_xarray_with_names_and_units(runs):
    path = runs[0] / "first" / "result.h5"
    with xarray.open_dataset(path, engine="h5netcdf", group="parameters") as parameters:
        assert parameters["estimate"].dims == ("parameter",)
        assert "prey_growth" in parameters["parameter"].values.tolist()
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        assert "starts" in tree.children


def test_the_same_case_gives_the_same_bits(runs):
    """Every number of the second run equals that of the first, bit for bit."""
    folder = runs[0]
    compared = []

    def compare(name, item):
        if isinstance(item, h5py.Dataset):
            other = second[name]
            assert isinstance(other, h5py.Dataset)
            if item.dtype.kind in "fi":
                np.testing.assert_array_equal(item[()], other[()], strict=True)
                compared.append(name)

    with (
        h5py.File(folder / "first" / "result.h5") as first,
        h5py.File(folder / "second" / "result.h5") as second,
    ):
        first.visititems(compare)
    assert len(compared) > 30


LOOP = 0.13
"""Seconds of the loop below where the limit of fifteen seconds was set."""


def slowness() -> float:
    """How much slower this machine runs Python than that one; at least one.

    Machines that are lent differ: the same commit took 11 s on one and 30 s on another.
    """
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        sum(i * i for i in range(3_000_000))
        seconds.append(time.perf_counter() - begun)
    return max(1.0, min(seconds) / LOOP)


def test_a_second_fit_takes_under_fifteen_seconds(runs):
    """64 starts with uncertainty, figures and report, programs kept from the first run."""
    seconds = runs[2]
    assert min(seconds[1:]) < 15.0 * slowness(), seconds


def test_a_failed_solve_is_told_and_kept(tmp_path):
    """Exit code 3, the file is there with its status, and no traceback."""
    case = tmp_path / "case.toml"
    case.write_text(
        'schema = 1\ntitle = "Too few steps"\n[system]\ntype = "VanDerPol"\n'
        "[times]\nstop = 100.0\n[method]\nmax_steps = 20\n"
    )
    done = run("simulate", case, "-o", tmp_path / "out", cache=tmp_path / "cache", check=3)
    assert "Traceback" not in done.stderr
    result = load(tmp_path / "out" / "result.h5")
    assert isinstance(result, Trajectory)
    assert result.status == "max_steps_reached"
    assert np.isnan(result.states["position"][-1])
