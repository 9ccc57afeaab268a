"""One step of a method by itself, as a plain function that can be differentiated."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def step_once(
    solver: diffrax.AbstractSolver, terms: Any, start: Array, stop: Array, y: Array, args: Any
) -> tuple[Array, dict[str, Any]]:
    """The state after one step, and what the interpolation within it needs.

    Nothing is carried over from the step before: methods that could reuse its last slope
    evaluate it again.
    """
    if isinstance(solver, diffrax.AbstractERK) and isinstance(terms, diffrax.ODETerm):
        return _explicit(solver.tableau, terms, start, stop, y, args)
    if isinstance(solver, diffrax.AbstractESDIRK) and isinstance(terms, diffrax.ODETerm):
        return _implicit(solver.tableau, terms, start, stop, y, args)
    if getattr(solver, "scan_kind", 0) is None:
        # The loop over the stages must be one that jax can differentiate in every mode.
        solver = eqx.tree_at(
            lambda s: s.scan_kind, solver, "bounded", is_leaf=lambda leaf: leaf is None
        )
    state = solver.init(terms, start, stop, y, args)
    after, _, dense, _, _ = solver.step(terms, start, stop, y, args, state, made_jump=False)
    return after, dense


def _explicit(
    tableau: Any, terms: diffrax.ODETerm, start: Array, stop: Array, y: Array, args: Any
) -> tuple[Array, dict[str, Any]]:
    """An explicit Runge-Kutta step with its stages written out, which compile to few loops."""
    h = stop - start
    slopes = [terms.vf(start, y, args)]
    stage = y
    for c, row in zip(tableau.c, tableau.a_lower, strict=True):
        stage = y + h * _combine(row, slopes)
        slopes.append(terms.vf(start + float(c) * h, stage, args))
    after = stage if tableau.ssal else y + h * _combine(tableau.b_sol, slopes)
    increments = h * jnp.stack(slopes)
    return after, {"y0": y, "y1": after, "k": increments}


def _implicit(
    tableau: Any, terms: diffrax.ODETerm, start: Array, stop: Array, y: Array, args: Any
) -> tuple[Array, dict[str, Any]]:
    """A step of a method with an explicit first stage and implicit ones after it."""
    h = stop - start
    slopes = [terms.vf(start, y, args)]
    stage = y
    rows = zip(tableau.c, tableau.a_lower, tableau.a_diagonal[1:], strict=True)
    for c, row, diagonal in rows:
        time = start + float(c) * h
        known = y + h * _combine(row, slopes)
        weight = float(diagonal) * h
        guess = known + weight * slopes[-1]
        stage = solve_stage(
            lambda z, t=time: terms.vf(t, z, args),
            known,
            weight,
            guess,
        )
        slopes.append(terms.vf(time, stage, args))
    after = stage if tableau.ssal else y + h * _combine(tableau.b_sol, slopes)
    return after, {"y0": y, "y1": after, "k": h * jnp.stack(slopes)}


NEWTON_STEPS = 20
"""Newton steps after which a stage is given up; from the slope before it takes 2 to 5."""


def solve_stage(field: Any, known: Array, weight: Array, guess: Array) -> Array:
    r"""The stage $z = b + w f(z)$ to rounding, with derivatives of every order.

    Newton's method, with the derivatives of the implicit function; not a number where
    it does not converge.
    """

    def residual(z: Array) -> Array:
        return z - known - weight * field(z)

    precision = jnp.finfo(guess.dtype)

    def newton(residual: Any, guess: Array) -> Any:
        def step(carry: Any) -> Any:
            z, size, count, _ = carry
            change = _solve_dense(jax.jacfwd(residual)(z), residual(z))
            # A state that has all but vanished beside the others need not have all digits.
            scale = jnp.abs(z) + 1e-8 * jnp.max(jnp.abs(z)) + jnp.abs(change)
            new_size = jnp.max(jnp.abs(change) / (scale + precision.tiny))
            # Where a small correction no longer halves, what is left is rounding.
            stuck = (new_size < precision.eps**0.4) & (new_size > 0.5 * size)
            done = (new_size < 50 * precision.eps) | stuck
            return z - change, new_size, count + 1, done

        def going(carry: Any) -> Array:
            return ~carry[3] & (carry[2] < NEWTON_STEPS)

        infinite = jnp.asarray(jnp.inf, guess.dtype)
        begin = (guess, infinite, jnp.asarray(0), jnp.asarray(False))
        z, _, _, done = jax.lax.while_loop(going, step, begin)
        return jnp.where(done, z, jnp.nan)

    def solve_linear(linear: Any, right: Array) -> Array:
        return _solve_dense(jax.jacfwd(linear)(jnp.zeros_like(right)), right)

    return jax.lax.custom_root(residual, guess, newton, solve_linear)


def _solve_dense(matrix: Any, right: Array) -> Array:
    return jnp.linalg.solve(matrix, right)


def _combine(weights: np.ndarray, slopes: list[Array]) -> Array:
    terms = [float(w) * k for w, k in zip(weights, slopes, strict=False) if w != 0]
    return sum(terms[1:], terms[0])


def interpolate(
    solver: diffrax.AbstractSolver, dense: dict[str, Any], start: Array, stop: Array, t: Array
) -> Array:
    """The state at a time within the step."""
    return solver.interpolation_cls(t0=start, t1=stop, **dense).evaluate(t)
