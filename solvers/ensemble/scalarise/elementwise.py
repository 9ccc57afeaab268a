"""Primitives of JAX that act on each element by itself, as operations of programs."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.lax import RoundingMethod

from solvers.ensemble.scalarise.arrays import each
from solvers.ensemble.scalarise.builder import Builder, Element
from solvers.ensemble.scalarise.simplify import whole_power


Rule = Callable[[Builder, Any, list[np.ndarray]], np.ndarray]
"""From the equation and its operands to the result."""


class Unsupported(Exception):
    """An operation that no program has; the message says why."""


SAME_NAME = (
    "neg", "abs", "rem", "pow", "sqrt", "cbrt", "exp", "expm1", "log", "log1p",
    "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh",
    "asinh", "acosh", "atanh", "erf", "erfc", "lgamma", "floor", "ceil", "sign",
    "is_finite",
)  # fmt: skip
"""Primitives that are operations of programs under the same name."""

COMPARED = {"lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "eq": "eq", "ne": "ne"}
"""Comparisons; also those of total order, which differ for NaN alone."""

NOT_OF_WHOLE_NUMBERS = frozenset({"div", "rem", "pow"})
"""Operations that mean something else for whole numbers."""


def elementwise(
    builder: Builder, name: str, equation: Any, values: list[np.ndarray]
) -> np.ndarray | None:
    """The result of a primitive of this name, or `None` if there is no such rule.

    **Raises:** `Unsupported` if the primitive is known but not for these types.
    """
    rule = _RULES.get(name)
    if rule is not None:
        return rule(builder, equation, values)
    operation = name if name in SAME_NAME else _ARITHMETIC.get(name)
    if operation is None:
        return None
    kinds = [variable.aval.dtype for variable in equation.invars]
    if operation in NOT_OF_WHOLE_NUMBERS and np.issubdtype(kinds[0], np.integer):
        raise Unsupported("of whole numbers that depend on the arguments")
    return each(lambda *x: builder.make(operation, *x), *values)


_ARITHMETIC = {"add": "add", "add_any": "add", "sub": "sub", "mul": "mul", "div": "div"}


def _extremum(name: str, of_truths: str) -> Rule:
    def rule(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
        operation = of_truths if _is_truth(equation.invars[0]) else name
        return each(lambda x, y: builder.make(operation, x, y), *values)

    return rule


def _comparison(name: str) -> Rule:
    def rule(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
        def compare(x: Element, y: Element) -> Element:
            if not _is_truth(equation.invars[0]):
                return builder.make(name, x, y)
            if name not in ("eq", "ne"):
                raise Unsupported("of truths")
            different = builder.make("xor", x, y)
            return different if name == "ne" else builder.make("not", different)

        return each(compare, *values)

    return rule


def _logic(name: str) -> Rule:
    def rule(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
        if not _is_truth(equation.invars[0]):
            raise Unsupported("of the bits of whole numbers that depend on the arguments")
        return each(lambda *x: builder.make(name, *x), *values)

    return rule


def _is_truth(variable: Any) -> bool:
    return variable.aval.dtype == np.bool_


def choose(
    builder: Builder, truth: Element, x: Element, y: Element, of_truths: bool
) -> Element:
    """`x` where the truth holds, else `y`."""
    if not of_truths:
        return builder.make("select", truth, x, y)
    other = builder.make("and", builder.make("not", truth), y)
    return builder.make("or", builder.make("and", truth, x), other)


def choose_case(
    builder: Builder, which: Element, cases: list[Element], of_truths: bool
) -> Element:
    """The case of that number; of too small or too large a number the first or last."""
    result = cases[0]
    for number, case in enumerate(cases[1:], 1):
        reached = builder.make("ge", which, float(number))
        result = choose(builder, reached, case, result, of_truths)
    return result


def _select_n(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
    of_truths = _is_truth(equation.outvars[0])
    by_truth = _is_truth(equation.invars[0])

    def select(which: Element, *cases: Element) -> Element:
        if by_truth:
            return choose(builder, which, cases[-1], cases[0], of_truths)
        return choose_case(builder, which, list(cases), of_truths)

    return each(select, *values)


def _clamp(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
    del equation

    def clamp(low: Element, x: Element, high: Element) -> Element:
        return builder.make("min", builder.make("max", x, low), high)

    return each(clamp, *values)


def _integer_pow(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
    exponent = int(equation.params["y"])
    return each(lambda x: whole_power(builder, x, exponent), *values)


def _square(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
    del equation
    return each(lambda x: builder.make("mul", x, x), *values)


def _one_minus_square(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
    del equation

    def product(x: Element) -> Element:
        return builder.make("mul", builder.make("add", x, 1.0), builder.make("sub", 1.0, x))

    return each(product, *values)


def _polynomial(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
    """By Horner's rule, from the lowest coefficient on."""
    del equation

    def horner(x: Element, *coefficients: Element) -> Element:
        total = coefficients[-1]
        for coefficient in reversed(coefficients[:-1]):
            total = builder.make("add", builder.make("mul", total, x), coefficient)
        return total

    return each(horner, *np.broadcast_arrays(*values))


def _rsqrt(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
    del equation
    return each(lambda x: builder.make("div", 1.0, builder.make("sqrt", x)), *values)


def _exp2(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
    del equation
    return each(lambda x: builder.make("pow", 2.0, x), *values)


def _log2(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
    del equation
    return each(lambda x: builder.make("div", builder.make("log", x), math.log(2)), *values)


def _logistic(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
    del equation

    def logistic(x: Element) -> Element:
        grown = builder.make("exp", builder.make("neg", x))
        return builder.make("div", 1.0, builder.make("add", grown, 1.0))

    return each(logistic, *values)


def _round(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
    to_even = equation.params["rounding_method"] == RoundingMethod.TO_NEAREST_EVEN

    def rounded(x: Element) -> Element:
        if to_even:
            return builder.make("round", x)
        size = builder.make("abs", x)
        below = builder.make("floor", size)
        far = builder.make("ge", builder.make("sub", size, below), 0.5)
        up = builder.make("select", far, builder.make("add", below, 1.0), below)
        return builder.make("mul", builder.make("sign", x), up)

    return each(rounded, *values)


def _convert(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
    old, new = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype

    def convert(x: Element) -> Element:
        if old == new:
            return x
        if old == np.bool_:
            return builder.make("select", x, 1.0, 0.0)
        if new == np.bool_:
            return builder.make("ne", x, 0.0)
        if np.issubdtype(new, np.integer) and not np.issubdtype(old, np.integer):
            up, down = builder.make("ceil", x), builder.make("floor", x)
            return builder.make("select", builder.make("lt", x, 0.0), up, down)
        return x

    return each(convert, *values)


_RULES: dict[str, Rule] = {
    "min": _extremum("min", "and"),
    "max": _extremum("max", "or"),
    **{name: _comparison(operation) for name, operation in COMPARED.items()},
    **{f"{name}_to": _comparison(name) for name in ("lt", "le", "eq")},
    **{name: _logic(name) for name in ("and", "or", "xor", "not")},
    "select_n": _select_n,
    "clamp": _clamp,
    "integer_pow": _integer_pow,
    "square": _square,
    "one_minus_square": _one_minus_square,
    "polynomial": _polynomial,
    "rsqrt": _rsqrt,
    "exp2": _exp2,
    "log2": _log2,
    "logistic": _logistic,
    "round": _round,
    "convert_element_type": _convert,
}
