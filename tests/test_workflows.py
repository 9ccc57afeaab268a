"""The examples for workflow engines: Snakemake runs for real, the SLURM script by hand."""

import csv
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simkit.results import Trajectory
from simkit.store.reader import load


ROOT = Path(__file__).parent.parent
SNAKEFILE = ROOT / "scripts/snakemake/Snakefile"
ARRAY = ROOT / "scripts/slurm/array.sh"
CASE = """\
schema = 1
title = "A point of a grid"
output = { plots = false, report = false }
[system]
type = "HarmonicOscillator"
[times]
stop = 2.0
save_every = 0.5
"""
LONG = """\
schema = 1
title = "Many members"
output = { plots = false, report = false }
[system]
type = "OrnsteinUhlenbeck"
[times]
stop = 200.0
save_every = 100.0
[method]
type = "EulerMaruyama"
step = 0.001
[ensemble]
members = 40000
segment = 8
engine = "lanes"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Where the commands of this environment are found, and caches go to a folder of the test.

    The cache of compiled programs stays where it is.
    """
    programs = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }


def snakemake(folder: Path, environment: dict[str, str], *more: str) -> str:
    """What it says; it must end well."""
    words = [
        str(Path(sys.executable).with_name("snakemake")),
        *("--snakefile", str(SNAKEFILE), "--configfile", "grid.yaml", "--cores", "1"),
        *("--rerun-incomplete", "--nocolor", *more),
    ]
    # A folder of the test, so that neither locks nor caches of others matter.
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("snakemake") is None, reason="Snakemake is not installed"
)
def test_snakemake_runs_a_grid_and_only_what_is_missing(tmp_path, environment):
    (tmp_path / "case.toml").write_text(CASE)
    (tmp_path / "grid.yaml").write_text(
        "case: case.toml\ncommand: simulate\nfolder: grid\n"
        "grid:\n  system.parameters.stiffness: [1.0, 2.0]\n"
    )
    snakemake(tmp_path, environment)
    with open(tmp_path / "grid/points.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["point"] for row in rows] == ["000", "001"]
    for row, frequency in zip(rows, (1.0, 2.0), strict=True):
        result = trajectory(tmp_path / f"grid/{row['point']}/result.h5")
        assert float(row["system.parameters.stiffness"]) == frequency
        assert result.parameters["stiffness"] == frequency
        assert float(row["last position"]) == result.states["position"][-1]
    # Snakemake looks at what is asked for last: the table, then what it was made from.
    (tmp_path / "grid/points.csv").unlink()
    (tmp_path / "grid/001/result.h5").unlink()
    (tmp_path / "grid/001/analysis.json").unlink()
    said = snakemake(tmp_path, environment, "--dry-run")
    wanted = re.findall(r"^(?:local)?rule (\w+):$", said, re.MULTILINE)
    assert sorted(wanted) == ["all", "analyse", "gather", "run"], said


def trajectory(path: Path) -> Trajectory:
    """The result of a simulation."""
    result = load(path)
    assert isinstance(result, Trajectory)
    return result


def array_script(folder: Path, environment: dict[str, str], task: int) -> subprocess.Popen[str]:
    words = ["bash", str(ARRAY), "simulate", "case.toml", "settings.txt", "array"]
    return subprocess.Popen(
        words,
        cwd=folder,
        env={**environment, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": "77"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_array_script_is_sound_and_runs_its_line(tmp_path, environment):
    subprocess.run(["bash", "-n", str(ARRAY)], check=True)
    (tmp_path / "case.toml").write_text(CASE)
    (tmp_path / "settings.txt").write_text(
        "system.parameters.stiffness=1.0\nsystem.parameters.stiffness=3.0 times.stop=1.0\n"
    )
    process = array_script(tmp_path, environment, 1)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    result = trajectory(tmp_path / "array/1/result.h5")
    assert (result.parameters["stiffness"], result.times[-1]) == (3.0, 1.0)
    process = array_script(tmp_path, environment, 2)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "settings.txt has no line for task 2" in said


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_array_script_hands_the_signal_on_and_asks_to_be_queued_again(
    tmp_path, environment
):
    (tmp_path / "case.toml").write_text(LONG)
    (tmp_path / "settings.txt").write_text("ensemble.seed=5\n")
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin/scontrol"
    scontrol.write_text('#!/bin/sh\necho "$@" > "$ASKED"\n')
    scontrol.chmod(0o755)
    environment["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{environment['PATH']}"
    environment["ASKED"] = str(tmp_path / "asked.txt")
    process = array_script(tmp_path, environment, 0)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "array/0").glob(".run/segment_*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 4, said
    assert "stopped by SIGUSR1 with" in said
    assert (tmp_path / "asked.txt").read_text() == "requeue 77_0\n"
