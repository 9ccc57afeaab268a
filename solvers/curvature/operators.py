r"""Matrix-free curvature: Hessians, Gauss-Newton matrices and Fisher informations.

Each function linearises once, at one point, and gives back a lineax operator on pytrees
like `y`, for `lineax.linear_solve`, sums and products of operators, and all of this room.
With the Jacobian $J$ of residuals or predictions:

| operator | matrix |
| --- | --- |
| `hessian_operator` | second derivatives of an objective |
| `gauss_newton_operator` | $J^T W J$ of weighted residuals |
| `generalised_gauss_newton_operator` | $J^T H J$, with $H$ of a loss of predictions |
| `fisher_operator` | $J^T I J$, with the expected information $I$ of each measurement |
| `empirical_fisher_operator` | $S^T S$, with the scores $S$ of the measurements as rows |

`forward_only=True` serves functions that have no reverse mode. A Hessian product then costs
one second-order tangent for each parameter; the others keep their dense Jacobian.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers.curvature.dense import jacobian
from solvers.curvature.estimate import Estimate, mean_of
from solvers.curvature.flat import MEMORY, floating


Linear = Callable[[PyTree], PyTree]


def hessian_operator(
    objective: Callable[[Any, Any], Any],
    y: PyTree,
    args: PyTree = None,
    *,
    positive: bool = False,
    forward_only: bool = False,
) -> lx.FunctionLinearOperator:
    """The Hessian of `objective(y, args)`, a scalar, by `y`.

    Products are tangents of the gradient (forward over reverse), a small multiple of the
    gradient's cost each; what depends on the point alone is computed once.

    - `positive`: the caller vouches that the Hessian is positive semidefinite, as
      `lineax.CG` demands. Nothing checks it.

    **Raises:** `ValueError` if the objective is not a scalar.

    Source: B. A. Pearlmutter, Neural Comput. 6, 147 (1994).
    """
    y = floating(y)

    def function(y: PyTree) -> Array:
        return _scalar(objective(y, args), "objective")

    differentiate = jax.jacfwd if forward_only else jax.grad
    _, product = jax.linearize(differentiate(function), y)
    return _operator(product, y, positive)


def gauss_newton_operator(
    residuals: Callable[[Any, Any], Any],
    y: PyTree,
    args: PyTree = None,
    *,
    weights: PyTree | None = None,
    forward_only: bool = False,
    memory: int = MEMORY,
) -> lx.FunctionLinearOperator:
    r"""$J^T W J$ of `residuals(y, args)`, any pytree of real arrays.

    - `weights`: a pytree like the residuals, the diagonal of $W$; none: ones. They must
      not be negative.
    - `memory`: with `forward_only`, see `jacobian`.

    **Raises:** `ValueError` if the weights do not fit the residuals.
    """
    value, push, pull = _jacobian_products(residuals, floating(y), args, forward_only, memory)
    if weights is None:
        return _operator(lambda v: pull(push(v)), floating(y), True)
    weights = _like(weights, value, "weights", "residuals")

    def product(vector: PyTree) -> PyTree:
        return pull(jax.tree.map(jnp.multiply, weights, push(vector)))

    return _operator(product, floating(y), True)


def generalised_gauss_newton_operator(
    predictions: Callable[[Any, Any], Any],
    loss: Callable[[Any, Any], Any],
    y: PyTree,
    args: PyTree = None,
    *,
    forward_only: bool = False,
    memory: int = MEMORY,
) -> lx.FunctionLinearOperator:
    r"""$J^T H J$ with $J$ of `predictions(y, args)` and $H$ of `loss(predictions, args)`.

    The loss is a scalar, convex in the predictions: a negative log-likelihood, say. The
    operator is tagged as positive semidefinite, which it is for a convex loss.

    **Raises:** `ValueError` if the loss is not a scalar.

    Source: N. N. Schraudolph, Neural Comput. 14, 1723 (2002).
    """
    y = floating(y)
    value, push, pull = _jacobian_products(predictions, y, args, forward_only, memory)

    def of_predictions(value: PyTree) -> Array:
        return _scalar(loss(value, args), "loss")

    _, curve = jax.linearize(jax.grad(of_predictions), value)
    return _operator(lambda v: pull(curve(push(v))), y, True)


def fisher_operator(
    predictions: Callable[[Any, Any], Any],
    information: Callable[[Any, Any], Any],
    y: PyTree,
    args: PyTree = None,
    *,
    forward_only: bool = False,
    memory: int = MEMORY,
) -> lx.FunctionLinearOperator:
    r"""The Fisher information $J^T I J$ of independent measurements.

    - `predictions(y, args)`: what determines the law of each measurement: means, and
      scales as further leaves if they are fitted.
    - `information(predictions, args)`: the expected information of each measurement by
      its predictions, a pytree like them. For a normal law it is $1/s^2$ by the mean and
      $2/s^2$ by the scale; for a Poisson law one over the mean. `sampled_information`
      estimates it from any log-likelihood.

    Leaves are taken as orthogonal: the information of a mean with a scale is zero, as it
    is for normal, Laplace, Student and negative binomial laws.

    **Raises:** `ValueError` if the information does not fit the predictions.
    """
    y = floating(y)
    value, push, pull = _jacobian_products(predictions, y, args, forward_only, memory)
    weights = _like(information(value, args), value, "information", "predictions")
    return _operator(lambda v: pull(jax.tree.map(jnp.multiply, weights, push(v))), y, True)


def sampled_information(
    log_likelihood: Callable[[Any, Any], Any],
    draw: Callable[[Any, Any], Any],
    predictions: PyTree,
    key: PRNGKeyArray,
    draws: int = 1000,
) -> Estimate:
    """The expected information of each measurement: the mean square of its score.

    - `log_likelihood(predictions, measured)`: of all measurements, or their sum.
    - `draw(key, predictions)`: new measurements.
    - `predictions`: pytree of arrays, one entry for each measurement.

    The value and its standard error are pytrees like the predictions.
    """
    predictions = floating(predictions)

    def squared_score(key: PRNGKeyArray) -> PyTree:
        measured = jax.lax.stop_gradient(draw(key, predictions))
        score = jax.grad(lambda p: jnp.sum(log_likelihood(p, measured)))(predictions)
        return jax.tree.map(jnp.square, score)

    return mean_of(jax.vmap(squared_score)(jax.random.split(key, draws)))


def empirical_fisher_operator(
    log_likelihoods: Callable[[Any, Any], Any],
    y: PyTree,
    args: PyTree = None,
    *,
    forward_only: bool = False,
    memory: int = MEMORY,
) -> lx.FunctionLinearOperator:
    r"""$\sum_i s_i s_i^T$ with the score $s_i$ of each measurement.

    `log_likelihoods(y, args)` gives the logarithm of each measurement's density, a pytree
    of arrays. It is not the Fisher information, unless model and data agree: see
    F. Kunstner, L. Balles and P. Hennig, NeurIPS (2019).
    """
    return gauss_newton_operator(
        log_likelihoods, y, args, forward_only=forward_only, memory=memory
    )


def _operator(product: Linear, y: PyTree, positive: bool) -> lx.FunctionLinearOperator:
    structure = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), y)
    tags = [lx.symmetric_tag, lx.positive_semidefinite_tag] if positive else lx.symmetric_tag
    return lx.FunctionLinearOperator(product, structure, tags)


def _jacobian_products(
    function: Callable[[Any, Any], Any],
    y: PyTree,
    args: PyTree,
    forward_only: bool,
    memory: int,
) -> tuple[PyTree, Linear, Linear]:
    """The value, products with the Jacobian and with its transpose."""
    if not forward_only:
        value, push = jax.linearize(lambda y: floating(function(y, args)), y)
        transposed = jax.linear_transpose(push, y)
        return value, push, lambda cotangent: transposed(cotangent)[0]
    # A product that cannot be transposed (a loop of unknown length) is kept as a matrix.
    value = floating(function(y, args))
    matrix = jacobian(function, y, args, memory=memory)
    _, unravel = ravel_pytree(y)
    _, unravel_value = ravel_pytree(value)
    return (
        value,
        lambda vector: unravel_value(matrix @ ravel_pytree(vector)[0]),
        lambda vector: unravel(ravel_pytree(vector)[0] @ matrix),
    )


def _scalar(value: Any, name: str) -> Float[Array, ""]:
    value = jnp.asarray(value)
    if value.shape != ():
        raise ValueError(f"The {name} has shape {value.shape}, expected a scalar.")
    return value


def _like(tree: PyTree, pattern: PyTree, name: str, of: str) -> PyTree:
    if jax.tree.structure(tree) != jax.tree.structure(pattern):
        raise ValueError(f"The {name} came with another structure than the {of}.")
    shapes = [
        (jnp.shape(a), b.shape)
        for a, b in zip(*map(jax.tree.leaves, (tree, pattern)), strict=True)
    ]
    for came, wanted in shapes:
        if came not in ((), wanted):
            raise ValueError(
                f"The {name} came with a leaf of shape {came}, expected {wanted} as the {of}."
            )
    return jax.tree.map(
        lambda a, b: jnp.broadcast_to(jnp.asarray(a, b.dtype), b.shape), tree, pattern
    )
