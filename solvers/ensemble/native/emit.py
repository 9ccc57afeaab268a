"""From a program to LLVM code: every value a vector, one number in each lane."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from llvmlite import ir

from solvers.ensemble.native.build import F64, Build
from solvers.ensemble.native.functions import LIBRARY, VECTORS, by_library
from solvers.ensemble.scalarise.program import Operand, Program


FUNCTION_PREFIX = "elementary."
"""Of the names of elementary functions in a module."""


def emit(b: Build, program: Program, inputs: Sequence[Any]) -> list[Any]:
    """Append the operations of a program.

    A product that only a sum uses is fused with it, so that results do not depend on how
    LLVM would fuse them.

    **Returns:** the outputs, vectors of reals.
    """
    values = list(inputs)
    fused = _fused_products(program)
    for number, operation in enumerate(program.operations, program.inputs):
        if number in fused:
            values.append(None)
            continue
        values.append(_emit_operation(b, program, values, operation, fused))
    return [_value(b, values, operand) for operand in program.outputs]


def _is_number(operand: Operand) -> TypeGuard[int]:
    return type(operand) is int


def _value(b: Build, values: list[Any], operand: Operand) -> Any:
    if isinstance(operand, bool):
        return b.truth(operand)
    if isinstance(operand, float):
        return b.real(operand)
    return values[operand]


def _fused_products(program: Program) -> frozenset[int]:
    """The numbers of the products that are part of exactly one sum or difference."""
    uses = Counter(filter(_is_number, program.outputs))
    for operation in program.operations:
        uses.update(filter(_is_number, operation.operands))
    found: set[int] = set()
    for operation in program.operations:
        if operation.name not in ("add", "sub"):
            continue
        for operand in operation.operands:
            if not _is_number(operand) or operand < program.inputs or uses[operand] > 1:
                continue
            if program.operations[operand - program.inputs].name == "mul":
                found.add(operand)
                break
    return frozenset(found)


def _emit_operation(
    b: Build, program: Program, values: list[Any], operation: Any, fused: frozenset[int]
) -> Any:
    operands = operation.operands
    for place, operand in enumerate(operands):
        if _is_number(operand) and operand in fused:
            product = program.operations[operand - program.inputs].operands
            x, y = (_value(b, values, factor) for factor in product)
            other = _value(b, values, operands[1 - place])
            if operation.name == "sub":
                # a b - c, or c - a b
                if place == 0:
                    other = b.neg(other)
                else:
                    x = b.neg(x)
            return b.fma(x, y, other)
    return apply(b, operation.name, [_value(b, values, operand) for operand in operands])


def apply(b: Build, name: str, operands: list[Any]) -> Any:
    """One operation on vectors."""
    if name in VECTORS or name in LIBRARY:
        function = _function(b, name, len(operands))
        if b.kind == F64:
            return b.ir.call(function, operands)
        # Elementary functions of single numbers take the way of double ones.
        doubles = [b.ir.fpext(x, ir.VectorType(F64, b.lanes)) for x in operands]
        return b.ir.fptrunc(b.ir.call(function, doubles), b.reals)
    if name in _COMPARED:
        return b.compare(_COMPARED[name], *operands)
    return _DIRECT[name](b, *operands)


def _function(b: Build, name: str, operands: int) -> ir.Function:
    """The function of a module for an elementary function, made at its first use."""
    full = f"{FUNCTION_PREFIX}{name}"
    found = b.module.globals.get(full)
    if found is None:
        doubles = ir.VectorType(F64, b.lanes)
        signature = ir.FunctionType(doubles, [doubles] * operands)
        found = ir.Function(b.module, signature, full)
        found.linkage = "internal"
        inner = Build(found, b.lanes)
        if name in VECTORS:
            result = VECTORS[name](inner, *found.args)
        else:
            result = by_library(inner, LIBRARY[name], tuple(found.args))
        inner.finish(result)
    return found


def _extreme(how: Callable[[Build, Any, Any], Any]) -> Callable[[Build, Any, Any], Any]:
    """Of two numbers, and no number if one is none."""

    def emitted(b: Build, x: Any, y: Any) -> Any:
        return b.select(b.is_nan(x), x, how(b, x, y))

    return emitted


def _sign(b: Build, x: Any) -> Any:
    zero = b.real(0.0)
    signed = b.copy_sign(b.real(1.0), x)
    different = b.either(b.less(x, zero), b.less(zero, x))
    return b.select(different, signed, x)


_COMPARED = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}

_DIRECT: dict[str, Callable[..., Any]] = {
    "add": Build.add,
    "sub": Build.sub,
    "mul": Build.mul,
    "div": Build.div,
    "neg": Build.neg,
    "abs": Build.abs,
    "min": _extreme(Build.minimum),
    "max": _extreme(Build.maximum),
    "sqrt": Build.sqrt,
    "floor": lambda b, x: b.intrinsic("floor", x),
    "ceil": lambda b, x: b.intrinsic("ceil", x),
    "round": lambda b, x: b.intrinsic("rint", x),
    "sign": _sign,
    "is_finite": Build.is_finite,
    "and": Build.both,
    "or": Build.either,
    "xor": lambda b, x, y: b.ir.xor(x, y),
    "not": Build.opposite,
    "select": Build.select,
}
