"""The root finder of the implicit methods: a chord iteration that is given its time."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix


class PatientChord(optimistix.AbstractRootFinder):
    r"""Chord iteration with one Jacobian per step, stopped by its rate of convergence.

    With the size $d_k$ of the $k$-th correction and the rate
    $\theta_k = d_k / d_{k-1}$ the error left is about $d_k\,\theta_k / (1 - \theta_k)$:
    the iteration has converged where that is below `kappa`, and diverges where
    $\theta_k \ge 1$.

    `chord` does the iteration. Its own rule (diffrax 0.7.2) reports divergence if the
    second correction has not converged, so that steps are rejected although the
    iteration converges: Kvaerno5 then takes up to 30 times as many steps as it needs. It
    also measures corrections of the slope rather than of the state, and so fails below
    `rtol` 1e-9 where the slope is a small difference of large terms.

    Reference: E. Hairer and G. Wanner, *Solving Ordinary Differential Equations II*
    (1996), section IV.8.
    """

    chord: diffrax.VeryChord

    @property
    def rtol(self) -> Any:
        """Relative tolerance."""
        return self.chord.rtol

    @property
    def atol(self) -> Any:
        """Absolute tolerance."""
        return self.chord.atol

    @property
    def norm(self) -> Any:
        """Size of a correction."""
        return self.chord.norm

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """See `diffrax.VeryChord`."""
        return self.chord.init(*args, **kwargs)

    def step(
        self, fn: Any, y: Any, args: Any, options: Any, state: Any, tags: Any
    ) -> tuple[Any, Any, Any]:
        """One correction, its size measured on the state of the system."""
        new_y, new_state, aux = self.chord.step(fn, y, args, options, state, tags)
        size = self._size(args, new_y, new_state.diff)
        return new_y, eqx.tree_at(lambda s: s.diffsize, new_state, size), aux

    def _size(self, args: Any, unknown: Any, correction: Any) -> Any:
        stage, change = _stage_state(args, unknown, correction)
        return self.chord.norm(jax.tree.map(self._relative, stage, change))

    def _relative(self, state: Any, change: Any) -> Any:
        # What rounding leaves of a state must not look like an error to be corrected.
        rounding = 10 * jnp.finfo(state.dtype).eps / self.chord.kappa
        return change / (self.chord.atol + (self.chord.rtol + rounding) * jnp.abs(state))

    def terminate(
        self, fn: Any, y: Any, args: Any, options: Any, state: Any, tags: Any
    ) -> tuple[Any, Any]:
        """Whether the iteration is over, and how it ended."""
        del fn, y, args, options, tags
        results = optimistix.RESULTS
        rate = state.diffsize / state.diffsize_prev
        left = state.diffsize * rate / (1 - rate)
        # The size before the first correction is infinite, so that there is a rate only
        # from the second on; a correction lost in rounding needs none.
        rated = state.step >= 2
        rounding = jnp.finfo(state.diffsize.dtype).eps * 100
        converged = (state.diffsize < rounding) | (
            rated & (rate < 1) & (left < self.chord.kappa)
        )
        lost = (state.step >= 1) & ~jnp.isfinite(state.diffsize)
        diverged = ~converged & (lost | (rated & (rate >= 1)))
        result = results.where(diverged, results.nonlinear_divergence, results.successful)
        singular = state.result != results.successful
        result = results.where(singular, state.result, result)
        return converged | diverged | singular, result

    def postprocess(self, *args: Any, **kwargs: Any) -> Any:
        """See `diffrax.VeryChord`."""
        return self.chord.postprocess(*args, **kwargs)


def _stage_state(args: Any, unknown: Any, correction: Any) -> tuple[Any, Any]:
    """The state at a stage and its change by a correction, for each unknown of diffrax.

    It solves for the slope (`y = known + diagonal * h * slope`), for the increment
    (`y = known + diagonal * increment`) or, in implicit Euler, for the whole step.
    """
    if len(args) == 8:
        _, diagonal, _, product, _, known, _, control = args
        unknown, correction = product(unknown, control), product(correction, control)
    elif len(args) == 7:
        _, diagonal, _, _, known, _, _ = args
    else:
        (_, _, known, _, _), diagonal = args, 1.0
    stage = jax.tree.map(lambda y, k: y + diagonal * k, known, unknown)
    return stage, jax.tree.map(lambda k: diagonal * k, correction)
