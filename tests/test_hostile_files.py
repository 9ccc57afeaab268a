"""Files made to do harm, and result files changed at random: one sentence, or a result.

`SIMKIT_MUTATIONS=2000` makes so many changed files rather than the few of every day.
"""

import faulthandler
import hashlib
import os
import pickle
import resource
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from simkit.analysis import analyse
from simkit.cli.application import cli
from simkit.cli.summaries import as_json, summary
from simkit.plots.collection import save_figures
from simkit.plots.report import report_page
from simkit.store import StoreError, describe, load, save
from simkit.store.segments import read_segment, segment_path, write_segment

from .helpers_mutations import mutated, small_fit, small_trajectory


MUTATIONS = int(os.environ.get("SIMKIT_MUTATIONS", "200"))
"""So many changed files are read, half of them trajectories, half fits."""
MOST_SECONDS = 10.0
MOST_BYTES = 2 * 1024**3


@pytest.fixture
def file(tmp_path: Path) -> Iterator[h5py.File]:
    """A trajectory in a file that a test may spoil."""
    save(small_trajectory(), tmp_path / "result.h5")
    with h5py.File(tmp_path / "result.h5", "r+") as file:
        yield file


def _closed(file: h5py.File) -> Path:
    path = Path(file.filename)
    file.close()
    return path


def _peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _replace(file: h5py.File, **how: Any) -> h5py.Dataset:
    del file["states/position"]
    return file.require_group("states").create_dataset("position", **how)


# Bombs: little in the file, much in memory or time


def _inflated(size: int) -> bytes:
    packer = zlib.compressobj(9)
    zeros = bytes(2**20)
    return b"".join(packer.compress(zeros) for _ in range(size >> 20)) + packer.flush()


def put_full_chunk(file: h5py.File) -> None:
    # A chunk of 32 bytes that inflates to 300 MiB: HDF5 would hold all of them at once.
    dataset = _replace(file, shape=(4,), dtype="f8", chunks=(4,), compression="gzip")
    dataset.id.write_direct_chunk((0,), _inflated(300 * 2**20))


def put_full_chunk_without_shuffle(file: h5py.File) -> None:
    # The mask of the chunk says that it went without the first filter, but not the second.
    how = {"chunks": (4,), "compression": "gzip", "shuffle": True}
    dataset = _replace(file, shape=(4,), dtype="f8", **how)
    dataset.id.write_direct_chunk((0,), _inflated(300 * 2**20), filter_mask=1)


def put_large_chunk(file: h5py.File) -> None:
    # Four numbers in a chunk of 2 GiB, which is decoded as a whole.
    how = {"maxshape": (None,), "chunks": (2**28 - 1,), "compression": "gzip"}
    _replace(file, shape=(4,), dtype="f8", **how)


def put_zeros(file: h5py.File) -> None:
    _replace(file, shape=(2**27,), dtype="f8", chunks=(2**17,), compression="gzip")


def put_many_chunks(file: h5py.File) -> None:
    _replace(file, shape=(10**6,), dtype="f8", chunks=(1,))


def put_size_that_wraps_around(file: h5py.File) -> None:
    # 2^64 bytes and 32 more: the size of a dataset in h5py is then 32.
    _replace(file, shape=(2**32, 2**29 + 1), dtype="f8", chunks=(8, 8))


def put_10_to_the_13(file: h5py.File) -> None:
    _replace(file, shape=(10**13,), dtype="f8", chunks=(1000,))


