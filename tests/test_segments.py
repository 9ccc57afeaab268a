"""Segments on the disk: whole or not there, of one run, and by one run at a time."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from simkit.cli.interruption import Interrupted, Stopping, stopping
from simkit.identity import object_facts
from simkit.segments import (
    Checkpoint,
    Stopped,
    compute_in_segments,
    default_segment,
    kept_in,
)
from simkit.simulation import simulate
from simkit.store.atomic import partial_files
from simkit.store.run_folder import RunRefused, begin, first_difference, is_unfinished, join
from simkit.store.schema import StoreError
from simkit.store.segments import read_segment, segment_indices, segment_path, write_segment

from .helpers_fits import Decay


FACTS = {"command": "fit", "fit": {"seed": 1, "starts": 4}, "versions": {"jax": "0.9.2"}}
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=8
)
ARRAYS = hnp.arrays(
    st.sampled_from(["f8", "f4", "i4", "i8", "u1", "bool"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
EXAMPLES = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@EXAMPLES
@given(arrays=st.dictionaries(NAMES, ARRAYS, max_size=4), index=st.integers(0, 123456))
def test_what_is_read_is_what_was_written(arrays, index):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_segment(folder, index, arrays)
        found = read_segment(folder, index)
        assert segment_indices(folder) == [index]
        assert not list(partial_files(folder))
    assert found.keys() == arrays.keys()
    for key, array in arrays.items():
        assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape)
        assert found[key].tobytes() == array.tobytes()


@EXAMPLES
@given(data=st.data())
def test_any_flipped_bit_and_any_lost_end_is_noticed(tmp_path, data):
    write_segment(tmp_path, 0, {"states": np.arange(6.0), "status": np.arange(6)})
    path = segment_path(tmp_path, 0)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"segment_00000.h5 is damaged: its checksum"):
        read_segment(tmp_path, 0)


def test_a_file_of_others_is_no_segment(tmp_path):
    """A link to another file, even below a checksum that is right."""
    import hashlib

    import h5py

    (tmp_path / "secret.h5").write_bytes(b"")
    with h5py.File("made", "w", driver="core", backing_store=False) as file:
        file["states"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/")
        file.flush()
        image = file.id.get_file_image()
    seal = b"simkit-sha256:" + hashlib.sha256(image).digest()
    segment_path(tmp_path, 3).write_bytes(image + seal)
    with pytest.raises(StoreError, match="is a link to another place"):
        read_segment(tmp_path, 3)
    with pytest.raises(FileNotFoundError):
        read_segment(tmp_path, 4)
    with pytest.raises(TypeError, match="expected numbers"):
        write_segment(tmp_path, 5, {"names": np.array(["a"])})


def test_a_folder_goes_on_with_the_same_run_alone(tmp_path):
    with begin(tmp_path / "run", FACTS, resume=True) as folder:
        assert not folder.went_on
        folder.write(0, {"x": np.arange(3)})
        folder.write(2, {"x": np.arange(3)})
        folder.confirm({"live": {"platform": "cpu"}})
    (tmp_path / "run" / ".simkit-0.partial").write_bytes(b"killed while it wrote")
    assert is_unfinished(tmp_path / "run")
    with pytest.raises(RunRefused, match="holds an unfinished run; --resume goes on"):
        begin(tmp_path / "run", FACTS, resume=False)
    for changed, words in {
        "seed": "fit.seed is 1 there and 2 here",
        "starts": "fit.starts is 4 there and 2 here",
    }.items():
        other = {**FACTS, "fit": {**FACTS["fit"], changed: 2}}
        with pytest.raises(RunRefused, match=words):
            begin(tmp_path / "run", other, resume=True)
    with begin(tmp_path / "run", FACTS, resume=True) as folder:
        assert folder.went_on
        assert folder.finished() == {0, 2}
        assert not list(partial_files(tmp_path / "run"))
        with pytest.raises(RunRefused, match=r'live\.platform is "cpu" there and "gpu" here'):
            folder.confirm({"live": {"platform": "gpu"}})
        assert join(tmp_path / "run", folder.token).finished() == {0, 2}
        with pytest.raises(RunRefused, match="not seen by every process"):
            join(tmp_path / "run", "another")
    with begin(tmp_path / "run", FACTS, resume=False, overwrite=True) as folder:
        assert folder.finished() == set()
        (tmp_path / "run" / "notes.txt").write_text("mine")
        folder.remove()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_a_damaged_segment_counts_as_missing_and_is_told(tmp_path):
    with begin(tmp_path, FACTS, resume=True) as folder:
        for index in range(3):
            folder.write(index, {"x": np.arange(3)})
        with open(segment_path(tmp_path, 1), "r+b") as file:
            file.truncate(100)
        told: list[str] = []
        assert folder.finished(told.append) == {0, 2}
        assert len(told) == 1 and "segment_00001.h5 is damaged" in told[0]
        assert folder.finished() == {0, 2}


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_description_of_a_run_is_refused(tmp_path, content):
    with begin(tmp_path, FACTS, resume=True) as folder:
        folder.write(0, {"x": np.arange(3)})
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunRefused, match=r"run.json is damaged or of another version"):
        begin(tmp_path, FACTS, resume=True)
    begin(tmp_path, FACTS, resume=False, overwrite=True).close()
    assert json.loads((tmp_path / "run.json").read_text())["facts"] == FACTS


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
    """Whether it ended well, or was killed in another process."""
    run = tmp_path / "out" / ".run"
    first = begin(run, FACTS, resume=True)
    with pytest.raises(RunRefused, match=f"process {os.getpid()} on "):
        begin(run, FACTS, resume=False, overwrite=True)
    first.close()
    code = (
        "import sys, time\nfrom simkit.store.run_folder import begin\n"
        f"folder = begin({str(run)!r}, {FACTS!r}, resume=True)\n"
        "print('taken', flush=True)\ntime.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"taken\n"
    with pytest.raises(RunRefused, match=f"another run of simkit .process {child.pid} on "):
        begin(run, FACTS, resume=True)
    child.kill()
    child.wait()
    child.stdout.close()
    begin(run, FACTS, resume=True).close()


def test_differences_are_named_by_their_keys():
    assert first_difference(FACTS, FACTS) is None
    assert first_difference({"a": None, "b": {}}, {}) is None
    assert first_difference({"a": {"b": [1]}}, {"a": {}}) == (
        "a.b is [1] there and not given here"
    )
    long = first_difference({"text": "x" * 200}, {"text": ""})
    assert long is not None and len(long) < 120


class _Clock:
    """Asks a run to stop after so many segments."""

    def __init__(self, segments: int):
        self.left = segments

    def asked(self) -> bool:
        return False

    def late(self) -> bool:
        self.left -= 1
        return self.left < 0

    def guard(self) -> Any:
        return threading.Lock()


@pytest.mark.parametrize(("rows", "segment"), [(10, 3), (9, 3), (2, 5), (1, 1)])
def test_segments_give_all_rows_however_often_a_run_is_stopped(tmp_path, rows, segment):
    calls: list[np.ndarray] = []
    told: list[tuple[int, int, str]] = []

    def compute(numbers: np.ndarray) -> dict[str, np.ndarray]:
        calls.append(numbers)
        return {"square": numbers**2, "pair": np.stack([numbers, -numbers], axis=1) / 3}

    def progress(done: int, total: int, message: str) -> None:
        told.append((done, total, message))

    expected = compute_in_segments(compute, rows, segment, "rows", progress=progress)
    np.testing.assert_array_equal(expected["square"], np.arange(rows) ** 2)
    assert told[-1] == (rows, rows, "rows")
    assert {len(numbers) for numbers in calls} == {min(segment, rows)}
    once = len(calls)
    calls.clear()
    for _ in range(20):
        with begin(tmp_path, FACTS, resume=True) as folder:
            try:
                checkpoint = Checkpoint(folder, stop=_Clock(1))
                found = compute_in_segments(compute, rows, segment, "rows", checkpoint)
                break
            except Stopped as stopped:
                assert stopped.done == len(calls) and stopped.total == once
    assert len(calls) == once
    for name, array in expected.items():
        assert found[name].tobytes() == array.tobytes()


def test_a_segment_that_is_harmed_before_the_end_is_computed_again(tmp_path):
    def compute(numbers: np.ndarray) -> dict[str, np.ndarray]:
        if numbers[0] == 6:  # the last
            with open(segment_path(tmp_path, 0), "r+b") as file:
                file.truncate(50)
        return {"x": numbers * 2}

    told: list[str] = []
    with begin(tmp_path, FACTS, resume=True) as folder:
        checkpoint = Checkpoint(folder, notify=told.append)
        found = compute_in_segments(compute, 8, 2, "rows", checkpoint)
    np.testing.assert_array_equal(found["x"], 2 * np.arange(8))
    assert len(told) == 1 and "is computed again" in told[0]


def test_long_runs_have_some_tens_of_segments():
    assert [default_segment(n, 8) for n in (1, 16, 256, 1000)] == [8, 8, 8, 32]


def test_a_simulation_from_python_goes_on_from_its_folder(tmp_path, monkeypatch):
    """The same call takes up what a call that failed has kept; another call is refused."""
    rates = np.linspace(0.1, 2.0, 12)

    def run(**changes: Any) -> Any:
        given = {"parameters": {"rate": rates}, "segment": 5, "checkpoint": tmp_path / "run"}
        return simulate(Decay(), **{"times": [0.0, 1.0], **given, **changes})

    expected = run(checkpoint=None)
    done: list[int] = []

    def fail(number: int, total: int, message: str) -> None:
        done.append(number)
        if number == 10:
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        run(progress=fail)
    assert segment_indices(tmp_path / "run") == [0, 1]
    with pytest.raises(RunRefused, match=r"holds another run \(arguments is"):
        run(parameters={"rate": rates + 1e-9})
    again = run(progress=lambda number, *_: done.append(number))
    assert done == [0, 5, 10, 10, 12]
    assert not (tmp_path / "run").exists()
    for name, values in expected.states.items():
        assert again.states[name].tobytes() == values.tobytes()


def test_facts_of_objects_tell_values_apart():
    one, other = Decay(rate=0.5), Decay(rate=0.6)
    facts = object_facts("simulate", one, np.arange(2000.0))
    assert facts == object_facts("simulate", Decay(rate=0.5), np.arange(2000.0))
    changed = np.arange(2000.0)
    changed[1000] += 1e-9
    assert facts != object_facts("simulate", one, changed)
    assert facts != object_facts("simulate", other, np.arange(2000.0))


def test_a_checkpoint_that_is_given_belongs_to_its_owner(tmp_path):
    with begin(tmp_path / "run", FACTS, resume=True) as folder:
        given = Checkpoint(folder)
        with kept_in(given, Decay(), dict) as kept:
            assert kept is given
        assert (tmp_path / "run").exists()
        live = json.loads((tmp_path / "run" / "run.json").read_text())["facts"]["live"]
    assert live["platform"] == "cpu"
    assert list(live["content"]) == ["tests.helpers_fits"]
    with kept_in(None, Decay(), dict) as kept:
        assert kept is None


def test_a_signal_waits_for_the_segment_and_for_nothing_else():
    before = signal.getsignal(signal.SIGTERM)
    with stopping(None) as stop:
        with stop.guard():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
        assert stop.asked() and not stop.late()
        assert (stop.reason, stop.exit_code) == ("stopped by SIGTERM", 4)
    with stopping(None) as stop, pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.0)
    assert (stop.reason, stop.exit_code) == ("interrupted", 130)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_time_limit_leaves_time_for_the_longest_segment():
    stop = Stopping(0.3)
    assert not stop.late()  # one is computed in any case
    with stop.guard():
        time.sleep(0.02)
    assert not stop.late()
    with stop.guard():
        time.sleep(0.2)
    assert stop.late() and not stop.asked()
    assert stop.reason == "stopped for the time limit of 0.3 s"


IMPATIENT = """
import os, signal, sys, time
from simkit.cli.interruption import stopping
with stopping(None) as stop:
    stop.grace = {grace}
    with stop.guard():
        for _ in range({signals}):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
        time.sleep(20)
"""


@pytest.mark.parametrize(("grace", "signals"), [(0.2, 1), (None, 2)])
def test_a_segment_without_end_does_not_hold_a_process(grace, signals):
    """The grace ends, or a second signal comes."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT.format(grace=grace, signals=signals)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    assert done.stderr == "Error: stopped by SIGTERM\n"
    assert time.monotonic() - began < 15
