r"""Relative entropy: a coarse model that makes the configurations of a finer one most likely.

$$S(\theta) = \frac1{kT} \big[ \langle U_\theta \rangle_{\text{ref}} - A(\theta) \big],
  \qquad
  \frac{dS}{d\theta} = \frac1{kT} \Big[ \Big\langle \frac{dU}{d\theta} \Big\rangle_{\text{ref}}
  - \Big\langle \frac{dU}{d\theta} \Big\rangle_\theta \Big]$$

up to a constant, with the free energy $A$; its second derivative is the covariance of the
scores in the model, where the energy is linear in the parameters, and close to it elsewhere.
Configurations of the model come from dynamics, those of turns before by MBAR.

Sources: M. S. Shell, J. Chem. Phys. 129, 144108 (2008); A. Chaimovich, M. S. Shell, J. Chem.
Phys. 134, 094112 (2011).
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from simkit.molecular.block_errors import autocorrelation_time
from simkit.molecular.fits.parameters import choose_parameters
from simkit.molecular.fits.reweighting import Frames, Pool, Prediction, Reweighting, Target
from simkit.molecular.fits.sampling import Configurations
from simkit.precision import use_double_precision
from systems.molecular.boxes import AbstractBox
from systems.molecular.model import MolecularModel


# States that are pooled at most, and the share of effective samples that they must have.
_MEMORY, _SHARE = 6, 0.05
_INNER_STEPS, _NO_STEP = 25, 1e-6


@dataclasses.dataclass(frozen=True)
class EntropyFit:
    """A model of least relative entropy to configurations of another one.

    - `model`: with the fitted parameters.
    - `names`, `estimate`, `standard_error`, `covariance`: of the fitted numbers, by the
      finite number of frames of the reference and of the model.
    - `converged`: whether the last step was shorter than its uncertainty; `message` says it.
    - `path`: the parameters of each turn, shape `(turns, numbers)`.
    """

    model: MolecularModel
    names: tuple[str, ...]
    estimate: np.ndarray
    standard_error: np.ndarray
    covariance: np.ndarray
    converged: bool
    message: str
    path: np.ndarray


def minimise_relative_entropy(
    model: MolecularModel,
    reference: Configurations,
    sample: Callable[[MolecularModel, Array], Configurations],
    *,
    temperature: float,
    key: Array,
    names: Sequence[str] | None = None,
    max_turns: int = 40,
    radius: float = 0.1,
    effective_share: float = 0.3,
) -> EntropyFit:
    """Fit a model to configurations of a finer one, or to those of an experiment.

    **Arguments:**

    - `model`: where the parameters start.
    - `reference`: configurations of the finer model at the same temperature and volume,
      mapped to the particles of this one.
    - `sample`: configurations of a model, called as `sample(model, key)`, such as a
      [`CanonicalSampler`][simkit.molecular.fits.sampling.CanonicalSampler].
    - `temperature`: in the model's unit.
    - `key`: a random key.
    - `names`: which parameters are fitted; all of the terms if left out.
    - `max_turns`: turns of sampling at most.
    - `radius`: the largest change of a logarithm in a turn.
    - `effective_share`: steps end where fewer than this share of the frames of one turn
      are left as effective samples.

    Raises `ValueError` for unknown names, a temperature that is not positive, and fewer than
    ten frames of the reference.
    """
    use_double_precision()
    if not temperature > 0:
        raise ValueError(f"The temperature is {temperature}, expected a positive number.")
    if len(reference.positions) < 10:
        raise ValueError(
            f"The reference has {len(reference.positions)} frames, expected at least 10."
        )
    parameters = choose_parameters(model, names)
    beta = 1 / (model.units.boltzmann * temperature)
    # Nothing is compared but scores; a target stands for the observables of the pool.
    nothing = Target("none", _nothing, np.zeros(1), 1.0)
    search = _Search(Reweighting(parameters, (nothing,), beta), reference)
    vector, path, converged = parameters.start, [], False
    for turn in range(max_turns):
        found = sample(parameters.at(jnp.asarray(vector)), jax.random.fold_in(key, turn))
        search.pool.add(search.reweighting.frames(vector, found))
        path.append(np.asarray(parameters.values(jnp.asarray(vector))))
        end, inside = search.step(vector, radius, effective_share * len(found.positions))
        step = end - vector
        distance = step @ np.linalg.lstsq(search.covariance(end), step, rcond=None)[0]
        vector = end
        if inside and distance <= 2 * len(step):
            converged = True
            break
    scale = parameters.slopes(vector)
    covariance = search.covariance(vector) * np.outer(scale, scale)
    return EntropyFit(
        model=parameters.at(jnp.asarray(vector)),
        names=parameters.labels,
        estimate=np.asarray(parameters.values(jnp.asarray(vector))),
        standard_error=np.sqrt(np.diag(covariance)),
        covariance=covariance,
        converged=converged,
        message="The last step was within its uncertainty by sampling."
        if converged
        else f"The parameters had not settled after {len(path)} turns; allow more.",
        path=np.stack(path),
    )


def _nothing(positions: Array, box: AbstractBox) -> Array:
    del positions, box
    return jnp.zeros(1)


class _Search:
    """Gradient, curvature and errors, from samples of the model and of the reference."""

    def __init__(self, reweighting: Reweighting, reference: Configurations):
        self.reweighting = reweighting
        self.wanted: Frames = reweighting.frames(reweighting.parameters.start, reference)
        self.pool = Pool(reweighting, _MEMORY, _SHARE)

    def step(self, centre: np.ndarray, radius: float, share: float) -> tuple[np.ndarray, bool]:
        """Newton steps on reweighted samples; where they end, and if it is a minimum."""
        vector = centre
        for _ in range(_INNER_STEPS):
            here = self.pool.predict(vector)
            gradient = np.mean(self._reference_scores(vector), axis=0)
            gradient = gradient - here.weights @ here.scores
            move = -_inverse_curvature(here) @ gradient
            end = np.clip(vector + move, centre - radius, centre + radius)
            if np.max(np.abs(end - vector)) < _NO_STEP:
                return end, bool(np.max(np.abs(end - centre)) < 0.999 * radius)
            vector = end
            if self.pool.predict(vector).effective < share:
                return vector, False
        return vector, False

    def covariance(self, vector: np.ndarray) -> np.ndarray:
        """Of the minimum, by the scatter of the scores in the model and in the reference."""
        here, reference = self.pool.predict(vector), self._reference_scores(vector)
        even = np.full(len(reference), 1 / len(reference))
        newest = here.scores[-self.pool.lengths[-1] :]
        meat = _scatter(reference, even, _memory(reference) / len(reference))
        meat = meat + _scatter(here.scores, here.weights, _memory(newest) / here.effective)
        inverse = _inverse_curvature(here)
        return inverse @ meat @ inverse

    def _reference_scores(self, vector: np.ndarray) -> np.ndarray:
        # With this mixture all frames of the reference weigh the same.
        even = -self.reweighting.energies(vector, self.wanted)
        return self.reweighting.predict(vector, [self.wanted], even).scores


def _inverse_curvature(here: Prediction) -> np.ndarray:
    """The inverse of the covariance of the scores."""
    return np.linalg.pinv(_scatter(here.scores, here.weights, 1.0))


def _memory(scores: np.ndarray) -> float:
    """Frames that count as one."""
    return 2 * float(np.max(autocorrelation_time(scores)))


def _scatter(scores: np.ndarray, weights: np.ndarray, scale: float) -> np.ndarray:
    """The covariance of weighted scores, times a number."""
    centred = scores - weights @ scores
    return scale * (centred.T @ (weights[:, None] * centred))