def put_double_compression(file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((4,))
    properties.set_deflate(9)
    properties.set_deflate(9)
    del file["states/position"]
    space = h5py.h5s.create_simple((4,))
    h5py.h5d.create(file["states"].id, b"position", h5py.h5t.NATIVE_DOUBLE, space, properties)


def put_other_filter(file: h5py.File) -> None:
    _replace(file, data=np.zeros(4), chunks=(4,), compression="lzf")


BOMBS = {
    put_full_chunk: "/states/position has a chunk that holds more than its size",
    put_full_chunk_without_shuffle: "/states/position has a chunk that holds more",
    put_large_chunk: "/states/position needs more memory",
    put_zeros: "/states/position needs more memory",
    put_many_chunks: "/states/position needs more memory",
    put_size_that_wraps_around: "/states/position needs more memory",
    put_10_to_the_13: "/states/position needs more memory",
    put_double_compression: "/states/position is encoded by gzip after gzip",
    put_other_filter: "/states/position is encoded by the filter 32000 of HDF5",
}


@pytest.mark.parametrize("spoil", BOMBS, ids=lambda spoil: spoil.__name__)
def test_bombs_are_refused_before_they_go_off(spoil: Any, file: h5py.File) -> None:
    spoil(file)
    path = _closed(file)
    before, began = _peak(), time.process_time()
    with pytest.raises(StoreError, match=BOMBS[spoil]) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert time.process_time() - began < 1
    assert _peak() - before < 100 * 2**20
    describe(path)
    for command in ("plot", "report"):
        answer = CliRunner().invoke(cli, [command, str(path)])
        assert answer.exit_code == 2
        assert answer.stderr.startswith(f"Error: {path}: /states/position ")
        assert answer.stderr.count("\n") == 1
    assert os.listdir(path.parent) == [path.name]


def test_what_a_caller_allows_is_read(file: h5py.File) -> None:
    # An ensemble of which every solve failed is nothing but NaN, and compresses well.
    del file["states"], file["time"], file["status"], file["statistics"], file["parameters"]
    how = {"dtype": "f8", "chunks": (2**20,), "compression": "gzip", "fillvalue": np.nan}
    states = file.create_group("states")
    states.create_dataset("position", (10**7,), **how)
    file.create_dataset("time", (10**7,), **how)
    file["status"] = "it failed"
    for name in ("statistics", "parameters"):
        file.create_group(name)
    path = _closed(file)
    with pytest.raises(StoreError, match=r"a larger max_bytes of simkit\.store\.load"):
        load(path)
    assert load(path, max_bytes=2**30).status == "it failed"


def test_one_long_text_in_thousands_of_attributes(file: h5py.File) -> None:
    file.attrs["long"] = "w" * 60_000
    for index in range(500):
        file["states/position"].attrs[f"text {index}"] = "w" * 60_000
    path = _closed(file)
    with pytest.raises(StoreError, match="needs more memory"):
        describe(path)
    load(path)


def test_nested_groups(file: h5py.File) -> None:
    file["/".join(["down"] * 200)] = 1.0
    path = _closed(file)
    with pytest.raises(StoreError, match="nested too deeply"):
        describe(path)
    load(path)


def put_group_in_itself(file: h5py.File) -> None:
    file["states/loop"] = file["states"]


def put_root_in_a_group(file: h5py.File) -> None:
    del file["states"]
    file["states"] = file["/"]


def put_soft_loop(file: h5py.File) -> None:
    del file["states/position"]
    file["states/position"] = h5py.SoftLink("/states/other")
    file["states/other"] = h5py.SoftLink("/states/position")


@pytest.mark.parametrize("spoil", [put_group_in_itself, put_root_in_a_group, put_soft_loop])
def test_loops_of_links_are_left(spoil: Any, file: h5py.File) -> None:
    spoil(file)
    path = _closed(file)
    with pytest.raises(StoreError, match=r"is no dataset|is a link to another place"):
        load(path)
    if spoil is not put_soft_loop:
        assert len(describe(path).variables) > 3


def test_a_list_of_scales_of_another_type(file: h5py.File) -> None:
    # The library itself ends the process where it looks for scales in such a list.
    for dataset, value in {"position": np.float64(1.0), "velocity": "text"}.items():
        del file[f"states/{dataset}"].attrs["DIMENSION_LIST"]
        file[f"states/{dataset}"].attrs["DIMENSION_LIST"] = value
    rows = {row.name: row.dimensions for row in describe(_closed(file)).variables}
    assert rows["position"] == rows["velocity"] == ("axis 0",)


def test_names_cannot_break_the_sentence(file: h5py.File) -> None:
    file["states/two\nlines\x1b[31m"] = h5py.SoftLink("/time")
    path = _closed(file)
    for reader in (load, describe):
        with pytest.raises(StoreError, match=r"/states/two\\nlines\\x1b\[31m is a link"):
            reader(path)


def test_a_newer_file_without_a_version_to_install(file: h5py.File) -> None:
    file["simkit"].attrs["schema_version"] = np.int64(99)
    path = _closed(file)
    with pytest.raises(StoreError, match="; install a newer simkit-jax, which reads it"):
        load(path)


# Segments of runs


def _sealed(path: Path, change: Callable[[h5py.File], None]) -> None:
    """Change a segment and give it the checksum that it would have."""
    end = len(b"simkit-sha256:") + hashlib.sha256().digest_size
    path.write_bytes(path.read_bytes()[:-end])
    with h5py.File(path, "r+") as file:
        change(file)
    image = path.read_bytes()
    path.write_bytes(image + b"simkit-sha256:" + hashlib.sha256(image).digest())


def test_segments_that_are_sealed_but_made_to_do_harm(tmp_path: Path) -> None:
    def bomb(file: h5py.File) -> None:
        dataset = file.create_dataset("x", (4,), "f8", chunks=(4,), compression="gzip")
        dataset.id.write_direct_chunk((0,), _inflated(2**20))

    def links(file: h5py.File) -> None:
        for index in range(1000):
            file[f"again {index}"] = file["a"]

    def outside(file: h5py.File) -> None:
        file["x"] = h5py.ExternalLink("other.h5", "/secret")

    for change in (bomb, links, outside):
        write_segment(tmp_path, 0, {"a": np.arange(1000.0)})
        assert read_segment(tmp_path, 0)["a"].size == 1000
        _sealed(segment_path(tmp_path, 0), change)
        with pytest.raises(StoreError, match=r"is no segment of a run|is a link"):
            read_segment(tmp_path, 0)


# Changed at random


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trajectory", "fit"])
def test_changed_files_give_a_sentence_or_a_result(kind: str, tmp_path: Path) -> None:
    """What is behind `show`, `analyse`, `plot`, `report`: no traceback, hang or much memory.

    Results that are the same as one that was drawn are not drawn again.
    """
    path = tmp_path / "result.h5"
    save(small_trajectory() if kind == "trajectory" else small_fit(), path)
    content = path.read_bytes()
    generator = np.random.default_rng([20261121, MUTATIONS, kind == "fit"])
    before, drawn, refused = _peak(), set(), 0
    for number in range(MUTATIONS // 2):
        changed, words = mutated(content, generator, tmp_path)
        path.write_bytes(changed)
        faulthandler.dump_traceback_later(30 * MOST_SECONDS, exit=True)  # a hang within HDF5
        began = time.process_time()  # other programs must not matter
        try:
            refused += not _use(path, drawn)
        except Exception as error:
            raise AssertionError(f"number {number}: {words}") from error
        finally:
            faulthandler.cancel_dump_traceback_later()
        assert time.process_time() - began < MOST_SECONDS, f"number {number}: {words}"
    assert _peak() - before < MOST_BYTES
    assert refused > MUTATIONS // 8
    assert len(drawn) > MUTATIONS // 50


def _use(path: Path, drawn: set[bytes]) -> bool:
    """Whether the file could be read; what it holds is drawn if it is new."""
    told = _read(describe, path)
    found = _read(load, path)
    if told is None or found is None:
        return False
    kept = pickle.dumps(found)
    if kept not in drawn:
        drawn.add(kept)
        with warnings.catch_warnings():
            # Numbers near the largest overflow, which NumPy tells and nothing is made of.
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.simplefilter("ignore", UserWarning)
            as_json(summary(found, {}))
            as_json(analyse(found).values)
            report_page(found)
            if MUTATIONS > 200:
                save_figures(found, path.parent / "figures", ("png",))
    return True


def _read(reader: Callable[[Path], Any], path: Path) -> Any:
    """What a reader makes of a file; `None` where it is refused."""
    try:
        return reader(path)
    except StoreError as error:
        assert str(error).startswith(str(path))
        assert str(error).isprintable()
        return None
