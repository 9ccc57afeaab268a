r"""Averages over configurations as functions of the parameters, without new dynamics.

Samples of one or more states with energies $U(x; \theta_k)$ are weighted for another
$\theta$, and the derivative of an average is that of its weights, the score function:

$$\frac{d\langle A \rangle}{d\theta} = \Big\langle \frac{dA}{d\theta} \Big\rangle
  - \frac{1}{kT} \Big\langle (A - \langle A \rangle) \frac{dU}{d\theta} \Big\rangle$$

so that no trajectory is differentiated. Source: S. Thaler, J. Zavadlav, Nat. Commun. 12, 6884
(2021).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from simkit.molecular.fits.mbar import effective_size, free_energies, log_mixture
from simkit.molecular.fits.parameters import ModelParameters
from simkit.molecular.fits.sampling import Configurations
from systems.molecular.boxes import AbstractBox
from systems.molecular.model import MolecularModel


Trajectory = Float[ArrayLike, "frames particles 3"]


@dataclasses.dataclass(frozen=True)
class Target:
    """A measured average, and how a configuration shows it.

    - `name`: for tables and sentences.
    - `observe`: called as `observe(positions, box)`, or as `observe(model, positions, box)`
      if `of_model`; gives the observable of one configuration, shape `(components,)`. A
      [`StructureFactor`][simkit.molecular.structure_factors.StructureFactor] or a
      [`RadialDistribution`][simkit.molecular.radial_distributions.RadialDistribution], or
      any function of jax.
    - `measured`: what its average is to be, shape `(points,)`.
    - `deviation`: standard deviation of each, shape `(points,)` or one number.
    - `matrix`, `offset`: what is compared is `offset + matrix @ average`, shape `(points,
      components)` and `(points,)`; left out, the average itself.
    - `of_model`: whether the observable depends on the model too, as a pressure does.
    """

    name: str
    observe: Callable[..., Float[Array, " components"]]
    measured: Float[np.ndarray, " points"]
    deviation: Float[ArrayLike, "..."]
    matrix: Float[np.ndarray, "points components"] | None = None
    offset: Float[ArrayLike, "..."] = 0.0
    of_model: bool = False

    def __post_init__(self) -> None:
        measured = np.atleast_1d(np.asarray(self.measured, float))
        deviation = np.broadcast_to(np.asarray(self.deviation, float), measured.shape)
        for name, bad in (
            ("measured value", ~np.isfinite(measured)),
            ("deviation", ~((deviation > 0) & np.isfinite(deviation))),
        ):
            if np.any(bad):
                place = int(np.argmax(bad))
                raise ValueError(
                    f"Target {self.name!r}: {name} {place} is "
                    f"{(measured if name[0] == 'm' else deviation)[place]}, expected a "
                    f"{'finite' if name[0] == 'm' else 'positive'} number."
                )
        object.__setattr__(self, "measured", measured)
        object.__setattr__(self, "deviation", deviation)


@dataclasses.dataclass(frozen=True)
class Frames:
    """Configurations of one state, and what was computed of them.

    - `vector`: the parameters that they were drawn with.
    - `configurations`: positions and box.
    - `fixed`: observables that do not depend on the model, compared as they are,
      shape `(frames, points)`; columns of the others are zero.
    """

    vector: np.ndarray
    configurations: Configurations
    fixed: np.ndarray


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Averages at some parameters, by reweighting.

    - `vector`: the parameters.
    - `weights`: of all frames of the pool, shape `(samples,)`.
    - `values`: observables of each frame, shape `(samples, points)`.
    - `scores`: derivative of energy over $kT$, shape `(samples, numbers)`.
    - `explicit`: mean derivative of the observables themselves, shape `(points, numbers)`.
    - `average`: shape `(points,)`.
    - `jacobian`: of the average by the vector, shape `(points, numbers)`.
    - `effective`: the effective number of samples.
    """

    vector: np.ndarray
    weights: np.ndarray
    values: np.ndarray
    scores: np.ndarray
    explicit: np.ndarray
    average: np.ndarray
    jacobian: np.ndarray
    effective: float

    @property
    def metric(self) -> np.ndarray:
        """Covariance of the scores, `(numbers, numbers)`: how fast samples lose their use."""
        centred = self.scores - self.weights @ self.scores
        return centred.T @ (self.weights[:, None] * centred)


