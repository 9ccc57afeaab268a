"""Methods that scale the gradient by a random estimate of the Hessian's diagonal.

For noisy and large objectives, where a matrix is too much and a gradient alone is blind
to scales: AdaHessian measures the curvature at every step, Sophia every few steps.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from solvers.optimisers.base import choose
from solvers.optimisers.batches import Batches
from solvers.optimisers.descent import (
    AbstractDescent,
    Slope,
    Track,
    advance,
    all_finite,
    begin,
    draw,
    observe,
    value_and_gradient,
)


LearningRate = float | Callable[[Int[Array, ""]], Any]
"""A number, or a schedule: a function of the number of the step."""


class _State(eqx.Module):
    """`mean` of the gradient, `curvature`: moment of the diagonal, `updates` so far."""

    track: Track
    mean: PyTree
    curvature: PyTree
    updates: Int[Array, ""]


class AdaHessian(AbstractDescent):
    r"""Adam with the Hessian's diagonal in place of the squared gradient.

    $$y \leftarrow y - \eta\,(\hat m / (\hat v^{p/2} + \epsilon) + w\,y)$$

    with the mean $D$ of $z \odot H z$ over the probes $z$, whose signs are random, and the
    moments $\hat m$ of the gradient and $\hat v$ of $D \odot D$, both corrected for their
    start at zero. The spatial averaging of the paper, which is made for convolutions, is
    left out.

    - `key`: draws the probes.
    - `learning_rate`: $\eta$, a number or a function of the step. 1 is a Newton step
      where the Hessian is diagonal.
    - `decay`: of the two moments.
    - `epsilon`, `power`: $\epsilon$ and $p$; a smaller power trusts the curvature less.
    - `weight_decay`: $w$; its pull is not part of the objective, nor of the gradient that
      must vanish for a success.
    - `probes`: $K$; each costs a Hessian-vector product.
    - `forward`: take the gradient in forward mode, for functions without a reverse one.
    - `batches`, `keep_best`, `rtol`, `atol`, `norm`: see
      [`AbstractDescent`][solvers.optimisers.descent.AbstractDescent].

    Bounds are kept by projection, which is exact for a diagonal scaling. The units of
    parameters play no part where the Hessian is diagonal (and `epsilon` zero); where it is
    not, a probe mixes in the couplings, so bring coupled parameters to like magnitudes.

    Source: Z. Yao et al., "ADAHESSIAN: An adaptive second order optimizer for machine
    learning", AAAI (2021), arXiv:2006.00719, algorithm 1.
    """

    key: PRNGKeyArray
    learning_rate: LearningRate = 0.15
    decay: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-4
    power: float = 1.0
    weight_decay: float = 0.0
    probes: int = eqx.field(default=1, static=True)
    batches: Batches | None = None
    keep_best: bool = eqx.field(default=True, static=True)
    forward: bool = eqx.field(default=False, static=True)
    rtol: float = 1e-8
    atol: float = 1e-8
    norm: Callable[[PyTree], Any] = optx.max_norm

    def __check_init__(self) -> None:
        _check_probes(self)

    def init(
        self,
        fn: Any,
        y: PyTree,
        args: Any,
        options: Any,
        f_struct: Any,
        aux_struct: Any,
        tags: Any,
    ) -> _State:
        """See optimistix."""
        del options, aux_struct, tags
        return _begin(self, fn, y, args, f_struct)

    def step(
        self, fn: Any, y: PyTree, args: Any, options: Any, state: _State, tags: Any
    ) -> tuple[PyTree, _State, Any]:
        """See optimistix."""
        del tags
        rows, track, whole = draw(fn, y, args, self.batches, state.track)
        key = jax.random.fold_in(self.key, track.steps)
        product = _products(self, lambda y: fn(y, rows), y)
        value, gradient, auxiliary, diagonal = product(key)
        first, second = self.decay
        updates = state.updates + 1
        mean = _moment(first, state.mean, gradient)
        curvature = _moment(second, state.curvature, jax.tree.map(jnp.square, diagonal))
        finite = all_finite(value, mean, curvature)
        slope = Slope(value, gradient, auxiliary, value if whole is None else whole, finite)
        rate = _rate(self.learning_rate, state.updates)

        def update(x: Array, m: Array, v: Array) -> Array:
            m, v = m / (1 - first**updates), v / (1 - second**updates)
            direction = m / (v ** (self.power / 2) + self.epsilon) + self.weight_decay * x
            return (x - rate * direction).astype(x.dtype)

        updated = jax.tree.map(update, y, mean, curvature)
        track = observe(self, track, y, slope, options)
        new = _State(
            track,
            choose(finite, mean, state.mean),
            choose(finite, curvature, state.curvature),
            jnp.where(finite, updates, state.updates),
        )
        return advance(track, y, updated, finite, options), new, auxiliary


class Sophia(AbstractDescent):
    r"""Sophia: a step by the Hessian's diagonal, clipped to the learning rate.

    $$y \leftarrow y - \eta\,(\mathrm{clip}(m / \max(\gamma h, \epsilon), -1, 1) + w\,y)$$

    with the moments $m$ of the gradient and $h$ of the diagonal of the Hessian, the latter
    refreshed by Hutchinson's estimate every `every` steps. Where the curvature is negative
    or small it goes down the sign of the gradient. No coordinate moves by more than the
    learning rate in a step, so let it decay for more digits.

    - `learning_rate`: $\eta$, a number or a function of the step.
    - `decay`: of the two moments; neither is corrected for its start at zero.
    - `gamma`, `epsilon`, `weight_decay`: $\gamma$, $\epsilon$, $w$.
    - `every`: steps between estimates of the diagonal.
    - The other fields are those of `AdaHessian`.

    Under `vmap` the diagonal is computed at every step, and looked at every `every` steps.

    Source: H. Liu et al., "Sophia: A scalable stochastic second-order optimizer for
    language model pre-training", ICLR (2024), arXiv:2305.14342, algorithm 3 with 1.
    """

    key: PRNGKeyArray
    learning_rate: LearningRate = 1e-2
    decay: tuple[float, float] = (0.965, 0.99)
    gamma: float = 0.01
    epsilon: float = 1e-12
    weight_decay: float = 0.0
    every: int = eqx.field(default=10, static=True)
    probes: int = eqx.field(default=1, static=True)
    batches: Batches | None = None
    keep_best: bool = eqx.field(default=True, static=True)
    forward: bool = eqx.field(default=False, static=True)
    rtol: float = 1e-8
    atol: float = 1e-8
    norm: Callable[[PyTree], Any] = optx.max_norm

    def __check_init__(self) -> None:
        _check_probes(self)
        if self.every < 1:
            raise ValueError(f"Sophia: every is {self.every}, expected at least 1.")

    def init(
        self,
        fn: Any,
        y: PyTree,
        args: Any,
        options: Any,
        f_struct: Any,
        aux_struct: Any,
        tags: Any,
    ) -> _State:
        """See optimistix."""
        del options, aux_struct, tags
        return _begin(self, fn, y, args, f_struct)

    def step(
        self, fn: Any, y: PyTree, args: Any, options: Any, state: _State, tags: Any
    ) -> tuple[PyTree, _State, Any]:
        """See optimistix."""
        del tags
        rows, track, whole = draw(fn, y, args, self.batches, state.track)
        key = jax.random.fold_in(self.key, track.steps)

        def objective(y: PyTree) -> Any:
            return fn(y, rows)

        def refreshed() -> Any:
            value, gradient, auxiliary, diagonal = _products(self, objective, y)(key)
            return value, gradient, auxiliary, _moment(self.decay[1], state.curvature, diagonal)

        def kept() -> Any:
            (value, gradient), auxiliary = value_and_gradient(objective, self.forward)(y)
            return value, gradient, auxiliary, state.curvature

        value, gradient, auxiliary, curvature = jax.lax.cond(
            state.updates % self.every == 0, refreshed, kept
        )
        finite = all_finite(value, gradient, curvature)
        slope = Slope(value, gradient, auxiliary, value if whole is None else whole, finite)
        mean = _moment(self.decay[0], state.mean, gradient)
        rate = _rate(self.learning_rate, state.updates)

        def update(x: Array, m: Array, h: Array) -> Array:
            ratio = m / jnp.maximum(self.gamma * h, self.epsilon)
            return (x - rate * (jnp.clip(ratio, -1, 1) + self.weight_decay * x)).astype(x.dtype)

        updated = jax.tree.map(update, y, mean, curvature)
        track = observe(self, track, y, slope, options)
        new = _State(
            track,
            choose(finite, mean, state.mean),
            choose(finite, curvature, state.curvature),
            state.updates + finite,
        )
        return advance(track, y, updated, finite, options), new, auxiliary


def hutchinson(
    product: Callable[[PyTree], PyTree], y: PyTree, key: PRNGKeyArray, probes: int = 1
) -> PyTree:
    """An unbiased estimate of the diagonal of a symmetric operator, like `y`.

    The mean of `z * product(z)` over Rademacher probes; exact, by any probe, where the
    operator is diagonal.

    Source: C. Bekas et al., Appl. Numer. Math. 57, 1214 (2007).
    """
    drawn = _probes(y, key, probes)
    products = jax.vmap(product)(drawn)
    return jax.tree.map(lambda z, p: jnp.mean(z * p, axis=0), drawn, products)


def _products(method: Any, objective: Any, y: PyTree) -> Callable[[PRNGKeyArray], Any]:
    """From a key to value, gradient, auxiliary output and estimated diagonal at `y`."""
    derivative = value_and_gradient(objective, method.forward)

    def along(z: PyTree) -> Any:
        (value, gradient), (_, product), auxiliary = jax.jvp(
            derivative, (y,), (z,), has_aux=True
        )
        return value, gradient, auxiliary, product

    def all_of(key: PRNGKeyArray) -> Any:
        drawn = _probes(y, key, method.probes)
        # Only the products depend on the probe: the rest is computed once.
        value, gradient, auxiliary, products = jax.vmap(along, out_axes=(None, None, None, 0))(
            drawn
        )
        diagonal = jax.tree.map(lambda z, p: jnp.mean(z * p, axis=0), drawn, products)
        return value, gradient, auxiliary, diagonal

    return all_of


def _probes(y: PyTree, key: PRNGKeyArray, count: int) -> PyTree:
    leaves, structure = jax.tree.flatten(y)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.rademacher(k, (count, *leaf.shape), leaf.dtype)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def _check_probes(method: Any) -> None:
    if method.probes < 1:
        name = type(method).__name__
        raise ValueError(f"{name}: probes is {method.probes}, expected at least 1.")


def _begin(method: Any, fn: Any, y: PyTree, args: Any, f_struct: Any) -> _State:
    track = begin(fn, y, args, method.batches, f_struct.dtype)
    zeros = jax.tree.map(jnp.zeros_like, y)
    return _State(track, zeros, zeros, jnp.asarray(0))


def _moment(decay: float, old: PyTree, new: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, new)


def _rate(rate: LearningRate, step: Array) -> Any:
    return rate(step) if callable(rate) else rate
