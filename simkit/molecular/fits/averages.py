r"""A model fitted to measured averages: structure factors, pressures, energies.

Each turn samples the model, weighs these samples with those of the turns before by MBAR, and
takes Gauss-Newton steps with the score-function Jacobian in the logarithms of the parameters.
Steps go on for as long as the reweighted samples stay numerous enough; one step beyond that
is taken by the linear model, within a trust radius that grows and shrinks by what new samples
then say. Differentiated trajectories, which chaos would spoil, are not needed.

Source: S. Thaler, J. Zavadlav, Nat. Commun. 12, 6884 (2021), with a trust region and pooled
samples here.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array

from simkit.molecular.fits.errors import FitErrors, fit_errors
from simkit.molecular.fits.parameters import choose_parameters
from simkit.molecular.fits.reweighting import Frames, Pool, Prediction, Reweighting, Target
from simkit.molecular.fits.sampling import Configurations
from simkit.precision import use_double_precision
from solvers.molecular.status import MolecularError
from systems.molecular.model import MolecularModel


Sampler = Callable[[MolecularModel, Array], Configurations]
"""Configurations of a model in equilibrium at the temperature of the fit, from a key."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of a fit: new samples, and the step that they led to.

    - `values`: the parameters that were sampled, shape `(numbers,)`.
    - `objective`: half the sum of squared residuals there.
    - `accepted`: whether the fit went on from here; else it went back, with a shorter radius.
    - `radius`: the trust radius, see [`FitOptions`][simkit.molecular.fits.averages.FitOptions].
    - `pooled`: states whose samples were used; `effective`: their effective number of
      samples at the end of the step.
    - `inside`: whether the samples reached to the end of the step.
    """

    values: np.ndarray
    objective: float
    accepted: bool
    radius: float
    pooled: int
    effective: float
    inside: bool


@dataclasses.dataclass(frozen=True)
class AverageFit:
    """A model fitted to measured averages.

    - `model`: with the fitted parameters.
    - `names`, `estimate`, `standard_error`, `covariance`: of the fitted numbers.
    - `errors`: what the standard errors are made of, see
      [`FitErrors`][simkit.molecular.fits.errors.FitErrors].
    - `predicted`: the averages of the fitted model as they are compared, by target.
    - `objective`: half the sum of squared residuals.
    - `converged`: whether the last step was shorter than its uncertainty from sampling.
    - `message`: why it stopped, as a sentence.
    - `turns`: the way there.
    """

    model: MolecularModel
    names: tuple[str, ...]
    estimate: np.ndarray
    standard_error: np.ndarray
    covariance: np.ndarray
    errors: FitErrors
    predicted: dict[str, np.ndarray]
    objective: float
    converged: bool
    message: str
    turns: tuple[Turn, ...]


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """How a fit to averages goes.

    - `max_turns`: turns of sampling at most.
    - `radius`: the first trust radius. Lengths are measured by the covariance of the scores:
      at a length of one the effective samples fall to about a third, whatever the parameter.
    - `longest_radius`: how far it may grow.
    - `longest_change`: of a logarithm in a turn, or of a parameter that enters as it is.
    - `effective_share`: steps end where fewer than this share of the frames of one turn
      are left as effective samples.
    - `memory`: turns whose samples are kept.
    - `final_turns`: turns at the estimate after it has settled, pooled for the answer.
    - `residual_block`: points along a target within which misfits are taken as dependent.
    - `replicates`: of the bootstrap.
    """

    max_turns: int = 40
    radius: float = 50.0
    longest_radius: float = 200.0
    longest_change: float = 0.15
    effective_share: float = 0.3
    memory: int = 6
    final_turns: int = 3
    residual_block: int = 20
    replicates: int = 200


_INNER_STEPS = 25
# Below this change of a logarithm a step is none.
_NO_STEP = 1e-6


def fit_averages(
    model: MolecularModel,
    targets: Sequence[Target],
    sample: Sampler,
    *,
    temperature: float,
    key: Array | int,
    names: Sequence[str] | None = None,
    options: FitOptions | None = None,
    progress: Callable[[Turn], None] | None = None,
) -> AverageFit:
    """Fit parameters of a model to measured averages over its canonical ensemble.

    **Arguments:**

    - `model`: where the parameters start.
    - `targets`: what was measured, see
      [`Target`][simkit.molecular.fits.reweighting.Target].
    - `sample`: gives configurations of a model, called as `sample(model, key)`; such as a
      [`CanonicalSampler`][simkit.molecular.fits.sampling.CanonicalSampler]. Volume and
      temperature are the same in all calls.
    - `temperature`: in the model's unit.
    - `key`: a random key, or the seed of one.
    - `names`: which parameters are fitted; all of the terms if left out.
    - `options`: see [`FitOptions`][simkit.molecular.fits.averages.FitOptions].
    - `progress`: called after every turn.

    A fit whose parameters did not settle is returned with `converged` false, and says why.

    Raises `ValueError` for unknown names, no targets, a temperature that is not positive,
    and observables that do not fit what was measured; `MolecularError` if the model explodes
    already at the start.
    """
    use_double_precision()
    if not temperature > 0:
        raise ValueError(f"The temperature is {temperature}, expected a positive number.")
    if not targets:
        raise ValueError("There are no targets, expected at least one.")
    options = FitOptions() if options is None else options
    beta = 1 / (model.units.boltzmann * temperature)
    reweighting = Reweighting(choose_parameters(model, names), tuple(targets), beta)
    if isinstance(key, int):
        key = jax.random.key(key)
    search = _Search(reweighting, sample, key, options, progress)
    converged, message = search.run()
    return search.answer(converged, message)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where the fit goes back to: the parameters, the objective, and its samples."""

    vector: np.ndarray
    objective: float
    noise: float
    states: list[Frames]
    mixture: np.ndarray