class Reweighting:
    """Targets, a temperature and parameters: computes averages from pools of frames."""

    def __init__(self, parameters: ModelParameters, targets: tuple[Target, ...], beta: float):
        """`beta` is one over $kT$, in the model's unit of energy."""
        self.parameters, self.targets, self.beta = parameters, targets, beta
        self.measured = np.concatenate([target.measured for target in targets])
        self.deviation = np.concatenate([np.asarray(target.deviation) for target in targets])
        self.explicit = any(target.of_model for target in targets)

    def frames(self, vector: np.ndarray, found: Configurations) -> Frames:
        """Observables of new configurations.

        Raises `ValueError` for observables whose shape does not fit the measured values.
        """
        columns = []
        for target in self.targets:
            if target.of_model:
                columns.append(np.zeros((len(found.positions), len(target.measured))))
                continue
            raw = np.asarray(_observables(_as_tree(target.observe), found.positions, found.box))
            columns.append(self._compared(target, raw.reshape(len(raw), -1)))
        return Frames(np.asarray(vector, float), found, np.concatenate(columns, axis=1))

    def energies(self, vector: np.ndarray, frames: Frames) -> np.ndarray:
        """Energy over $kT$ of each frame, shape `(frames,)`."""
        found = frames.configurations
        return self.beta * np.asarray(
            _energies(self.parameters, jnp.asarray(vector), found.positions, found.box)
        )

    def predict(
        self, vector: np.ndarray, pool: list[Frames], mixture: np.ndarray
    ) -> Prediction:
        """Averages and their Jacobian at some parameters from the frames of a pool."""
        vector = np.asarray(vector, float)
        parts = [self._of_frames(vector, frames) for frames in pool]
        energies, scores, values, slopes = (
            np.concatenate(part) for part in zip(*parts, strict=True)
        )
        logs = -energies - mixture
        weights = np.exp(logs - np.max(logs))
        weights = weights / np.sum(weights)
        average = weights @ values
        explicit = np.tensordot(weights, slopes, axes=1)
        centred = scores - weights @ scores
        jacobian = explicit - (values - average).T @ (weights[:, None] * centred)
        return Prediction(
            vector=vector,
            weights=weights,
            values=values,
            scores=scores,
            explicit=explicit,
            average=average,
            jacobian=jacobian,
            effective=float(effective_size(jnp.asarray(weights))),
        )

    def residuals(self, found: Prediction) -> np.ndarray:
        """Differences over deviations, shape `(points,)`."""
        return (found.average - self.measured) / self.deviation

    def scaled_jacobian(self, found: Prediction) -> np.ndarray:
        """Derivatives of the residuals, shape `(points, numbers)`."""
        return found.jacobian / self.deviation[:, None]

    def objective(self, found: Prediction) -> float:
        """Half the sum of squared residuals."""
        return 0.5 * float(np.sum(self.residuals(found) ** 2))

    def _of_frames(self, vector: np.ndarray, frames: Frames) -> tuple[np.ndarray, ...]:
        """Energies, scores, observables and their own derivatives of each frame."""
        found = frames.configurations
        point = jnp.asarray(vector)
        energies, scores = _scores(self.parameters, point, found.positions, found.box)
        values = frames.fixed
        slopes = np.zeros((*values.shape, len(vector)))
        if self.explicit:
            values, begin = values.copy(), 0
            for target in self.targets:
                end = begin + len(target.measured)
                if target.of_model:
                    raw, derivative = _model_observables(
                        _as_tree(target.observe),
                        self.parameters,
                        point,
                        found.positions,
                        found.box,
                    )
                    values[:, begin:end] = self._compared(target, np.asarray(raw))
                    slopes[:, begin:end] = self._changes(target, np.asarray(derivative))
                begin = end
        return self.beta * np.asarray(energies), self.beta * np.asarray(scores), values, slopes

    @staticmethod
    def _compared(target: Target, raw: np.ndarray) -> np.ndarray:
        """Observables of each frame in the form in which they are compared."""
        points = len(target.measured)
        components = points if target.matrix is None else np.shape(target.matrix)[1]
        if raw.shape[1] != components:
            raise ValueError(
                f"Target {target.name!r}: the observable has {raw.shape[1]} components, "
                f"expected {components}."
            )
        if not np.all(np.isfinite(raw)):
            raise ValueError(
                f"Target {target.name!r}: the observable of a configuration is not finite."
            )
        changed = raw if target.matrix is None else raw @ np.asarray(target.matrix).T
        return changed + target.offset

    @staticmethod
    def _changes(target: Target, derivative: np.ndarray) -> np.ndarray:
        if target.matrix is None:
            return derivative
        return np.einsum("pc,fcn->fpn", np.asarray(target.matrix), derivative)


