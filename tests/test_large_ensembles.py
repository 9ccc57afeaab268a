"""Ensembles larger than the memory: written, read, analysed and drawn in parts."""

import dataclasses
import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from simkit.analysis import analyse
from simkit.member_statistics import member_statistics
from simkit.plots.report import report_page
from simkit.results import Trajectory
from simkit.segments import SEGMENT_BYTES, Checkpoint, compute_in_segments, default_segment
from simkit.simulation import simulate
from simkit.store import reader, streaming
from simkit.store.run_folder import begin
from simkit.store.schema import StoreError
from simkit.store.writer import save
from simkit.stored import (
    BLOCK_BYTES,
    StoredArray,
    as_stored,
    chunk_shape,
    is_stored,
    member_blocks,
    some_members,
    time_blocks,
)
from solvers.integrators.deterministic import Tsit5
from systems.populations import LotkaVolterra

from .samples import sample_ensemble


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ensemble is a large one."""
    monkeypatch.setattr("simkit.store.streaming.IN_MEMORY", 0)
    monkeypatch.setattr("simkit.store.reader.IN_MEMORY", 0)
    monkeypatch.setattr("simkit.segments.IN_MEMORY", 0)


@pytest.mark.parametrize(
    ("members", "times"),
    [(1, 1), (3, 10**6), (100_000, 3000), (10**7, 50), (156_250, 2000), (70_000, 70_001)],
)
def test_chunks_are_whole_and_of_one_size(members: int, times: int):
    """Little is wasted at the ends, and a block of times holds all members."""
    height, width = chunk_shape(members, times)
    assert 1 <= height <= members and 1 <= width <= times
    assert height * width <= 2**16 + members // 2
    stored = -(-members // height) * height * -(-times // width) * width
    assert stored <= 1.35 * members * times
    array = StoredArray((members, times), np.dtype("f8"), (height, width), lambda m, t: None)  # pyright: ignore
    blocks = list(time_blocks(array))
    assert sum(block.stop - block.start for block in blocks) == times
    widest = max(block.stop - block.start for block in blocks)
    assert members * widest * 8 <= max(BLOCK_BYTES, members * 8)
    assert all(block.start % width == 0 for block in blocks)
    rows = list(member_blocks(array))
    assert sum(block.stop - block.start for block in rows) == members
    assert all(block.start % height == 0 for block in rows)


def test_a_file_written_in_parts_is_the_same(small_limits: None, tmp_path: Path, monkeypatch):
    result = sample_ensemble(300)
    monkeypatch.setattr("simkit.stored.BLOCK_BYTES", 4096)
    monkeypatch.setattr("simkit.stored._CHUNK", 64)
    told: list[int] = []
    save(result, tmp_path / "parts.h5", progress=lambda done, total, message: told.append(done))
    assert len(told) > 3 and told[-1] == 300
    again = reader.load(tmp_path / "parts.h5")
    assert isinstance(again, Trajectory)
    for name, values in result.states.items():
        assert again.states[name].tobytes() == values.tobytes()
    with h5py.File(tmp_path / "parts.h5") as file:
        prey: Any = file["states/prey"]
        assert prey.fletcher32 and prey.compression is None
        assert [axis[0].name for axis in prey.dims] == ["/member", "/time"]
        assert prey.attrs["units"] == "thousand"
    with reader.open_result(tmp_path / "parts.h5") as opened:
        assert isinstance(opened, Trajectory)
        assert all(map(is_stored, opened.states.values()))
        assert report_page(opened) == report_page(result)
        # Numbers of a few members, whatever the blocks.
        chosen = np.array([7, 3, 299])
        np.testing.assert_array_equal(
            some_members(opened.states["prey"], chosen), result.states["prey"][chosen]
        )


def test_states_that_rest_are_compressed(small_limits: None, tmp_path: Path):
    base = sample_ensemble(40)
    resting = dict.fromkeys(base.states, np.ones((40, 21)))
    save(dataclasses.replace(base, states=resting), tmp_path / "rest.h5")
    with h5py.File(tmp_path / "rest.h5") as file:
        prey: Any = file["states/prey"]
        assert (prey.compression, prey.shuffle, prey.fletcher32) == ("gzip", True, True)


def test_a_flipped_bit_is_found_where_it_is_read(small_limits: None, tmp_path: Path):
    save(sample_ensemble(400), tmp_path / "result.h5")
    with h5py.File(tmp_path / "result.h5") as file:
        prey: Any = file["states/prey"]
        place = prey.id.get_chunk_info(0).byte_offset
    content = bytearray((tmp_path / "result.h5").read_bytes())
    content[place + 100] ^= 4
    (tmp_path / "result.h5").write_bytes(content)
    with (
        reader.open_result(tmp_path / "result.h5") as opened,
        pytest.raises(StoreError, match=r"result\.h5 is damaged or incomplete"),
    ):
        analyse(opened)


def test_a_full_disk_is_told_and_leaves_nothing(small_limits, tmp_path, monkeypatch):
    """HDF5 does not see the error: it could end the process later."""
    written = 0

    def limited(self: Any, content: Any) -> int:
        nonlocal written
        written += len(content)
        if written > 20_000:
            self.error = self.error or OSError(errno.ENOSPC, "No space left on device")
        elif self.error is None:
            self._stream.write(content)
        return len(content)

    monkeypatch.setattr(streaming._Sink, "write", limited)
    with pytest.raises(OSError, match="No space left") as caught:
        save(sample_ensemble(400), tmp_path / "result.h5")
    assert caught.value.filename == str(tmp_path / "result.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_bomb_is_not_opened(small_limits: None, tmp_path: Path):
    save(sample_ensemble(40), tmp_path / "bomb.h5")
    with h5py.File(tmp_path / "bomb.h5", "r+") as file:
        states: Any = file["states"]
        for name in ("prey", "predator"):
            del states[name]
            states.create_dataset(name, (10**9, 21), "f8", chunks=(10**6, 21))
    with (
        pytest.raises(StoreError, match="a hundred times larger than the file"),
        reader.open_result(tmp_path / "bomb.h5"),
    ):
        pass


def test_statistics_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch):
    """In blocks of a few times, with members that failed and values that are missing."""
    monkeypatch.setattr("simkit.stored.BLOCK_BYTES", 1600)
    base = sample_ensemble(50)
    values = base.states["prey"].copy()
    values[:, 4], values[5, 6], values[6, 7], values[1:, 8] = np.nan, np.nan, np.inf, np.nan
    stored: Any = {"prey": as_stored(values)}
    result = dataclasses.replace(base, states=stored)
    levels = (0.0, 0.1, 0.5, 1.0)
    told: list[tuple[int, int]] = []
    found = member_statistics(
        result, "prey", levels, lambda done, total, message: told.append((done, total))
    )
    assert len(told) > 3 and told[-1] == (21, 21)
    good = np.where(np.isfinite(values), values, np.nan)[base.succeeded]
    assert found.count.tolist() == np.isfinite(good).sum(axis=0).tolist()
    for index in range(21):
        seen = good[np.isfinite(good[:, index]), index]
        if seen.size == 0:
            assert np.isnan(found.mean[index]) and np.isnan(found.quantiles[:, index]).all()
            continue
        np.testing.assert_allclose(found.mean[index], seen.mean(), rtol=1e-14)
        assert (found.lowest[index], found.highest[index]) == (seen.min(), seen.max())
        np.testing.assert_array_equal(found.quantiles[:, index], np.quantile(seen, levels))
        if seen.size > 1:
            expected = seen.std(ddof=1)
            np.testing.assert_allclose(found.standard_deviation[index], expected, atol=1e-12)
        else:
            assert np.isnan(found.standard_deviation[index])
    everything = values[np.isfinite(values)]
    assert (found.least, found.greatest) == (everything.min(), everything.max())
    assert found.first == pytest.approx(values[:, 0].mean(), rel=1e-14)


def test_a_run_leaves_its_states_in_its_segments(small_limits: None, tmp_path: Path):
    """And they are the numbers of a run in memory, bit for bit."""
    how: dict[str, Any] = {
        "times": np.linspace(0.0, 2.0, 5),
        "method": Tsit5(rtol=1e-6, atol=1e-6),
        "parameters": {"prey_growth": np.linspace(0.4, 0.6, 11)},
        "segment": 4,
    }
    expected = simulate(LotkaVolterra(), **how)
    with begin(tmp_path / "run", {}, resume=False) as folder:
        checkpoint = Checkpoint(folder, stays=True)
        result = simulate(LotkaVolterra(), **how, checkpoint=checkpoint)
        assert all(map(is_stored, result.states.values()))
        save(result, tmp_path / "result.h5")
        folder.remove()
    again = reader.load(tmp_path / "result.h5")
    assert isinstance(again, Trajectory)
    for name, values in expected.states.items():
        assert again.states[name].tobytes() == np.ascontiguousarray(values).tobytes()
    assert again.status.tolist() == expected.status.tolist()


def test_segments_do_not_grow_with_what_is_saved(tmp_path: Path):
    assert default_segment(10**6, 256, 32) == 31250
    assert default_segment(10**6, 256, 32_000) == SEGMENT_BYTES // 32_000
    assert default_segment(10**6, 256, 10**9) == 8
    with begin(tmp_path / "run", {}, resume=False) as folder:
        checkpoint = Checkpoint(folder, stays=True)
        found = compute_in_segments(
            lambda rows: {"x": rows[:, None] * np.ones(3), "y": rows}, 10, 4, "rows", checkpoint
        )
        assert isinstance(found["x"], np.ndarray)  # small ones come along
        folder.remove()


PROGRAM = """
import resource, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from benchmarks.storage import large_ensemble
from simkit.store.writer import save
{limits}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save(large_ensemble({members}, 500), Path({path!r}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_two_hundred_megabytes_take_sixty(tmp_path: Path):
    """Written, analysed and drawn, each by a process of its own."""
    path, root = tmp_path / "result.h5", str(Path(__file__).parent.parent)
    program = PROGRAM.format(
        root=root,
        members=25_000,
        path=str(path),
        limits="import simkit.stored; simkit.stored.BLOCK_BYTES = 4 * 1024**2",
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert path.stat().st_size > 200e6
    assert int(done.stdout) < 60 * 1024  # KiB
    simkit = (
        "import sys, resource; import simkit.stored; "
        "simkit.stored.BLOCK_BYTES = 4 * 1024**2; "
        "import simkit.cli.commands.files, simkit.plots, simkit.store, simkit.analysis, click; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "from simkit.cli import main\n"
        "import atexit; atexit.register(lambda: print("
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))\n"
        "main(sys.argv[1:])"
    )
    for words in (["analyse"], ["plot", "--format", "svg", "-o", str(tmp_path / "figures")]):
        done = subprocess.run(
            [sys.executable, "-c", simkit, words[0], str(path), *words[1:]],
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(done.stdout.split()[-1]) < 60 * 1024, words
