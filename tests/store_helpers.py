"""What the tests of the store share."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simkit.store import save

from .samples import sample_ensemble, sample_fit, sample_trajectory


SAMPLES = {
    "trajectory": sample_trajectory(),
    "ensemble": sample_ensemble(40),
    "fit": sample_fit(),
    "fit without uncertainty": sample_fit(with_uncertainty=False),
}


def save_samples(folder: Path) -> dict[str, Path]:
    """Each sample in a file."""
    paths = {name: folder / f"{name}.h5" for name in SAMPLES}
    for name, path in paths.items():
        save(SAMPLES[name], path)
    return paths


def assert_same(left: Any, right: Any, where: str = "result") -> None:
    """Two results are equal bit for bit, apart from the width of text arrays."""
    assert type(left) is type(right), where
    if dataclasses.is_dataclass(left):
        for field in dataclasses.fields(left):
            name = field.name
            assert_same(getattr(left, name), getattr(right, name), f"{where}.{name}")
    elif isinstance(left, dict):
        assert list(left) == list(right), where
        for key in left:
            assert_same(left[key], right[key], f"{where}[{key!r}]")
    elif isinstance(left, np.ndarray):
        assert left.shape == right.shape, where
        if left.dtype.kind == "U":
            assert right.dtype.kind == "U", where
            assert left.tolist() == right.tolist(), where
        else:
            assert left.dtype == right.dtype, where
            assert left.tobytes() == right.tobytes(), where
    elif isinstance(left, float):
        assert np.float64(left).tobytes() == np.float64(right).tobytes(), where
    else:
        assert left == right, where


@contextlib.contextmanager
def every_dataset(path: Path) -> Iterator[dict[str, h5py.Dataset]]:
    """All datasets of a file, each once."""
    found: dict[str, h5py.Dataset] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    with h5py.File(path, "r") as file:
        file.visititems(keep)
        yield found
