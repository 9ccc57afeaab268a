"""The bridge to optax: any of its rules as a minimiser of this house.

optax is an optional requirement and is imported where a rule is used.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import PyTree

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


class _State(eqx.Module):
    track: Track
    rule: Any


class Optax(AbstractDescent):
    """A minimiser by a rule of optax: `Optax(rule=optax.adam(1e-2))`.

    - `rule`: any `optax.GradientTransformation`. Rules that look at the objective, such as
      `optax.lbfgs()` with its line search, get `value`, `grad` and `value_fn`. Make it
      once: one that is made anew is compiled anew.
    - `batches`, `keep_best`, `forward`, `rtol`, `atol`, `norm`: as in
      [`AdaHessian`][solvers.optimisers.diagonal.AdaHessian].

    Bounds are kept by projecting each step, which is sure to go down for rules that scale
    coordinates one by one only; use a bounded method of this house with other rules.
    Without batches it stops where the gradient vanishes or nothing changes any more, which
    a rule with a constant learning rate may never reach on a noisy objective.
    """

    rule: Any = eqx.field(static=True)
    batches: Batches | None = None
    keep_best: bool = eqx.field(default=True, static=True)
    forward: bool = eqx.field(default=False, static=True)
    rtol: float = 1e-8
    atol: float = 1e-8
    norm: Callable[[PyTree], Any] = optx.max_norm

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
        rule = jax.tree.map(jnp.asarray, self.rule.init(y))
        return _State(begin(fn, y, args, self.batches, f_struct.dtype), rule)

    def step(
        self, fn: Any, y: PyTree, args: Any, options: Any, state: _State, tags: Any
    ) -> tuple[PyTree, _State, Any]:
        """See optimistix."""
        import optax  # an optional requirement

        del tags
        rows, track, whole = draw(fn, y, args, self.batches, state.track)
        derivative = value_and_gradient(lambda y: fn(y, rows), self.forward)
        (value, gradient), auxiliary = derivative(y)
        finite = all_finite(value, gradient)
        slope = Slope(value, gradient, auxiliary, value if whole is None else whole, finite)
        updates, rule = optax.with_extra_args_support(self.rule).update(
            gradient,
            state.rule,
            y,
            value=value,
            grad=gradient,
            value_fn=lambda y: fn(y, rows)[0],
        )
        updated = optax.apply_updates(y, updates)
        track = observe(self, track, y, slope, options)
        new = _State(track, choose(finite, rule, state.rule))
        return advance(track, y, updated, finite, options), new, auxiliary
