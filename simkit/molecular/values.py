"""What an observable is: numbers with a name, a unit and a standard error."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Average:
    """A number, or an array of a few, averaged over a trajectory.

    - `name`, `unit`: what it is; `"1"` for no unit.
    - `value`: the average, of any shape.
    - `standard_error`: of the same shape; not a number where there was too little to tell.
    """

    name: str
    unit: str
    value: np.ndarray
    standard_error: np.ndarray

    def __str__(self) -> str:
        """Name, value, error and unit in a line; large arrays are left to the reader."""
        unit = "" if self.unit == "1" else f" {self.unit}"
        if np.ndim(self.value) == 0:
            return f"{self.name}: {self.value:.6g} +- {self.standard_error:.2g}{unit}"
        return f"{self.name}: array of shape {np.shape(self.value)}{unit}"


@dataclasses.dataclass(frozen=True)
class Curve:
    """A function of one coordinate, averaged over a trajectory.

    - `name`, `unit`: what it is; `"1"` for no unit.
    - `coordinate_name`, `coordinate_unit`: what it is a function of.
    - `coordinate`: shape `(points,)`.
    - `value`, `standard_error`: shape `(points,)`; the errors of neighbouring points are
      correlated. Not a number where there was nothing to average, or too little to tell.
    """

    name: str
    unit: str
    coordinate_name: str
    coordinate_unit: str
    coordinate: np.ndarray
    value: np.ndarray
    standard_error: np.ndarray


def power_of_unit(unit: str, power: int) -> str:
    """The name of a power of a unit: `"angstrom^2"`, or `"1"` for none."""
    return "1" if unit == "1" else unit if power == 1 else f"{unit}^{power}"


def ratio_of_units(above: str, below: str) -> str:
    """The name of a ratio of units: `"angstrom^2/ps"`."""
    return above if below == "1" else f"{above}/{below}"