class _Search:
    """The loop over turns."""

    def __init__(
        self,
        reweighting: Reweighting,
        sample: Sampler,
        key: Array,
        options: FitOptions,
        progress: Callable[[Turn], None] | None,
    ):
        self.reweighting, self.sample, self.key = reweighting, sample, key
        self.options, self.progress = options, progress
        self.pool = Pool(reweighting, options.memory, 0.05)
        self.vector = reweighting.parameters.start
        self.radius, self.length = options.radius, 0.0
        self.turns: list[Turn] = []
        self.draws = 0

    def run(self) -> tuple[bool, str]:
        """Until the step is within its uncertainty; whether it is, and the sentence."""
        best: _Place | None = None
        expected = 0.0
        for _ in range(self.options.max_turns):
            if not self._draw(self.vector, first=best is None):
                here, objective, noise = None, float("inf"), 0.0
            else:
                here = self.pool.predict(self.vector)
                objective = self.reweighting.objective(here)
                noise = self._errors(here).objective_noise
            if best is not None:
                if here is None or objective > best.objective + 2 * (noise + best.noise):
                    self._tell(self.vector, objective, False, float("nan"), False)
                    # A quarter of the step that was bad.
                    self.radius = min(self.radius, self.length) / 4
                    self.pool.states, self.pool.mixture = best.states, best.mixture
                    here, objective = self.pool.predict(best.vector), best.objective
                    there, _, expected = self._step(here)
                    self.length = _length(here.metric, there.vector - here.vector)
                    self.vector = there.vector
                    continue
                if best.objective - objective > 0.5 * expected:
                    self.radius = min(2 * self.radius, self.options.longest_radius)
            assert here is not None
            best = _Place(self.vector, objective, noise, self.pool.states, self.pool.mixture)
            there, inside, expected = self._step(here)
            self.length = _length(here.metric, there.vector - here.vector)
            self._tell(here.vector, objective, True, there.effective, inside)
            settled = inside and self._within_noise(here, there)
            self.vector = there.vector
            if settled:
                return True, self._refine()
        return False, (
            f"The parameters had not settled after {self.options.max_turns} turns; allow more "
            "turns, or more frames in each."
        )

    def _draw(self, vector: np.ndarray, *, first: bool) -> bool:
        """New samples into the pool; false if the model exploded."""
        key = jax.random.fold_in(self.key, self.draws)
        self.draws += 1
        try:
            found = self.sample(self.reweighting.parameters.at(vector), key)
        except MolecularError:
            if first:
                raise
            return False
        self.pool.add(self.reweighting.frames(vector, found))
        return True

    def _step(self, here: Prediction) -> tuple[Prediction, bool, float]:
        """Gauss-Newton steps from a place; where they end, if samples reach there, the gain.

        Steps stop at the trust radius around the place. The first one for which too few
        samples are left is taken still, by the linear model.
        """
        frames = self.pool.lengths[-1]
        now, begin = here, self.reweighting.objective(here)
        damping, low = 1e-3, begin
        for _ in range(_INNER_STEPS):
            move, gain = self._gauss_newton(now, here, damping)
            if np.max(np.abs(move)) < _NO_STEP:
                return now, self._is_inside(now, here), begin - low
            trial = self.pool.predict(now.vector + move)
            if trial.effective < self.options.effective_share * frames:
                return trial, False, begin - low + gain
            objective = self.reweighting.objective(trial)
            if objective >= low:
                damping = max(10 * damping, 1e-3)
                if damping > 1e6:
                    return now, self._is_inside(now, here), begin - low
                continue
            now, low, damping = trial, objective, damping / 10
        return now, self._is_inside(now, here), begin - low

    def _is_inside(self, now: Prediction, here: Prediction) -> bool:
        """Whether a step ended by itself, not at the trust radius."""
        move = now.vector - here.vector
        length = _length(here.metric, move)
        change = np.max(np.abs(move))
        return bool(length < 0.99 * self.radius and change < 0.99 * self.options.longest_change)

    def _gauss_newton(
        self, now: Prediction, here: Prediction, damping: float
    ) -> tuple[np.ndarray, float]:
        """A damped step that ends within the trust radius, and what it promises."""
        residuals = self.reweighting.residuals(now)
        jacobian = self.reweighting.scaled_jacobian(now)
        gradient, curvature = jacobian.T @ residuals, jacobian.T @ jacobian
        metric = here.metric
        # In units in which both matrices are about one.
        scale = np.trace(curvature) / max(np.trace(metric), 1e-300)
        move = np.zeros_like(gradient)
        low = here.vector - self.options.longest_change - now.vector
        high = here.vector + self.options.longest_change - now.vector
        for _ in range(60):
            move = _bounded_step(gradient, curvature + damping * scale * metric, low, high)
            if _length(metric, now.vector + move - here.vector) <= self.radius:
                break
            damping = max(2 * damping, 1e-6)
        gain = -float(gradient @ move + 0.5 * move @ curvature @ move)
        return move, max(gain, 0.0)

    def _errors(self, here: Prediction) -> FitErrors:
        return fit_errors(
            self.reweighting,
            here,
            self.pool.lengths,
            replicates=self.options.replicates,
            block=self.options.residual_block,
            seed=self.draws,
        )

    def _within_noise(self, here: Prediction, there: Prediction) -> bool:
        """Whether a step is no longer than its uncertainty by sampling."""
        step = there.vector - here.vector
        spread = self._errors(there).sampling
        distance = step @ np.linalg.lstsq(spread, step, rcond=None)[0]
        return bool(distance <= 2 * len(step))

    def _refine(self) -> str:
        """More samples where the fit has settled, and last steps on all of them."""
        for _ in range(self.options.final_turns):
            if not self._draw(self.vector, first=False):
                return "The parameters settled, but a last run exploded; errors are larger."
            here = self.pool.predict(self.vector)
            there, inside, _ = self._step(here)
            objective = self.reweighting.objective(here)
            self._tell(here.vector, objective, True, there.effective, inside)
            self.vector = there.vector
        return "The last step was within its uncertainty by sampling."

    def answer(self, converged: bool, message: str) -> AverageFit:
        """The fit as it is now."""
        found = self.pool.predict(self.vector)
        errors = self._errors(found)
        parameters = self.reweighting.parameters
        scale = parameters.slopes(self.vector)
        covariance = (errors.sampling + errors.misfit) * np.outer(scale, scale)
        predicted, begin = {}, 0
        for target in self.reweighting.targets:
            end = begin + len(target.measured)
            predicted[target.name] = found.average[begin:end]
            begin = end
        return AverageFit(
            model=parameters.at(jax.numpy.asarray(self.vector)),
            names=parameters.labels,
            estimate=np.asarray(parameters.values(self.vector)),
            standard_error=np.sqrt(np.diag(covariance)),
            covariance=covariance,
            errors=errors,
            predicted=predicted,
            objective=self.reweighting.objective(found),
            converged=converged,
            message=message,
            turns=tuple(self.turns),
        )

    def _tell(
        self,
        vector: np.ndarray,
        objective: float,
        accepted: bool,
        effective: float,
        inside: bool,
    ) -> None:
        values = np.asarray(self.reweighting.parameters.values(vector))
        states = len(self.pool.states)
        turn = Turn(values, objective, accepted, self.radius, states, effective, inside)
        self.turns.append(turn)
        if self.progress is not None:
            self.progress(turn)


def _length(metric: np.ndarray, move: np.ndarray) -> float:
    return float(np.sqrt(max(move @ metric @ move, 0.0)))


def _bounded_step(
    gradient: np.ndarray, matrix: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """The step to the minimum of a quadratic form; numbers stay on bounds they meet."""
    move, free = np.zeros_like(gradient), np.ones(len(gradient), bool)
    while np.any(free):
        right = -gradient[free] - matrix[np.ix_(free, ~free)] @ move[~free]
        move[free] = np.linalg.lstsq(matrix[np.ix_(free, free)], right, rcond=None)[0]
        outside = free & ((move < low) | (move > high))
        if not np.any(outside):
            break
        move = np.clip(move, low, high)
        free &= ~outside
    return move
