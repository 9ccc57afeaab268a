"""Posterior draws in the layout of ArviZ: one dataset for each parameter.

The group `/posterior` has the axes `chain` (one: the draws are independent) and `draw`.
It is the only place where draws stand. See the InferenceData schema of ArviZ.
"""

from collections.abc import Mapping

import h5py
import numpy as np

from simkit.results import Provenance
from simkit.store.datasets import write_array, write_attribute, write_scale
from simkit.store.guard import Guard
from simkit.store.schema import POSTERIOR_GROUP, Form, StoreError, from_link_name, to_link_name


AXES = ("chain", "draw")
"""Axes of the draws, known in this group alone."""


def write(
    file: h5py.File,
    names: list[str],
    units: Mapping[str, str],
    draws: np.ndarray,
    provenance: Provenance,
) -> None:
    """Write draws of shape `(draw, parameter)`.

    Raises `ValueError` if two parameters have the same name.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"Uncertainty.name has {repeated[0]!r} more than once.")
    group = file.create_group(POSTERIOR_GROUP, track_order=True)
    for name, text in {
        "created_at": provenance.stopped,
        "creation_library": "simkit-jax",
        "inference_library": "simkit-jax",
    }.items():
        write_attribute(group, name, Form.TEXT, text)
    scales = tuple(
        write_scale(group, axis, size, np.arange(size), {"long_name": f"number of the {axis}"})
        for axis, size in zip(AXES, (1, draws.shape[0]), strict=True)
    )
    for column, name in enumerate(names):
        attributes = {"long_name": name}
        if name in units:
            attributes["units"] = units[name]
        values = np.ascontiguousarray(draws[:, column])[np.newaxis]
        write_array(group, to_link_name(name), values, scales, attributes)


def read(guard: Guard, names: list[str]) -> np.ndarray:
    """The draws, shape `(draw, parameter)`, with the parameters in the order of `names`.

    Raises `StoreError` if the draws of a parameter are missing or differ in number.
    """
    group = guard.group(guard.file, POSTERIOR_GROUP)
    number = guard.array(group, "draw", 1).size
    links = {from_link_name(link): link for link in map(str, group) if link not in AXES}
    columns = []
    for name in names:
        values = guard.array(group, links.get(name, to_link_name(name)), 2)
        if values.shape != (1, number):
            raise StoreError(
                f"{guard.path}: the draws of {name!r} have the shape {values.shape}, "
                f"expected {(1, number)}."
            )
        columns.append(values[0])
    return np.stack(columns, axis=1) if columns else np.empty((number, 0))
