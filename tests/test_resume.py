"""Runs that are killed, stopped or run out of disk go on, and end with the same bits."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from simkit.store.atomic import partial_files

from .helpers_runs import (
    CASES,
    Server,
    differences,
    kept_segments,
    result_of,
    serving,
    wait_for_segments,
    write_case,
)


KILLS = int(os.environ.get("SIMKIT_KILLS", "5"))
"""At so many moments each kind of run is killed."""
SEGMENTS = {"ode": 150, "sde": 150, "fit": 60}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture(scope="module")
def references(server, tmp_path_factory):
    """Uninterrupted runs of each kind with their time, computed when they are asked for."""
    folder, found = tmp_path_factory.mktemp("references"), {}

    def reference(kind):
        if kind not in found:
            case, output = write_case(folder / kind, kind), folder / kind / "out"
            command = CASES[kind][0]
            server.run(command, case, "-o", output)  # compiles
            began = time.monotonic()
            server.run(command, case, "-o", output, "--overwrite")
            found[kind] = (case, result_of(output), time.monotonic() - began)
        return found[kind]

    return reference


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bits(
    kind, server: Server, references, tmp_path
):
    """Killed again and again, from its beginning to its end, and resumed each time."""
    case, expected, seconds = references(kind)
    command, random = CASES[kind][0], np.random.default_rng(KILLS)
    words = (command, case, "-o", tmp_path / "out", "--resume")
    before: list[int] = []
    ends = 0
    for _ in range(KILLS):
        run = server.start(*words)
        time.sleep(random.uniform(0.0, 1.2 * seconds))
        run.signal(signal.SIGKILL)
        code = run.wait()
        assert code in (0, -signal.SIGKILL), run.errors
        if code == 0:
            assert not differences(result_of(tmp_path / "out"), expected)
            shutil.rmtree(tmp_path / "out")
            before, ends = [], ends + 1
            continue
        # Nothing that was kept is lost, and no more than one segment was open.
        after = kept_segments(tmp_path / "out") if (tmp_path / "out").exists() else []
        assert set(before) <= set(after) or (tmp_path / "out" / "result.h5").exists()
        assert len(list(partial_files(tmp_path / "out" / ".run"))) <= 1
        before = after
    server.run(*words)
    assert not differences(result_of(tmp_path / "out"), expected)
    print(f"{kind}: killed at {KILLS} moments, {ends} of them after the end")


ENDS = [
    (signal.SIGTERM, 4, "Error: stopped by SIGTERM with"),
    (signal.SIGHUP, 4, "Error: stopped by SIGHUP with"),
    (signal.SIGUSR1, 4, "Error: stopped by SIGUSR1 with"),
    (signal.SIGINT, 130, "Error: interrupted with"),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ode", "fit"])
def test_a_run_that_is_stopped_says_so_and_goes_on(kind, server: Server, references, tmp_path):
    """By each signal in turn, then by its own limit of time; then it is finished."""
    case, expected, _ = references(kind)
    words = (CASES[kind][0], case, "-o", tmp_path, "--resume")
    kept = 0
    for number, code, sentence in ENDS if kind == "ode" else ENDS[:1]:
        run = server.start(*words)
        wait_for_segments(tmp_path, kept + 3)
        run.signal(number)
        assert run.wait() == code, run.errors
        kept = len(kept_segments(tmp_path))
        assert run.errors.startswith(f"{sentence} {kept} segments done;")
        assert run.errors.endswith("the same command with --resume goes on from there.\n")
        assert run.errors.count("\n") == 1
        assert 3 <= kept < SEGMENTS[kind]
    run = server.run(*words, "--time-limit", 0.01, code=4)
    assert len(kept_segments(tmp_path)) == kept + 1
    assert run.errors.startswith("Error: stopped for the time limit of 0.01 s with")
    run = server.run(*words)
    assert run.errors == ""
    assert not differences(result_of(tmp_path), expected)
    # A finished run is told again, nothing is computed, and what a run left that was killed
    # while it took its folder away is cleared.
    (tmp_path / ".run").mkdir()
    (tmp_path / ".run" / "segment_00007.h5").write_bytes(b"left over")
    written = (tmp_path / "result.h5").stat().st_mtime_ns
    again = server.run(*words, "--json")
    assert json.loads(again.stdout.read_text())["files"]["result"].endswith("result.h5")
    assert (tmp_path / "result.h5").stat().st_mtime_ns == written
    assert not (tmp_path / ".run").exists()


@pytest.mark.slow
def test_what_does_not_belong_together_is_not_mixed(server: Server, references, tmp_path):
    """Another case, another run at the same time, an unfinished run, a harmed segment."""
    case, expected, _ = references("ode")
    words = ("simulate", case, "-o", tmp_path)
    run = server.start(*words)
    wait_for_segments(tmp_path, 3)
    run.signal(signal.SIGSTOP)  # it stays where it is, and holds its lock
    second = server.run(*words, "--overwrite", code=2)
    assert f"{tmp_path} is being written to by another run of simkit (process" in second.errors
    run.signal(signal.SIGTERM)
    run.signal(signal.SIGCONT)
    assert run.wait() == 4
    kept = kept_segments(tmp_path)

    refused = server.run(*words, code=2)
    assert "holds an unfinished run; --resume goes on with it" in refused.errors
    for change, difference in {
        "ensemble.seed=8": "ensemble.seed is 7 there and 8 here",
        "method.rtol=1e-5": "method.rtol is not given there and 1e-05 here",
    }.items():
        refused = server.run(*words, "--resume", "--set", change, code=2)
        assert f"holds another run ({difference})" in refused.errors
        assert refused.errors.count("\n") == 1
    facts = tmp_path / ".run" / "run.json"
    text = facts.read_text()
    facts.write_text(text.replace(json.loads(text)["facts"]["versions"]["jax"], "0.1.2"))
    refused = server.run(*words, "--resume", code=2)
    assert 'versions.jax is "0.1.2" there and' in refused.errors
    facts.write_text(text)
    assert kept_segments(tmp_path) == kept

    harmed = tmp_path / ".run" / f"segment_{kept[1]:05d}.h5"
    content = bytearray(harmed.read_bytes())
    content[len(content) // 2] ^= 16
    harmed.write_bytes(content)
    run = server.run(*words, "--resume")
    assert run.errors == (
        f"Warning: {harmed} is damaged: its checksum is wrong. It is computed again.\n"
    )
    assert not differences(result_of(tmp_path), expected)
    refused = server.run(*words, "--resume", "--set", "ensemble.seed=8", code=2)
    assert "is no result of this run (ensemble.seed is 7 there and 8 here)" in refused.errors


@pytest.mark.slow
def test_a_disk_that_is_full_is_told_in_a_sentence(server: Server, references, tmp_path):
    """No file may be as large as the result; then there is room, and the run goes on."""
    case, expected, _ = references("ode")
    words = ("simulate", case, "-o", tmp_path)
    run = server.run(*words, code=1, file_limit=16_000)
    assert run.errors == (
        f"Error: {tmp_path / 'result.h5'} cannot be written (File too large); what is done is "
        "kept, and with more room the same command with --resume goes on from there.\n"
    )
    assert len(kept_segments(tmp_path)) == SEGMENTS["ode"]
    assert not (tmp_path / "result.h5").exists()
    server.run(*words, "--resume")
    assert not differences(result_of(tmp_path), expected)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_segments_that_find_no_room_leave_the_earlier_ones(
    server: Server, references, tmp_path, small_disk: Path
):
    case, expected, _ = references("ode")
    run = server.run("simulate", case, "-o", small_disk, code=1)
    assert "cannot be written (No space left on device); what is done is kept" in run.errors
    assert run.errors.count("\n") == 1
    kept = kept_segments(small_disk)
    assert 3 < len(kept) < SEGMENTS["ode"]
    shutil.copytree(small_disk, tmp_path / "larger")
    server.run("simulate", case, "-o", tmp_path / "larger", "--resume")
    assert not differences(result_of(tmp_path / "larger"), expected)
