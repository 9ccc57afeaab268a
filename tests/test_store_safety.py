"""Result files: written whole or not at all, safe to open, told without reading."""

import dataclasses
import fcntl
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

from simkit.results import Fit, Provenance, Trajectory
from simkit.store import StoreError, describe, load, save
from simkit.store.heaps import find_broken_heap

from .samples import sample_fit, sample_trajectory
from .store_helpers import SAMPLES, assert_same, every_dataset, save_samples


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each sample in a file; nobody changes them."""
    return save_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture
def ensemble_file(tmp_path: Path) -> Path:
    """A file that a test may spoil."""
    path = tmp_path / "ensemble.h5"
    save(SAMPLES["ensemble"], path)
    return path


# Whole or not at all


def test_an_existing_file_is_kept(ensemble_file: Path):
    before = ensemble_file.read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        save(sample_fit(), ensemble_file)
    assert ensemble_file.read_bytes() == before
    save(sample_fit(), ensemble_file, overwrite=True)
    assert isinstance(load(ensemble_file), Fit)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(
    call: str, error: BaseException, ensemble_file: Path, monkeypatch: pytest.MonkeyPatch
):
    before = ensemble_file.read_bytes()

    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)) as caught:
        save(sample_fit(), ensemble_file, overwrite=True)
    if isinstance(error, OSError):
        assert str(ensemble_file) in str(caught.value)
    assert ensemble_file.read_bytes() == before
    assert os.listdir(ensemble_file.parent) == [ensemble_file.name]


def test_a_result_that_does_not_fit_together_writes_nothing(tmp_path: Path):
    broken = dataclasses.replace(sample_trajectory(), times=np.arange(5.0))
    with pytest.raises(ValueError, match="has the size 21 along time, but times has 5"):
        save(broken, tmp_path / "broken.h5")
    assert not os.listdir(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        save(sample_trajectory(), tmp_path / "nowhere" / "a.h5")


def test_a_link_stays_a_link(tmp_path: Path):
    (tmp_path / "link.h5").symlink_to(tmp_path / "target.h5")
    save(sample_trajectory(), tmp_path / "link.h5")
    assert (tmp_path / "link.h5").is_symlink()
    assert isinstance(load(tmp_path / "target.h5"), Trajectory)


def test_others_may_read_the_file(tmp_path: Path):
    (tmp_path / "plain").touch()
    save(sample_trajectory(), tmp_path / "result.h5")
    assert (tmp_path / "result.h5").stat().st_mode == (tmp_path / "plain").stat().st_mode


TRAJECTORY = sample_trajectory()
FIT = sample_fit()
assert FIT.uncertainty is not None
UNSTORABLE: dict[str, tuple[Any, type[Exception], str]] = {
    "another object": (
        {"times": [0.0]},
        TypeError,
        "got a dict, expected a Trajectory or a Fit",
    ),
    "complex numbers": (
        dataclasses.replace(TRAJECTORY, states={"prey": np.zeros(21, dtype=complex)}),
        TypeError,
        "/states/prey has the type complex128",
    ),
    "too many axes": (
        dataclasses.replace(TRAJECTORY, states={"prey": np.zeros((2, 3, 21))}),
        ValueError,
        r"Trajectory.states\['prey'\] has the shape \(2, 3, 21\)",
    ),
    "NUL in a text": (
        dataclasses.replace(TRAJECTORY, title="a\x00b"),
        ValueError,
        "'title' of /: .* has a NUL character",
    ),
    "half a character": (
        dataclasses.replace(TRAJECTORY, states={"prey": np.full(21, "\ud800")}),
        ValueError,
        "/states/prey: .* is no valid Unicode",
    ),
    "no text": (dataclasses.replace(FIT, title=3), TypeError, "'title' of / has a int"),
    "no texts": (
        dataclasses.replace(FIT, warnings=(3,)),
        TypeError,
        "'warnings' of / has a int",
    ),
    "a large seed": (
        dataclasses.replace(TRAJECTORY, provenance=Provenance(seed=2**64)),
        ValueError,
        "'seed' of /simkit is 18446744073709551616",
    ),
    "other parameters": (
        dataclasses.replace(
            FIT, starts=dataclasses.replace(FIT.starts, initial=np.zeros((16, 7)))
        ),
        ValueError,
        "has the size 8 along parameter, but initial has 7",
    ),
    "no such parameters": (
        dataclasses.replace(FIT, covariance=np.zeros((3, 3))),
        ValueError,
        "Fit.covariance has the size 3 along parameter, which has 8 labels",
    ),
    "two parameters of one name": (
        dataclasses.replace(
            FIT, uncertainty=dataclasses.replace(FIT.uncertainty, name=np.full(8, "rate"))
        ),
        ValueError,
        "Uncertainty.name has 'rate' more than once",
    ),
}


@pytest.mark.parametrize("case", UNSTORABLE)
def test_what_cannot_be_stored_is_named(case: str, tmp_path: Path):
    result, error, message = UNSTORABLE[case]
    with pytest.raises(error, match=message):
        save(result, tmp_path / "result.h5")
    assert not os.listdir(tmp_path)


# Reading with care


def test_no_lock_is_needed(ensemble_file: Path):
    with open(ensemble_file, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            h5py.File(ensemble_file, "r")
        assert_same(load(ensemble_file), SAMPLES["ensemble"])


def test_a_file_that_xarray_has_open(ensemble_file: Path):
    with xr.open_dataset(ensemble_file, engine="h5netcdf", group="states") as dataset:
        assert_same(load(ensemble_file), SAMPLES["ensemble"])
        assert dataset["prey"].shape == (40, 21)


def test_no_such_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.h5")


def put_external_link(file: h5py.File) -> None:
    del file["states/prey"]
    file["states/prey"] = h5py.ExternalLink("other.h5", "/secret")


def put_soft_link(file: h5py.File) -> None:
    del file["states"]
    file["states"] = h5py.SoftLink("/parameters")


def put_external_storage(file: h5py.File) -> None:
    del file["states/prey"]
    file.require_group("states").create_dataset(
        "prey", (40, 21), "u1", external=[("secret", 0, 840)]
    )


def put_virtual_dataset(file: h5py.File) -> None:
    del file["states/prey"]
    layout = h5py.VirtualLayout((40, 21), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "secret", (40, 21))
    file.require_group("states").create_virtual_dataset("prey", layout)


def put_huge_array(file: h5py.File) -> None:
    del file["states/prey"]
    file.require_group("states").create_dataset("prey", (10**7, 10**6), "f8", chunks=(10, 10))


def put_wide_text(file: h5py.File) -> None:
    del file["status"]
    text = np.array(["w" * 100_000] + ["x"] * 9_999, dtype=object)
    file.create_dataset("status", data=text, dtype=h5py.string_dtype())


def put_newer_version(file: h5py.File) -> None:
    file["simkit"].attrs["schema_version"] = np.int64(7)


def put_other_kind(file: h5py.File) -> None:
    file["simkit"].attrs["kind"] = "os.system"


def put_many_kinds(file: h5py.File) -> None:
    file["simkit"].attrs["kind"] = ["Trajectory", "Fit"]


def put_no_status(file: h5py.File) -> None:
    del file["status"]


def put_no_title(file: h5py.File) -> None:
    del file.attrs["title"]


def put_number_for_title(file: h5py.File) -> None:
    file.attrs["title"] = 3


def put_other_rank(file: h5py.File) -> None:
    del file["time"]
    file["time"] = np.zeros((2, 2))


def put_compound(file: h5py.File) -> None:
    del file["status"]
    file["status"] = np.zeros(40, dtype=[("a", "f8")])


def put_bad_json(file: h5py.File) -> None:
    file.attrs["state_units"] = "{"


def put_other_json(file: h5py.File) -> None:
    file.attrs["state_units"] = '{"prey": 1}'


def put_group_for_array(file: h5py.File) -> None:
    del file["status"]
    file.create_group("status")


def put_array_for_group(file: h5py.File) -> None:
    del file["statistics"]
    file["statistics"] = 1.0


REFUSED = {
    put_external_link: "/states/prey is a link to another place",
    put_soft_link: "/states is a link to another place",
    put_external_storage: "/states/prey keeps its values in another file",
    put_virtual_dataset: "/states/prey is a virtual dataset",
    put_huge_array: "/states/prey needs more memory than the [0-9]+ bytes",
    put_wide_text: "/status needs more memory",
    put_newer_version: "has schema version 7, but this simkit reads versions up to 2; "
    "install simkit-jax 0.1.0 or newer",
    put_other_kind: "a result of the kind 'os.system', expected one of",
    put_many_kinds: "'kind' of /simkit is no single value",
    put_no_status: "/status is missing",
    put_no_title: "'title' of / is missing",
    put_number_for_title: "'title' of / is of the type int, expected str",
    put_other_rank: "/time has 2 axes",
    put_compound: "/status has the type .* expected real numbers",
    put_bad_json: "is damaged or incomplete: Expecting",
    put_other_json: "'state_units' of / is no object of texts",
    put_group_for_array: "/status is no dataset",
    put_array_for_group: "/statistics is no group",
}


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_spoilt_files_are_refused_in_one_sentence(spoil: Any, ensemble_file: Path):
    (ensemble_file.parent / "secret").write_bytes(bytes(840))
    with h5py.File(ensemble_file, "r+") as file:
        spoil(file)
    with pytest.raises(StoreError, match=REFUSED[spoil]) as caught:
        load(ensemble_file)
    message = str(caught.value)
    assert message.startswith(str(ensemble_file))
    assert "\n" not in message


def test_the_limit_is_an_argument(files: dict[str, Path]):
    with pytest.raises(StoreError, match="than the 1000 bytes"):
        load(files["fit"], max_bytes=1000)
    load(files["fit"], max_bytes=1_000_000)


def test_files_of_another_kind(tmp_path: Path):
    path = tmp_path / "file.h5"
    path.write_text("time,prey\n0,1\n")
    with pytest.raises(StoreError, match="is not an HDF5 file"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="is not an HDF5 file"):
        load(path)
    with h5py.File(path, "w") as file:
        file["x"] = 1.0
    with pytest.raises(StoreError, match="not a result file of simkit"):
        load(path)


def test_truncated_files(files: dict[str, Path], tmp_path: Path):
    content = files["fit"].read_bytes()
    path = tmp_path / "short.h5"
    for length in np.linspace(8, len(content) - 1, 60).astype(int):
        path.write_bytes(content[:length])
        with pytest.raises(StoreError, match="is damaged or incomplete"):
            load(path)


def test_damaged_files_never_surprise(files: dict[str, Path], tmp_path: Path):
    generator = np.random.default_rng(17)
    content = np.frombuffer(files["ensemble"].read_bytes(), dtype=np.uint8)
    path = tmp_path / "damaged.h5"
    refused = 0
    for _ in range(300):
        damaged = content.copy()
        where = generator.integers(content.size, size=generator.integers(1, 20))
        damaged[where] ^= generator.integers(1, 256, where.size, dtype=np.uint8)
        path.write_bytes(damaged.tobytes())
        for reader in (load, describe):
            try:
                reader(path)
            except StoreError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 50


def test_damaged_values_are_noticed(ensemble_file: Path):
    with every_dataset(ensemble_file) as datasets:
        place = datasets["states/prey"].id.get_chunk_info(0)
    content = bytearray(ensemble_file.read_bytes())
    content[place.byte_offset + place.size // 2] ^= 1
    ensemble_file.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged or incomplete"):
        load(ensemble_file)


@pytest.mark.parametrize("name", SAMPLES)
def test_lists_of_texts_without_end(name: str, files: dict[str, Path], tmp_path: Path):
    # HDF5 would search such a list for ever, so look before it is asked.
    content = bytearray(files[name].read_bytes())
    path = tmp_path / "endless.h5"
    path.write_bytes(content)
    assert find_broken_heap(path) is None
    first = content.index(b"GCOL") + 16
    content[first : first + 16] = bytes(16)
    path.write_bytes(content)
    assert find_broken_heap(path) is not None
    for reader in (load, describe):
        with pytest.raises(StoreError, match="a list of texts has no end"):
            reader(path)


# What is in a file


def test_a_description_lists_what_is_there(files: dict[str, Path]):
    description = describe(files["ensemble"])
    rows = {(row.group, row.name): row for row in description.variables}
    prey = rows["/states", "prey"]
    assert prey.dimensions == ("member", "time")
    assert prey.shape == (40, 21)
    assert (prey.type, prey.units, prey.long_name) == ("float64", "thousand", "prey")
    assert rows["/", "time"].dimensions == ("time",)
    assert rows["/", "status"].type == "text"
    assert len(rows) == len(description.variables), "each dataset once"
    fit = {(row.group, row.name): row for row in describe(files["fit"]).variables}
    assert fit["/parameters", "at_bound"].type == "bool"
    assert ("/curves", "point") not in fit, "an axis without values is no variable"


def test_a_description_reads_no_arrays(ensemble_file: Path):
    with h5py.File(ensemble_file, "r+") as file:
        put_huge_array(file)
    shapes = {row.name: row.shape for row in describe(ensemble_file).variables}
    assert shapes["prey"] == (10**7, 10**6)


def test_a_description_of_a_foreign_file(tmp_path: Path):
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        file["loop/values"] = np.zeros((2, 3))
        file["loop/again"] = file["loop"]
        file["loop"].attrs["version"] = [1, 1]
        file["loop"].attrs["author"] = np.bytes_("somebody")
        file["loop"].attrs["nothing"] = h5py.Empty("f8")
    description = describe(path)
    assert [row.dimensions for row in description.variables] == [("axis 0", "axis 1")]
    assert description.attributes["/loop"] == {"version": [1, 1], "author": "somebody"}


def test_a_description_follows_no_link(ensemble_file: Path):
    with h5py.File(ensemble_file, "r+") as file:
        put_external_link(file)
    with pytest.raises(StoreError, match="is a link to another place"):
        describe(ensemble_file)
