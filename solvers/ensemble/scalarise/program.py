"""A straight-line program: scalar operations in order, each used by those after it."""

import dataclasses
import hashlib
from typing import Literal


Kind = Literal["real", "truth"]

ARITHMETIC = ("add", "sub", "mul", "div", "neg", "abs", "min", "max", "rem", "pow")
"""Real operations with one or two real operands, as of IEEE 754 in double precision.

`min` and `max` give NaN if an operand is; `rem` has the sign of the dividend, as C's fmod.
"""

FUNCTIONS = (
    "sqrt", "cbrt", "exp", "expm1", "log", "log1p",
    "sin", "cos", "tan", "asin", "acos", "atan", "atan2",
    "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
    "erf", "erfc", "lgamma", "floor", "ceil", "round", "sign",
)  # fmt: skip
"""Elementary functions of one real operand; `atan2` has two. `round` goes to even."""

COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne", "is_finite")
"""Of reals, with a truth as result; `is_finite` has one operand."""

LOGIC = ("and", "or", "xor", "not")
"""Of truths."""

OPERATIONS = (*ARITHMETIC, *FUNCTIONS, *COMPARISONS, *LOGIC, "select")
"""All operations. `select(truth, a, b)` is `a` where the truth holds, else `b`."""

Operand = int | float | bool
"""The number of a value (a plain `int`), or a constant: a `float`, or a `bool`."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation.

    - `name`: one of `OPERATIONS`.
    - `operands`: values computed before it, or constants.
    """

    name: str
    operands: tuple[Operand, ...]

    @property
    def kind(self) -> Kind:
        """What it gives; a `select` is of reals."""
        return "truth" if self.name in COMPARISONS or self.name in LOGIC else "real"


@dataclasses.dataclass(frozen=True)
class Program:
    """Scalar operations that compute `outputs` from `inputs` real numbers.

    Value `i` is the input of that number, or the result of operation `i - inputs`.
    """

    inputs: int
    operations: tuple[Operation, ...]
    outputs: tuple[Operand, ...]

    def digest(self) -> str:
        """A name that two programs share only if they are the same; stable for ever.

        Constants are told apart by all their digits, and zeros by their sign.
        """
        text = repr(
            (self.inputs, [(o.name, o.operands) for o in self.operations], self.outputs)
        )
        return hashlib.sha256(text.encode()).hexdigest()
