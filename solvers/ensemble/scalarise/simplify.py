"""Operations that need not be done, or can be done by cheaper ones."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from solvers.ensemble.scalarise.program import COMPARISONS


if TYPE_CHECKING:
    from solvers.ensemble.scalarise.builder import Builder


MOST_POWER = 64
"""Whole powers up to which multiplications are used: their rounding errors add up."""


def simplified(builder: "Builder", name: str, operands: tuple[Any, ...]) -> Any | None:
    """The result without this operation, or `None` if it has to be done."""
    if name in COMPARISONS:
        return _compared_choice(builder, name, operands)
    rule = _RULES.get(name)
    return None if rule is None else rule(builder, *operands)


def _is_constant(x: Any) -> bool:
    return isinstance(x, float)


def _negated(builder: "Builder", x: Any) -> Any | None:
    """What `x` is the negative of, if it was written so."""
    operation = builder.definition(x)
    if operation is None or operation.name != "neg":
        return None
    return builder.element(operation.operands[0])


def _add(builder: "Builder", x: Any, y: Any) -> Any | None:
    if x == 0.0 and _is_constant(x):
        return y
    if y == 0.0 and _is_constant(y):
        return x
    opposite = _negated(builder, y)
    if opposite is not None:
        return builder.make("sub", x, opposite)
    opposite = _negated(builder, x)
    return None if opposite is None else builder.make("sub", y, opposite)


def _sub(builder: "Builder", x: Any, y: Any) -> Any | None:
    if y == 0.0 and _is_constant(y):
        return x
    if x == 0.0 and _is_constant(x):
        return builder.make("neg", y)
    opposite = _negated(builder, y)
    if opposite is not None:
        return builder.make("add", x, opposite)
    opposite = _negated(builder, x)
    if opposite is None:
        return None
    return builder.make("neg", builder.make("add", opposite, y))


def _mul(builder: "Builder", x: Any, y: Any) -> Any | None:
    if _is_constant(x):
        x, y = y, x
    if _is_constant(y):
        if y == 0.0:
            return 0.0
        if abs(y) == 1.0:
            return x if y == 1.0 else builder.make("neg", x)
    opposite = _negated(builder, x)
    if opposite is not None:
        if _is_constant(y):
            return builder.make("mul", opposite, -y)
        return builder.make("neg", builder.make("mul", opposite, y))
    opposite = _negated(builder, y)
    if opposite is None:
        return None
    return builder.make("neg", builder.make("mul", x, opposite))


def _div(builder: "Builder", x: Any, y: Any) -> Any | None:
    if _is_constant(x) and x == 0.0:
        return 0.0
    if _is_constant(y) and abs(math.frexp(y)[0]) == 0.5 and 1e-300 < abs(y) < 1e300:
        return builder.make("mul", x, 1.0 / y)  # exact for a power of two
    opposite = _negated(builder, x)
    if opposite is not None:
        return builder.make("neg", builder.make("div", opposite, y))
    opposite = _negated(builder, y)
    if opposite is None:
        return None
    return builder.make("neg", builder.make("div", x, opposite))


def _neg(builder: "Builder", x: Any) -> Any | None:
    operation = builder.definition(x)
    if operation is None:
        return None
    if operation.name == "neg":
        return builder.element(operation.operands[0])
    if operation.name == "sub":
        first, second = map(builder.element, operation.operands)
        return builder.make("sub", second, first)
    return None


def _abs(builder: "Builder", x: Any) -> Any | None:
    operation = builder.definition(x)
    if operation is not None and operation.name == "abs":
        return x
    opposite = _negated(builder, x)
    return None if opposite is None else builder.make("abs", opposite)


def _same(builder: "Builder", x: Any, y: Any) -> Any | None:
    del builder
    return x if x == y else None


def _pow(builder: "Builder", x: Any, y: Any) -> Any | None:
    if not _is_constant(y):
        return None
    if y == int_part(y) and abs(y) <= MOST_POWER:
        return whole_power(builder, x, int(y))
    if abs(y) == 0.5:
        root = builder.make("sqrt", x)
        return root if y > 0 else builder.make("div", 1.0, root)
    return None


def int_part(y: float) -> float:
    """The whole part of a number; of what is not finite, NaN."""
    return float(math.trunc(y)) if math.isfinite(y) else math.nan


def whole_power(builder: "Builder", x: Any, exponent: int) -> Any:
    """A whole power by repeated squaring."""
    if exponent < 0:
        return builder.make("div", 1.0, whole_power(builder, x, -exponent))
    result: Any = 1.0
    while exponent:
        if exponent & 1:
            result = builder.make("mul", result, x)
        exponent >>= 1
        if exponent:
            x = builder.make("mul", x, x)
    return result


def _select(builder: "Builder", truth: Any, x: Any, y: Any) -> Any | None:
    if isinstance(truth, bool):
        return x if truth else y
    if x == y and math.copysign(1, _sign(x)) == math.copysign(1, _sign(y)):
        return x
    operation = builder.definition(truth)
    if operation is not None and operation.name == "not":
        return builder.make("select", builder.element(operation.operands[0]), y, x)
    return None


def _sign(x: Any) -> float:
    return x if _is_constant(x) else 1.0


def _not(builder: "Builder", x: Any) -> Any | None:
    operation = builder.definition(x)
    if operation is None or operation.name != "not":
        return None
    return builder.element(operation.operands[0])


def _and(builder: "Builder", x: Any, y: Any) -> Any | None:
    del builder
    if isinstance(x, bool):
        return y if x else False
    if isinstance(y, bool):
        return x if y else False
    return x if x == y else None


def _or(builder: "Builder", x: Any, y: Any) -> Any | None:
    del builder
    if isinstance(x, bool):
        return True if x else y
    if isinstance(y, bool):
        return True if y else x
    return x if x == y else None


def _xor(builder: "Builder", x: Any, y: Any) -> Any | None:
    if isinstance(x, bool):
        x, y = y, x
    if isinstance(y, bool):
        return builder.make("not", x) if y else x
    return None


def _compared_choice(builder: "Builder", name: str, operands: tuple[Any, ...]) -> Any | None:
    """A comparison of a choice between two constants with a constant is that choice.

    So a truth that was turned into a number, as the index of a `cond`, becomes a truth
    again.
    """
    if len(operands) != 2 or not any(map(_is_constant, operands)):
        return None
    place = 1 if _is_constant(operands[0]) else 0
    operation = builder.definition(operands[place])
    if operation is None or operation.name != "select":
        return None
    truth, *choices = map(builder.element, operation.operands)
    if not all(map(_is_constant, choices)):
        return None
    other = operands[1 - place]
    both: list[Any] = [
        builder.make(name, *((x, other) if place == 0 else (other, x))) for x in choices
    ]
    if both[0] == both[1]:
        return both[0]
    return truth if both[0] else builder.make("not", truth)


_RULES: dict[str, Callable[..., Any | None]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "abs": _abs,
    "min": _same,
    "max": _same,
    "pow": _pow,
    "select": _select,
    "not": _not,
    "and": _and,
    "or": _or,
    "xor": _xor,
}