class Pool:
    """Frames of several states, those of them that can tell about the newest."""

    def __init__(self, reweighting: Reweighting, memory: int, share: float):
        """`memory` states at most, whose effective share for the newest is `share` or more."""
        self.reweighting, self.memory, self.share = reweighting, memory, share
        self.states: list[Frames] = []
        self.mixture = np.zeros(0)

    def add(self, frames: Frames) -> None:
        """Take in the frames of a state, and forget those that do not overlap with it."""
        kept = [old for old in self.states[-(self.memory - 1) :] if self._overlaps(old, frames)]
        self.states = [*kept, frames]
        self._weigh()

    def _overlaps(self, old: Frames, new: Frames) -> bool:
        """Whether either state could stand for the other."""
        for source, goal in ((old, new), (new, old)):
            here = self.reweighting.energies(source.vector, source)
            there = self.reweighting.energies(goal.vector, source)
            weights = jax.nn.softmax(jnp.asarray(here - there))
            if float(effective_size(weights)) < self.share * len(here):
                return False
        return True

    def _weigh(self) -> None:
        counts = np.asarray([len(s.configurations.positions) for s in self.states], float)
        rows = [
            np.concatenate([self.reweighting.energies(s.vector, f) for f in self.states])
            for s in self.states
        ]
        reduced = jnp.asarray(np.stack(rows))
        free = free_energies(reduced, jnp.asarray(counts))
        self.mixture = np.asarray(log_mixture(reduced, jnp.asarray(counts), free))

    def predict(self, vector: np.ndarray) -> Prediction:
        """Averages at some parameters."""
        return self.reweighting.predict(vector, self.states, self.mixture)

    @property
    def lengths(self) -> list[int]:
        """Frames of each state."""
        return [len(state.configurations.positions) for state in self.states]


def _as_tree(function: Any) -> Any:
    if isinstance(function, eqx.Module | jax.tree_util.Partial):
        return function
    return jax.tree_util.Partial(function)


@eqx.filter_jit
def _observables(observe: Any, positions: Trajectory, box: AbstractBox) -> Array:
    return jax.lax.map(lambda frame: observe(frame, box), jnp.asarray(positions, float))


@eqx.filter_jit
def _energies(
    parameters: ModelParameters, vector: Array, positions: Trajectory, box: AbstractBox
) -> Float[Array, " frames"]:
    model = parameters.at(vector)
    return jax.lax.map(lambda frame: model.energy(frame, box), jnp.asarray(positions, float))


@eqx.filter_jit
def _scores(
    parameters: ModelParameters, vector: Array, positions: Trajectory, box: AbstractBox
) -> tuple[Float[Array, " frames"], Float[Array, "frames numbers"]]:
    """Energy of each frame and its derivative by the vector, in forward mode."""

    def one(frame: Array) -> tuple[Array, Array]:
        def energy(vector: Array) -> Array:
            return parameters.at(vector).energy(frame, box)

        value, push = jax.linearize(energy, vector)
        return value, jax.vmap(push)(jnp.eye(len(vector), dtype=vector.dtype))

    return jax.lax.map(one, jnp.asarray(positions, float))


@eqx.filter_jit
def _model_observables(
    observe: Any,
    parameters: ModelParameters,
    vector: Array,
    positions: Trajectory,
    box: AbstractBox,
) -> tuple[Array, Array]:
    """Observables of a model and their derivatives by the vector, frame by frame."""

    def one(frame: Array) -> tuple[Array, Array]:
        def observed(vector: Array) -> Array:
            return jnp.ravel(observe(parameters.at(vector), frame, box))

        return observed(vector), jax.jacfwd(observed)(vector)

    return jax.lax.map(one, jnp.asarray(positions, float))


ModelObservable = Callable[[MolecularModel, Array, AbstractBox], Array]
"""An observable of one configuration that depends on the model, such as a pressure."""
