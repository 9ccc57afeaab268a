"""Which way a derivative is best computed: by a model of costs, or by the clock."""

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from solvers.curvature.dense import hessian
from solvers.curvature.flat import floating


class Derivative(enum.Enum):
    """What is asked for."""

    gradient = "the gradient of a scalar"
    jacobian = "the Jacobian of many outputs"
    hessian_vector_product = "the product of the Hessian of a scalar with one vector"
    hessian = "the Hessian of a scalar"


class Way(enum.Enum):
    """How it is computed."""

    forward = "tangents of the inputs"
    reverse = "cotangents of the outputs"
    forward_over_reverse = "tangents of the gradient"
    forward_over_forward = "tangents of tangents"


_WAYS = {
    Derivative.gradient: (Way.forward, Way.reverse),
    Derivative.jacobian: (Way.forward, Way.reverse),
    Derivative.hessian_vector_product: (Way.forward_over_reverse, Way.forward_over_forward),
    Derivative.hessian: (Way.forward_over_reverse, Way.forward_over_forward),
}


@dataclass(frozen=True)
class Costs:
    """Costs in units of one evaluation of the function.

    The defaults were measured on 2026-11-21 through `solve` with Tsit5 at 1e-7: Lotka-
    Volterra systems of 2, 4 and 6 species with 6, 20 and 42 parameters, forward mode with
    `Forward()`, reverse mode with the default gradient, on a busy machine of 2 cores. They
    are right to a factor of about two; where that matters, `measure`.

    - `start`: of forward mode at all.
    - `tangent`: of one more tangent, many going together.
    - `second`: of one more second-order tangent of a scalar, many going together.
    - `record`: of reverse mode at all: the record that the cotangents read.
    - `cotangent`: of one more cotangent.
    - `column`: of one more tangent of the gradient.
    """

    start: float = 5.0
    tangent: float = 0.12
    second: float = 0.25
    record: float = 14.0
    cotangent: float = 1.0
    column: float = 11.0

    def of(self, wanted: Derivative, way: Way, inputs: int, outputs: int = 1) -> float:
        """The cost of a derivative computed this way."""
        match wanted, way:
            case Derivative.gradient | Derivative.jacobian, Way.forward:
                return self.start + self.tangent * inputs
            case Derivative.gradient | Derivative.jacobian, Way.reverse:
                return self.record + self.cotangent * outputs
            case Derivative.hessian_vector_product, Way.forward_over_reverse:
                return self.record + self.cotangent + self.column
            case Derivative.hessian_vector_product, Way.forward_over_forward:
                return self.start + (self.tangent + self.second) * inputs
            case Derivative.hessian, Way.forward_over_reverse:
                return self.record + self.cotangent + self.column * inputs
            case Derivative.hessian, Way.forward_over_forward:
                # One entry of the upper triangle each.
                return self.start + self.second * inputs * (inputs + 1) / 2
            case _:
                raise ValueError(f"{wanted.name} is not computed by {way.name}.")


def ways(wanted: Derivative, *, forward_only: bool = False) -> tuple[Way, ...]:
    """The ways that there are; `forward_only` leaves out those that need reverse mode."""
    forward = (Way.forward, Way.forward_over_forward)
    return tuple(way for way in _WAYS[wanted] if way in forward or not forward_only)


def choose_derivative(
    wanted: Derivative,
    inputs: int,
    outputs: int = 1,
    *,
    forward_only: bool = False,
    costs: Costs | None = None,
) -> Way:
    """The cheapest way for a function of these sizes, by a model of its costs.

    The default costs are those of a trajectory; `measure` asks the function itself.

    **Raises:** `ValueError` for sizes below one, and for many outputs where a scalar is
    differentiated.
    """
    if inputs < 1 or outputs < 1:
        raise ValueError(f"{inputs} inputs and {outputs} outputs came, expected at least one.")
    if wanted is not Derivative.jacobian and outputs != 1:
        raise ValueError(f"{outputs} outputs came; {wanted.value} has one.")
    model = Costs() if costs is None else costs
    return min(
        ways(wanted, forward_only=forward_only),
        key=lambda way: model.of(wanted, way, inputs, outputs),
    )


def differentiate(
    wanted: Derivative, way: Way, function: Callable[[Any, Any], Any]
) -> Callable[..., Array]:
    """`derivative(y, args)` of `function(y, args)` this way; for the product also a vector.

    Results are arrays in the order of `jax.flatten_util.ravel_pytree`: `(inputs,)` for the
    gradient and the product (`derivative(y, args, vector)`, a vector like `y`),
    `(outputs, inputs)` for the Jacobian and `(inputs, inputs)` for the Hessian.

    **Raises:** `ValueError` if that derivative is not computed this way.
    """
    if way not in _WAYS[wanted]:
        raise ValueError(f"{wanted.name} is not computed by {way.name}.")
    forward = way in (Way.forward, Way.forward_over_forward)
    first = jax.jacfwd if forward else jax.jacrev

    def derivative(y: PyTree, args: PyTree = None, vector: PyTree | None = None) -> Array:
        flat, unravel = ravel_pytree(floating(y))

        def on_vectors(x: Array) -> Array:
            return ravel_pytree(floating(function(unravel(x), args)))[0]

        def scalar(x: Array) -> Array:
            return jnp.reshape(function(unravel(x), args), ())

        if wanted is Derivative.jacobian:
            return first(on_vectors)(flat)
        if wanted is Derivative.gradient:
            return first(scalar)(flat)
        if wanted is Derivative.hessian:
            return hessian(function, y, args, forward_only=forward)
        along = ravel_pytree(vector)[0]
        if forward:
            # The gradient of the slope along the vector: tangents of one tangent.
            return jax.jacfwd(lambda x: jax.jvp(scalar, (x,), (along,))[1])(flat)
        return jax.jvp(jax.grad(scalar), (flat,), (along,))[1]

    return derivative


@dataclass(frozen=True)
class Timing:
    """What the clock says of the ways to compute one derivative of one function.

    - `best`: the fastest way.
    - `seconds`, `compile_seconds`: by way: the least time of a call, and of the first one.
    - `refused`: by way, why a function cannot be differentiated so.
    """

    best: Way
    seconds: dict[Way, float]
    compile_seconds: dict[Way, float]
    refused: dict[Way, str]


def measure(
    wanted: Derivative,
    function: Callable[[Any, Any], Any],
    y: PyTree,
    args: PyTree = None,
    *,
    repeats: int = 5,
    forward_only: bool = False,
) -> Timing:
    """Time every way on the function itself; each is compiled, so it takes some seconds.

    **Raises:** `ValueError` if no way serves, with what was said of each.
    """
    y = floating(y)
    vector = (y,) if wanted is Derivative.hessian_vector_product else ()
    seconds, first, refused = {}, {}, {}
    for way in ways(wanted, forward_only=forward_only):
        call = jax.jit(differentiate(wanted, way, function))
        try:
            first[way] = _seconds(call, y, args, *vector)
        except (TypeError, ValueError, NotImplementedError) as error:
            # What jax and the guards of a solve raise for a mode that they have not.
            refused[way] = str(error)
            continue
        seconds[way] = min(_seconds(call, y, args, *vector) for _ in range(repeats))
    if not seconds:
        said = "; ".join(f"{way.name}: {words}" for way, words in refused.items())
        raise ValueError(f"No way computes {wanted.value}. {said}")
    return Timing(min(seconds, key=lambda way: seconds[way]), seconds, first, refused)


def _seconds(call: Callable[..., Any], *arguments: Any) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    return time.perf_counter() - begin
