"""Programs under construction: each value once, constants folded, nothing unused."""

import dataclasses

from solvers.ensemble.scalarise import simplify
from solvers.ensemble.scalarise.constants import fold
from solvers.ensemble.scalarise.program import Kind, Operand, Operation, Program


@dataclasses.dataclass(frozen=True, slots=True)
class Symbol:
    """A value of a program that is not known before it runs."""

    number: int
    kind: Kind = "real"


Element = Symbol | float | bool | int
"""A value, or a constant; whole numbers stand for reals."""

COMMUTATIVE = frozenset({"add", "mul", "min", "max", "eq", "ne", "and", "or", "xor"})


class TooManyOperations(Exception):
    """A program has grown beyond its limit."""


class Builder:
    """Appends operations, each value being computed only once.

    Simplifications are exact in floating point, but for the sign of a zero and two that
    make derivatives sparse: a product with a constant zero is zero, even where the other
    factor is infinite or NaN, and so is a constant zero divided by anything.

    - `inputs`: how many numbers the program takes.
    - `most`: operations, used or not, beyond which `TooManyOperations` is raised.
    """

    def __init__(self, inputs: int, most: int):
        self.inputs = inputs
        self.operations: list[Operation] = []
        self._most = most
        self._known: dict[tuple[object, ...], Symbol] = {}

    def make(self, name: str, *operands: Element) -> Element:
        """The result of an operation: a known value, a constant, or a new value."""
        typed = tuple(float(x) if type(x) is int else x for x in operands)
        if not any(isinstance(x, Symbol) for x in typed):
            return fold(name, typed)  # pyright: ignore[reportArgumentType]
        simple = simplify.simplified(self, name, typed)
        if simple is not None:
            return simple
        if name in COMMUTATIVE:
            typed = tuple(sorted(typed, key=_order))
        return self._append(name, typed)

    def _append(self, name: str, operands: tuple[Element, ...]) -> Symbol:
        key = (name, *map(_identity, operands))
        known = self._known.get(key)
        if known is not None:
            return known
        if len(self.operations) >= self._most:
            raise TooManyOperations
        operation = Operation(name, tuple(map(_operand, operands)))
        self.operations.append(operation)
        symbol = Symbol(self.inputs + len(self.operations) - 1, operation.kind)
        self._known[key] = symbol
        return symbol

    def definition(self, element: Element) -> Operation | None:
        """The operation that computes a value; `None` for inputs and constants."""
        if not isinstance(element, Symbol) or element.number < self.inputs:
            return None
        return self.operations[element.number - self.inputs]

    def element(self, operand: Operand) -> Element:
        """The value or constant that is an operand of an operation."""
        if isinstance(operand, bool | float):
            return operand
        operation = self.definition(Symbol(operand))
        return Symbol(operand, "real" if operation is None else operation.kind)

    def append(self, program: Program, inputs: list[Element]) -> list[Element]:
        """The outputs of another program, whose operations are appended to this one."""
        values = list(inputs)
        for operation in program.operations:
            operands = (_resolve(values, operand) for operand in operation.operands)
            values.append(self.make(operation.name, *operands))
        return [_resolve(values, operand) for operand in program.outputs]

    def finish(self, outputs: list[Element]) -> Program:
        """The program with these outputs, without what they do not need."""
        needed = {x.number for x in outputs if isinstance(x, Symbol)}
        for place in range(len(self.operations) - 1, -1, -1):
            if self.inputs + place in needed:
                needed.update(x for x in self.operations[place].operands if type(x) is int)
        numbers = {i: i for i in range(self.inputs)}
        kept: list[Operation] = []
        for place, operation in enumerate(self.operations, self.inputs):
            if place in needed:
                operands = tuple(
                    numbers[x] if type(x) is int else x for x in operation.operands
                )
                numbers[place] = self.inputs + len(kept)
                kept.append(Operation(operation.name, operands))
        final = (_operand(x) for x in outputs)
        return Program(
            self.inputs, tuple(kept), tuple(numbers[x] if type(x) is int else x for x in final)
        )


def _resolve(values: list[Element], operand: Operand) -> Element:
    return operand if isinstance(operand, bool | float) else values[operand]


def _order(element: Element) -> tuple[int, int]:
    return (0, element.number) if isinstance(element, Symbol) else (1, 0)


def _identity(element: Element) -> object:
    """What tells elements apart; zeros by their sign, and NaN is one constant."""
    return element.number if isinstance(element, Symbol) else repr(element)


def _operand(element: Element) -> Operand:
    if isinstance(element, Symbol):
        return element.number
    return element if isinstance(element, bool) else float(element)
