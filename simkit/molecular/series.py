"""Quantities of each frame of a molecular trajectory in a file."""

import numpy as np

from simkit.molecular.findings import Series
from simkit.molecular.values import power_of_unit
from simkit.store.h5md_frames import FrameFile


@np.errstate(all="ignore")  # numbers near the largest overflow in sums
def frame_series(file: FrameFile) -> dict[str, Series]:
    """Quantities over time that have a finite value in each frame, by name.

    Those of the file, and what follows from them: the pressure from its tensor, the total
    energy, volume and number density from the box.
    """
    found: dict[str, Series] = {}
    for name, item in file.observables.items():
        unit = item.unit or "1"
        if name == "pressure_tensor" and item.values.ndim == 3:
            found["pressure"] = Series(unit, np.trace(item.values, axis1=1, axis2=2) / 3)
        elif item.values.ndim == 1 and name != "volume":
            found[name] = Series(unit, item.values)
    if {"potential_energy", "kinetic_energy"} <= set(found):
        total = found["potential_energy"].values + found["kinetic_energy"].values
        found["total_energy"] = Series(found["potential_energy"].unit, total)
    if file.box_vectors is not None:
        length = file.units.get("length", "1")
        volume = np.abs(np.linalg.det(file.box_vectors))
        if np.all(volume > 0):
            found["volume"] = Series(power_of_unit(length, 3), volume)
            inverse = "1" if length == "1" else f"{length}^-3"
            found["density"] = Series(inverse, file.particles / volume)
    return {name: item for name, item in found.items() if np.all(np.isfinite(item.values))}
