"""The operations of programs on NumPy arrays, and on single constants."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def _lgamma(x: float) -> float:
    """The logarithm of the gamma function, infinite at its poles and where it overflows."""
    if math.isinf(x) or (x <= 0 and x == math.floor(x)):
        return math.inf
    try:
        return math.lgamma(x)
    except OverflowError:
        return math.inf


_erf = np.vectorize(math.erf, otypes=[float])
_erfc = np.vectorize(math.erfc, otypes=[float])
_lgammas = np.vectorize(_lgamma, otypes=[float])

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "abs": np.abs,
    "min": np.minimum,
    "max": np.maximum,
    "rem": np.fmod,
    "pow": np.power,
    "sqrt": np.sqrt,
    "cbrt": np.cbrt,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "erf": _erf,
    "erfc": _erfc,
    "lgamma": _lgammas,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "sign": np.sign,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "is_finite": np.isfinite,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "not": np.logical_not,
    "select": np.where,
}
"""By the name of the operation; infinities and NaN as of IEEE 754."""


def fold(name: str, operands: tuple[float | bool, ...]) -> float | bool:
    """The result of an operation on constants."""
    typed = [np.bool_(x) if isinstance(x, bool) else np.float64(x) for x in operands]
    with np.errstate(all="ignore"):
        result = FUNCTIONS[name](*typed)
    return bool(result) if np.asarray(result).dtype == bool else float(result)
