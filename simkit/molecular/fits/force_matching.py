r"""Force matching: a model fitted to the forces and energies of another one.

$$\min_\theta \; \frac12 \sum_{n} \Big[ \sum_{i} \frac{|F_i(x_n; \theta) - F_{in}|^2}{s_F^2}
  + \frac{(U(x_n; \theta) + c - U_n)^2}{s_U^2} \Big]$$

over configurations $n$, by Levenberg-Marquardt. Source: F. Ercolessi, J. B. Adams, Europhys.
Lett. 26, 583 (1994).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from simkit.molecular.fits.parameters import ModelParameters, choose_parameters
from simkit.molecular.frames import Boxes, boxes_of_frames, checked_positions, shortest_height
from simkit.precision import use_double_precision
from solvers.optimisers.base import LeastSquares, Optimum, optimise
from solvers.optimisers.least_squares import LevenbergMarquardt
from systems.molecular.boxes import AbstractBox
from systems.molecular.model import MolecularModel


# Relative difference below which forces are the same.
_EXACT = 1e-10


@dataclasses.dataclass(frozen=True)
class ForceMatch:
    """A model fitted to forces.

    - `model`: with the fitted parameters.
    - `names`: of the fitted numbers; `estimate`, `standard_error`: shape `(numbers,)`.
    - `covariance`: of the estimates, shape `(numbers, numbers)`.
    - `energy_offset`: the constant added to energies; zero where none was fitted.
    - `force_error`, `energy_error`: root mean square of what remains, of a component of a
      force and of an energy; not a number where these were not fitted.
    - `optimum`: what the optimiser said.
    """

    model: MolecularModel
    names: tuple[str, ...]
    estimate: np.ndarray
    standard_error: np.ndarray
    covariance: np.ndarray
    energy_offset: float
    force_error: float
    energy_error: float
    optimum: Optimum


class _Data(eqx.Module):
    """Frames with what is known of each; deviations divide the differences."""

    positions: Float[Array, "frames particles 3"]
    boxes: AbstractBox
    forces: Float[Array, "frames particles 3"]
    energies: Float[Array, " frames"] | None
    force_deviation: Float[Array, ""]
    energy_deviation: Float[Array, ""]
    parameters: ModelParameters
    offset: bool = eqx.field(static=True)


def match_forces(
    model: MolecularModel,
    positions: Float[ArrayLike, "frames particles 3"],
    forces: Float[ArrayLike, "frames particles 3"],
    box: Boxes = None,
    *,
    names: Sequence[str] | None = None,
    energies: Float[ArrayLike, " frames"] | None = None,
    force_deviation: float = 1.0,
    energy_deviation: float = 1.0,
    offset: bool = True,
    errors: Literal["independent", "frames"] = "independent",
    max_steps: int = 200,
) -> ForceMatch:
    """Fit a model to forces, and energies, of configurations.

    **Arguments:**

    - `model`: where the parameters start.
    - `positions`, `forces`: shape `(frames, particles, 3)`, in the model's units.
    - `box`: the box, the box vectors of each frame, or `None` for an open one.
    - `names`: which parameters are fitted, see
      [`parameter_declarations`][systems.base.parameter_declarations]; all of the terms if
      left out.
    - `energies`: shape `(frames,)`, if they shall be fitted too.
    - `force_deviation`, `energy_deviation`: standard deviations of a component of a force
      and of an energy; their ratio weighs the two, their size is taken from what remains.
    - `offset`: whether energies count up to a constant, which is fitted.
    - `errors`: `"independent"` takes all differences as independent; `"frames"` those of
      different frames only, which needs many frames and is right for a model that cannot
      follow the forces exactly.
    - `max_steps`: of the optimiser.

    Raises `ValueError` for arrays that do not fit the model or each other, unknown names, and
    a box narrower than twice the range; `OptimisationError` if the fit did not converge.
    """
    use_double_precision()
    parameters = choose_parameters(model, names)
    data = _checked_data(
        parameters, positions, forces, box, energies, force_deviation, energy_deviation, offset
    )
    extra = [0.0] if data.energies is not None and offset else []
    start = jnp.asarray(np.concatenate([parameters.start, extra]))
    if extra:
        # The mean difference is the best constant at the start.
        start = start.at[-1].set(-jnp.mean(_energy_residuals(start, data)) * energy_deviation)
    question = LeastSquares(_residuals)
    # The residuals are dear: geodesic acceleration and exact last steps would double them.
    # A model that follows the forces to so many digits is the true one; what is left then
    # is rounding, which falls no further.
    size = float(jnp.linalg.norm(data.forces.ravel())) / force_deviation
    method = LevenbergMarquardt(acceleration=0.0, newton_limit=0, atol=_EXACT * size)
    optimum = optimise(question, method, start, data, max_steps=max_steps)
    return _answer(optimum, data, errors)


def _answer(optimum: Optimum, data: _Data, errors: str) -> ForceMatch:
    vector, parameters = optimum.value, data.parameters
    residuals, jacobian = _linearised(vector, data)
    left = {name: np.asarray(value) for name, value in residuals.items()}
    slopes = {name: np.asarray(value) for name, value in jacobian.items()}
    covariance = _covariance(left, slopes, errors)
    count = len(parameters.labels)
    scale = parameters.slopes(np.asarray(vector)[:count])
    covariance = covariance[:count, :count] * np.outer(scale, scale)
    energy_error = float("nan")
    if "energies" in left:
        energy_error = _root_mean_square(left["energies"]) * float(data.energy_deviation)
    return ForceMatch(
        model=parameters.at(vector[:count]),
        names=parameters.labels,
        estimate=np.asarray(parameters.values(vector[:count])),
        standard_error=np.sqrt(np.diag(covariance)),
        covariance=covariance,
        energy_offset=float(vector[count]) if len(vector) > count else 0.0,
        force_error=_root_mean_square(left["forces"]) * float(data.force_deviation),
        energy_error=energy_error,
        optimum=optimum,
    )


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _residuals(vector: Float[Array, " numbers"], data: _Data) -> dict[str, Array]:
    """Differences over deviations, frame by frame."""
    parameters = data.parameters
    count = len(parameters.logarithmic)
    model = parameters.at(vector[:count])

    def frame(part: tuple[Array, AbstractBox]) -> tuple[Array, Array]:
        found = model.evaluate(*part)
        return found.forces, found.energy

    forces, energies = jax.lax.map(frame, (data.positions, data.boxes))
    residuals = {"forces": (forces - data.forces) / data.force_deviation}
    if data.energies is not None:
        shift = vector[count] if data.offset else 0.0
        residuals["energies"] = (energies + shift - data.energies) / data.energy_deviation
    return residuals


def _energy_residuals(vector: Float[Array, " numbers"], data: _Data) -> Array:
    return eqx.filter_jit(_residuals)(vector, data)["energies"]


@eqx.filter_jit
def _linearised(
    vector: Float[Array, " numbers"], data: _Data
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Residuals, and their Jacobian."""
    return _residuals(vector, data), jax.jacfwd(_residuals)(vector, data)


