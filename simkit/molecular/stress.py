"""Averages of pressure and stress over a trajectory."""

import numpy as np
from jaxtyping import ArrayLike, Float

from simkit.molecular.block_errors import block_average
from simkit.molecular.values import Average


def average_pressure(
    pressure_tensor: Float[ArrayLike, "frames 3 3"], *, unit: str = "1"
) -> Average:
    """The mean pressure, a third of the trace of the pressure tensor, with its error.

    **Arguments:**

    - `pressure_tensor`: of each frame, shape `(frames, 3, 3)`, as a trajectory has it.
    - `unit`: name of its unit.

    Raises `ValueError` for a wrong shape, no frames, and numbers that are not finite.
    """
    tensor = _checked(pressure_tensor)
    return Average("pressure", unit, *block_average(np.trace(tensor, axis1=1, axis2=2) / 3))


def average_stress(
    pressure_tensor: Float[ArrayLike, "frames 3 3"], *, unit: str = "1"
) -> Average:
    """The mean Cauchy stress, with its error: the negative of the pressure tensor, `(3, 3)`.

    Tension is positive. Arguments and errors are those of
    [`average_pressure`][simkit.molecular.stress.average_pressure].
    """
    return Average("stress", unit, *block_average(-_checked(pressure_tensor)))


def _checked(pressure_tensor: Float[ArrayLike, "frames 3 3"]) -> np.ndarray:
    tensor = np.asarray(pressure_tensor, float)
    if tensor.ndim != 3 or tensor.shape[1:] != (3, 3) or len(tensor) == 0:
        raise ValueError(
            f"The pressure tensor has shape {tensor.shape}, expected (frames, 3, 3)."
        )
    return tensor
