"""Programs over whole arrays: all lanes at once."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from solvers.ensemble.scalarise import constants
from solvers.ensemble.scalarise.program import Program


def evaluate(program: Program, inputs: Sequence[Any], backend: Any = jnp) -> list[Any]:
    """The outputs for inputs that are arrays of one shape, with NumPy or `jax.numpy`.

    **Arguments:**

    - `inputs`: as many arrays as the program has inputs.
    - `backend`: the module `numpy` or `jax.numpy`.

    **Returns:** arrays of that shape, also for outputs that are constants.
    """
    if len(inputs) != program.inputs:
        raise ValueError(
            f"The program has {program.inputs} inputs, and {len(inputs)} were given."
        )
    functions = constants.FUNCTIONS if backend is np else FUNCTIONS
    values = list(inputs)
    for operation in program.operations:
        operands = [x if isinstance(x, bool | float) else values[x] for x in operation.operands]
        values.append(functions[operation.name](*operands))
    shape = backend.shape(inputs[0]) if inputs else ()
    return [
        backend.full(shape, x) if isinstance(x, bool | float) else values[x]
        for x in program.outputs
    ]


def _select(truth: Any, x: Any, y: Any) -> Any:
    if isinstance(x, float) and isinstance(y, float):
        x = jnp.asarray(x, dtype=float)  # without it the result would be weakly typed
    return jnp.where(truth, x, y)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "div": jnp.divide,
    "neg": jnp.negative,
    "abs": jnp.abs,
    "min": jnp.minimum,
    "max": jnp.maximum,
    "rem": jnp.fmod,
    "pow": jnp.power,
    "sqrt": jnp.sqrt,
    "cbrt": jnp.cbrt,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "tan": jnp.tan,
    "asin": jnp.arcsin,
    "acos": jnp.arccos,
    "atan": jnp.arctan,
    "atan2": jnp.arctan2,
    "sinh": jnp.sinh,
    "cosh": jnp.cosh,
    "tanh": jnp.tanh,
    "asinh": jnp.arcsinh,
    "acosh": jnp.arccosh,
    "atanh": jnp.arctanh,
    "erf": jax.lax.erf,
    "erfc": jax.lax.erfc,
    "lgamma": jax.lax.lgamma,
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "round": jnp.round,
    "sign": jnp.sign,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "is_finite": jnp.isfinite,
    "and": jnp.logical_and,
    "or": jnp.logical_or,
    "xor": jnp.logical_xor,
    "not": jnp.logical_not,
    "select": _select,
}
"""By the name of the operation."""