def _covariance(
    residuals: dict[str, np.ndarray], jacobian: dict[str, np.ndarray], errors: str
) -> np.ndarray:
    """Of the vector, from what remains."""
    rows = np.concatenate([v.ravel() for v in residuals.values()])
    columns = np.concatenate([v.reshape(-1, v.shape[-1]) for v in jacobian.values()])
    numbers = columns.shape[1]
    bread = np.linalg.inv(columns.T @ columns)
    if errors == "independent":
        return bread * (rows @ rows) / max(len(rows) - numbers, 1)
    frames = len(residuals["forces"])
    scores = np.zeros((frames, numbers))
    for name, values in residuals.items():
        slopes = jacobian[name].reshape(frames, -1, numbers)
        scores += np.einsum("fr,frp->fp", values.reshape(frames, -1), slopes)
    return bread @ (scores.T @ scores) @ bread * frames / max(frames - numbers, 1)


def _checked_data(
    parameters: ModelParameters,
    positions: Any,
    forces: Any,
    box: Boxes,
    energies: Any,
    force_deviation: float,
    energy_deviation: float,
    offset: bool,
) -> _Data:
    places, pulls = checked_positions(positions), checked_positions(forces, "forces")
    model = parameters.model
    if places.shape[1] != model.particles or pulls.shape != places.shape:
        raise ValueError(
            f"The positions have shape {places.shape} and the forces {pulls.shape}, expected "
            f"(frames, {model.particles}, 3) for both."
        )
    height = shortest_height(box, len(places))
    if model.range is not None and height < 2 * model.range:
        raise ValueError(
            f"The box is {height:.6g} wide, less than twice the range {model.range:.6g} of "
            "the model."
        )
    for name, deviation in (("force", force_deviation), ("energy", energy_deviation)):
        if not deviation > 0:
            raise ValueError(f"The {name} deviation is {deviation}, expected above zero.")
    known = None if energies is None else np.asarray(energies, float)
    if known is not None and (known.shape != (len(places),) or not np.all(np.isfinite(known))):
        raise ValueError(
            f"The energies have shape {known.shape}, expected ({len(places)},) finite numbers."
        )
    return _Data(
        positions=jnp.asarray(places, float),
        boxes=boxes_of_frames(box, len(places)),
        forces=jnp.asarray(pulls, float),
        energies=None if known is None else jnp.asarray(known),
        force_deviation=jnp.asarray(force_deviation, float),
        energy_deviation=jnp.asarray(energy_deviation, float),
        parameters=parameters,
        offset=offset,
    )
