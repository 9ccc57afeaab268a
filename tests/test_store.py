"""Result files: bit for bit, and readable by others without simkit."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import xarray as xr

from simkit.results import Fit, Provenance, Trajectory
from simkit.store import describe, load, save
from simkit.store.schema import (
    FieldSchema,
    Form,
    axis_names,
    from_link_name,
    schema_of,
    to_link_name,
)

from .samples import NAMES, sample_fit, sample_trajectory
from .store_helpers import SAMPLES, assert_same, every_dataset, save_samples


AWKWARD_NAMES = ["", "/", ".", "..", "a/b", "a.b", " ", "%2F", "%", "time", "member", "chain"]
AWKWARD_NAMES += ["draw", "group", "point", "parameter", "Räuber", "猞猁", "\n", "units"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each sample in a file; nobody changes them."""
    return save_samples(tmp_path_factory.mktemp("samples"))


# Round trips


@pytest.mark.parametrize("name", SAMPLES)
def test_what_was_saved_is_loaded(name: str, files: dict[str, Path]):
    assert_same(load(files[name]), SAMPLES[name])


def numbers(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    """Arrays of every type of number that a file holds, with NaN and infinities."""
    types = st.sampled_from(["float64", "float32", "int64", "int32", "uint8"])
    return types.flatmap(lambda dtype: hnp.arrays(np.dtype(dtype), shape))


def texts() -> st.SearchStrategy[str]:
    """Any text that HDF5 can hold, often an awkward name."""
    anything = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
    return st.sampled_from(AWKWARD_NAMES) | anything


def text_arrays(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    """Text arrays, of rank 0 as well."""
    size = int(np.prod(shape))
    return st.lists(texts(), min_size=size, max_size=size).map(
        lambda items: np.array(items, dtype=str).reshape(shape)
    )


SCALARS: dict[Form, st.SearchStrategy[Any]] = {
    Form.TEXT: texts(),
    Form.INTEGER: st.integers(-(2**63), 2**63 - 1),
    Form.NUMBER: st.floats(),
    Form.TEXTS: st.lists(texts(), max_size=3).map(tuple),
    Form.TEXTS_BY_NAME: st.dictionaries(texts(), texts(), max_size=3),
}


def values_of(field: FieldSchema, sizes: dict[str, int]) -> st.SearchStrategy[Any]:
    """What a field can hold where the axes have the given sizes."""
    if field.form in SCALARS:
        return SCALARS[field.form]
    if field.table is not None:
        inner = results(field.table, sizes)
        return st.none() | inner if field.optional else inner
    shape = tuple(
        sizes[axis.removesuffix("?")]
        for axis in field.dimensions
        if axis.removesuffix("?") in sizes
    )
    if field.form is Form.DRAWS:
        return hnp.arrays(np.float64, shape)
    if field.name == "name":
        names = st.lists(texts(), min_size=shape[0], max_size=shape[0], unique=True)
        return names.map(lambda items: np.array(items, dtype=str))
    if field.holds == "texts":
        return text_arrays(shape)
    if field.holds == "truths":
        return hnp.arrays(np.dtype(bool), shape)
    if field.form is Form.ARRAYS_BY_NAME:
        least = int(field.name in ("states", "fitted"))
        return st.dictionaries(texts(), numbers(shape), min_size=least, max_size=3)
    return numbers(shape)


def results(table: type, sizes: dict[str, int]) -> st.SearchStrategy[Any]:
    """Results or tables with random contents whose axes have the given sizes."""
    fields = {field.name: values_of(field, sizes) for field in schema_of(table)}
    return st.builds(table, **fields)


@st.composite
def any_result(draw: st.DrawFn) -> Trajectory | Fit:
    """A fit or a trajectory, single or ensemble, of any sizes."""
    size = st.integers(1, 3)
    if draw(st.booleans()):
        axes = ["time", "member"] if draw(st.booleans()) else ["time"]
        return draw(results(Trajectory, {axis: draw(size) for axis in axes}))
    axes = ["parameter", "start", "observation", "group", "point", "derived", "draw"]
    sizes = {axis: draw(size) for axis in axes}
    sizes |= {axis: draw(st.integers(0, 3)) for axis in ("derived", "draw")}
    fit = draw(results(Fit, {**sizes, "parameter_2": sizes["parameter"]}))
    if fit.uncertainty is None:
        return fit
    return fit.with_uncertainty(
        dataclasses.replace(fit.uncertainty, name=fit.parameters.name.copy())
    )


@hypothesis.settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.data_too_large,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
@hypothesis.given(result=any_result())
def test_any_result_survives(result: Trajectory | Fit, tmp_path: Path):
    path = tmp_path / "any.h5"
    save(result, path, overwrite=True)
    assert_same(load(path), result)
    for group in describe(path).attributes:
        with xr.open_dataset(path, engine="h5netcdf", group=group) as dataset:
            dataset.load()


@hypothesis.given(name=texts())
def test_names_in_the_file_can_be_undone(name: str):
    link = to_link_name(name)
    assert from_link_name(link) == name
    assert "/" not in link
    assert link not in ("", ".", *axis_names())


def test_draws_may_be_none_at_all(tmp_path: Path):
    fit = sample_fit()
    assert fit.uncertainty is not None
    none = dataclasses.replace(fit.uncertainty, draws=np.empty((0, 8)))
    result = dataclasses.replace(fit, uncertainty=none)
    save(result, tmp_path / "fit.h5")
    assert_same(load(tmp_path / "fit.h5"), result)
    posterior = xr.open_dataset(tmp_path / "fit.h5", engine="h5netcdf", group="posterior")
    assert dict(posterior.sizes) == {"chain": 1, "draw": 0}


def test_thousands_of_names_on_one_axis(tmp_path: Path):
    # The list of what hangs on a scale outgrows what the oldest HDF5 format allows.
    states = {f"cell {number}": np.array([float(number)]) for number in range(4200)}
    result = dataclasses.replace(sample_trajectory(), times=np.array([0.0]), states=states)
    save(result, tmp_path / "many.h5")
    assert_same(load(tmp_path / "many.h5"), result)


def test_long_texts(tmp_path: Path):
    provenance = Provenance(case_text="# ä\r\n" * 30_000, configuration="x" * 200_000)
    result = dataclasses.replace(sample_trajectory(), provenance=provenance)
    save(result, tmp_path / "long.h5")
    assert_same(load(tmp_path / "long.h5"), result)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_same_result_gives_the_same_file(name: str, files: dict[str, Path], tmp_path: Path):
    save(load(files[name]), tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == files[name].read_bytes()


# For other readers


@pytest.mark.parametrize("name", SAMPLES)
def test_xarray_reads_every_group(name: str, files: dict[str, Path]):
    description = describe(files[name])
    seen = 0
    for group in description.attributes:
        with xr.open_dataset(files[name], engine="h5netcdf", group=group) as dataset:
            dataset.load()
            assert not [axis for axis in dataset.dims if "phony" in str(axis)]
            for variable in description.variables:
                if variable.group == group:
                    found = dataset[variable.name]
                    assert found.dims == variable.dimensions
                    assert found.shape == variable.shape
                    assert found.attrs.get("units", "") == variable.units
                    assert found.attrs["long_name"] == variable.long_name
                    seen += 1
    assert seen == len(description.variables)


def test_xarray_sees_an_ensemble_with_labels(files: dict[str, Path]):
    result = SAMPLES["ensemble"]
    assert isinstance(result, Trajectory)
    with xr.open_dataset(files["ensemble"], engine="h5netcdf", group="states") as dataset:
        prey = dataset["prey"]
        np.testing.assert_array_equal(
            prey.sel(member=5, time=1910.0), result.states["prey"][5, 10]
        )
        assert prey.dims == ("member", "time")
        assert prey.attrs["units"] == "thousand"
        assert dataset["time"].attrs["units"] == "year"
    with xr.open_dataset(files["ensemble"], engine="h5netcdf") as dataset:
        assert dataset.attrs["Conventions"] == "CF-1.11"
        assert dataset.attrs["title"] == result.title
        assert dataset["status"].values.tolist() == result.status.tolist()


def test_xarray_sees_a_fit_with_labels(files: dict[str, Path]):
    fit = SAMPLES["fit"]
    assert isinstance(fit, Fit)
    with xr.open_dataset(files["fit"], engine="h5netcdf", group="parameters") as table:
        assert table["estimate"].sel(parameter="noise.prey") == fit.estimates["noise.prey"]
        assert table["at_bound"].dtype == bool
    with xr.open_dataset(files["fit"], engine="h5netcdf") as dataset:
        one = dataset["covariance"].sel(parameter="predation", parameter_2="conversion")
        assert one == fit.covariance[1, 3]


def test_xarray_opens_the_whole_tree(files: dict[str, Path]):
    with xr.open_datatree(files["fit"], engine="h5netcdf") as tree:
        assert "/uncertainty/curves/predictive_upper" in tree.groups
        inherited = tree["uncertainty"]["mean"].sel(parameter="predation")
        fit = load(files["fit"])
        assert isinstance(fit, Fit) and fit.uncertainty is not None
        assert inherited == fit.uncertainty.mean[1]


def test_draws_stand_once_and_as_arviz_has_them(files: dict[str, Path]):
    fit = SAMPLES["fit"]
    assert isinstance(fit, Fit) and fit.uncertainty is not None
    with xr.open_dataset(files["fit"], engine="h5netcdf", group="posterior") as posterior:
        assert list(posterior.data_vars) == NAMES.tolist()
        assert posterior["chain"].values.tolist() == [0]
        for column, name in enumerate(NAMES.tolist()):
            assert posterior[name].dims == ("chain", "draw")
            np.testing.assert_array_equal(posterior[name][0], fit.uncertainty.draws[:, column])
        assert posterior["predation"].attrs["units"] == "1/(year * thousand)"
    elsewhere = [
        variable
        for variable in describe(files["fit"]).variables
        if "draw" in variable.dimensions and variable.group != "/posterior"
    ]
    assert not elsewhere


@pytest.mark.parametrize("unit", ["s", "hours", "days", "year", "1"])
def test_units_of_time_stay_numbers(unit: str, tmp_path: Path):
    result = dataclasses.replace(sample_trajectory(), time_unit=unit)
    save(result, tmp_path / "time.h5")
    with xr.open_dataset(tmp_path / "time.h5", engine="h5netcdf") as dataset:
        assert dataset["time"].dtype == np.float64


@pytest.mark.parametrize("name", SAMPLES)
def test_every_dataset_has_a_scale_on_every_axis(name: str, files: dict[str, Path]):
    with every_dataset(files[name]) as datasets:
        for path, dataset in datasets.items():
            if not dataset.is_scale:
                assert [len(axis) for axis in dataset.dims] == [1] * dataset.ndim, path


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_that_netcdf_cannot_read(name: str, files: dict[str, Path]):
    with h5py.File(files[name]) as file:
        items: list[Any] = [file]
        file.visititems(lambda _, item: items.append(item))
        for item in items:
            for attribute in item.attrs:
                assert item.attrs.get_id(attribute).shape is not None, (item.name, attribute)
            if isinstance(item, h5py.Dataset):
                assert item.shape is not None, item.name
                assert item.dtype != bool, item.name


def test_large_arrays_are_compressed_and_checked(files: dict[str, Path]):
    with every_dataset(files["ensemble"]) as datasets:
        prey = datasets["states/prey"]
        assert (prey.compression, prey.compression_opts) == ("gzip", 4)
        assert prey.shuffle and prey.fletcher32


def test_provenance_stands_as_attributes(files: dict[str, Path]):
    attributes = describe(files["ensemble"]).attributes["/simkit"]
    assert attributes["schema_version"] == 2
    assert attributes["kind"] == "Trajectory"
    assert attributes["status"] == "1 of 40 members failed"
    for field in dataclasses.fields(Provenance):
        expected = getattr(SAMPLES["ensemble"].provenance, field.name)
        assert attributes[field.name] == expected
