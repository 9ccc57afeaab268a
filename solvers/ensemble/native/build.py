"""A small structured builder of LLVM code for vectors of lanes."""

import struct
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir


F64 = ir.DoubleType()
F32 = ir.FloatType()
I64 = ir.IntType(64)
I32 = ir.IntType(32)
I1 = ir.IntType(1)
POINTER = ir.PointerType()


class Build:
    """Appends code to one function of a module.

    Reals, whole numbers and truths of all lanes are vectors `<lanes x double>`,
    `<lanes x i64>` and `<lanes x i1>`; addresses and loop counters are scalars.

    - `function`: the function whose body is built.
    - `lanes`: how many trajectories move side by side.
    - `kind`: of the reals; `F32` makes them vectors of floats.
    """

    def __init__(self, function: ir.Function, lanes: int, kind: Any = F64):
        self.module: ir.Module = function.module
        self.function = function
        self.lanes = lanes
        self.kind = kind
        self.reals = ir.VectorType(kind, lanes)
        self.wholes = ir.VectorType(I64, lanes)
        self.truths = ir.VectorType(I1, lanes)
        # Space on the stack is taken once, before any loop.
        self._entry = function.append_basic_block("entry")
        self._space = ir.IRBuilder(self._entry)
        self.ir: Any = ir.IRBuilder(function.append_basic_block("body"))
        self._body = self.ir.block

    def finish(self, result: Any | None = None) -> None:
        """Return from the function."""
        self._space.branch(self._body)
        if result is None:
            self.ir.ret_void()
        else:
            self.ir.ret(result)

    # Constants.

    def real(self, value: float) -> Any:
        """The same number in all lanes."""
        return ir.Constant(self.reals, [ir.Constant(self.kind, value)] * self.lanes)

    def whole(self, value: int) -> Any:
        """The same whole number in all lanes."""
        signed = value - (1 << 64) if value >= 1 << 63 else value
        return ir.Constant(self.wholes, [ir.Constant(I64, signed)] * self.lanes)

    def truth(self, value: bool) -> Any:
        """The same truth in all lanes."""
        return ir.Constant(self.truths, [ir.Constant(I1, int(value))] * self.lanes)

    def count(self, value: int) -> Any:
        """A scalar whole number."""
        return ir.Constant(I64, value)

    def splat(self, scalar: Any) -> Any:
        """A scalar in all lanes."""
        kind = ir.VectorType(scalar.type, self.lanes)
        one = self.ir.insert_element(
            ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0)
        )
        mask = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.ir.shuffle_vector(one, ir.Constant(kind, ir.Undefined), mask)

    # Arithmetic of reals.

    def intrinsic(self, name: str, *operands: Any) -> Any:
        """A function of LLVM's own, of vectors of reals."""
        kind = operands[0].type
        vector = isinstance(kind, ir.VectorType)
        bits = "f64" if (kind.element if vector else kind) == F64 else "f32"
        full = f"llvm.{name}.v{kind.count}{bits}" if vector else f"llvm.{name}.{bits}"
        declared = self.module.globals.get(full)
        if declared is None:
            signature = ir.FunctionType(kind, [kind] * len(operands))
            declared = ir.Function(self.module, signature, full)
        return self.ir.call(declared, operands)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """`a b + c` with one rounding."""
        return self.intrinsic("fma", a, b, c)

    def add(self, a: Any, b: Any) -> Any:
        """A sum."""
        return self.ir.fadd(a, b)

    def sub(self, a: Any, b: Any) -> Any:
        """A difference."""
        return self.ir.fsub(a, b)

    def mul(self, a: Any, b: Any) -> Any:
        """A product."""
        return self.ir.fmul(a, b)

    def div(self, a: Any, b: Any) -> Any:
        """A quotient."""
        return self.ir.fdiv(a, b)

    def neg(self, a: Any) -> Any:
        """The opposite."""
        return self.ir.fneg(a)

    def abs(self, a: Any) -> Any:
        """The absolute value."""
        return self.intrinsic("fabs", a)

    def sqrt(self, a: Any) -> Any:
        """The square root."""
        return self.intrinsic("sqrt", a)

    def minimum(self, a: Any, b: Any) -> Any:
        """The smaller; where one is no number, the second."""
        return self.select(self.less(a, b), a, b)

    def maximum(self, a: Any, b: Any) -> Any:
        """The larger; where one is no number, the second."""
        return self.select(self.less(b, a), a, b)

    def polynomial(self, x: Any, coefficients: Sequence[float]) -> Any:
        """By Horner's scheme, the highest power first."""
        total = self.real(coefficients[0])
        for c in coefficients[1:]:
            total = self.fma(total, x, self.real(c))
        return total

    def polynomial_by_pairs(self, x: Any, coefficients: Sequence[float]) -> Any:
        """By Estrin's scheme, the highest power first: more operations, less waiting."""
        values = [self.real(c) for c in reversed(coefficients)]
        while len(values) > 1:
            odd = [values.pop()] if len(values) % 2 else []
            pairs = zip(values[::2], values[1::2], strict=True)
            values = [self.fma(high, x, low) for low, high in pairs] + odd
            x = self.mul(x, x)
        return values[0]

    # Truths.

    def compare(self, how: str, a: Any, b: Any) -> Any:
        """`a how b`, false where one is no number (but `!=`, which is true)."""
        if how == "!=":
            return self.ir.fcmp_unordered(how, a, b)
        return self.ir.fcmp_ordered(how, a, b)

    def less(self, a: Any, b: Any) -> Any:
        """`a < b`."""
        return self.compare("<", a, b)

    def is_nan(self, a: Any) -> Any:
        """Whether it is no number."""
        return self.ir.fcmp_unordered("uno", a, a)

    def is_finite(self, a: Any) -> Any:
        """Whether it is a number and not infinite."""
        return self.less(self.abs(a), self.real(float("inf")))

    def both(self, a: Any, b: Any) -> Any:
        """Logical and."""
        return self.ir.and_(a, b)

    def either(self, a: Any, b: Any) -> Any:
        """Logical or."""
        return self.ir.or_(a, b)

    def opposite(self, a: Any) -> Any:
        """Logical not."""
        return self.ir.xor(a, self.truth(True))

    def select(self, truth: Any, a: Any, b: Any) -> Any:
        """`a` where the truth holds, else `b`."""
        return self.ir.select(truth, a, b)

    def bits(self, truths: Any) -> Any:
        """The truths of all lanes as bits of one whole number, the first lane lowest."""
        packed = self.ir.bitcast(truths, ir.IntType(self.lanes))
        return self.ir.zext(packed, I64) if self.lanes < 64 else packed

    # Bits of reals.

    def to_bits(self, a: Any) -> Any:
        """The bits of a real as a whole number."""
        return self.ir.bitcast(a, self.wholes)

    def from_bits(self, a: Any) -> Any:
        """The real of these bits."""
        return self.ir.bitcast(a, self.reals)

    def copy_sign(self, a: Any, sign: Any) -> Any:
        """`a` with the sign of the other."""
        return self.intrinsic("copysign", a, sign)

    # Memory.

    def space(self, kind: Any, count: int = 1) -> Any:
        """Space on the stack for so many vectors or scalars."""
        place: Any = self._space.alloca(ir.ArrayType(kind, count))
        place.align = 64
        place.type = POINTER
        return place

    def at(self, kind: Any, base: Any, index: Any) -> Any:
        """The address of an element."""
        index = self.count(index) if isinstance(index, int) else index
        return self.ir.gep(base, [index], source_etype=kind)

    def load(self, kind: Any, base: Any, index: Any = 0) -> Any:
        """An element of memory."""
        return self.ir.load(self.at(kind, base, index), typ=kind, align=8)

    def store(self, value: Any, base: Any, index: Any = 0) -> None:
        """Write an element of memory."""
        self.ir.store(value, self.at(value.type, base, index), align=8)

    # Control.

    def loop(self, count: Any, body: Callable[[Any], None]) -> None:
        """`body(i)` for `i` from 0 to `count - 1`; the count is a scalar."""
        before = self.ir.block
        head = self.function.append_basic_block("head")
        inside = self.function.append_basic_block("inside")
        after = self.function.append_basic_block("after")
        self.ir.branch(head)
        self.ir.position_at_end(head)
        i = self.ir.phi(I64)
        i.add_incoming(self.count(0), before)
        going = self.ir.icmp_signed("<", i, count)
        self.ir.cbranch(going, inside, after)
        self.ir.position_at_end(inside)
        body(i)
        i.add_incoming(self.ir.add(i, self.count(1)), self.ir.block)
        self.ir.branch(head)
        self.ir.position_at_end(after)

    def each(self, count: int, body: Callable[[Any], None], unrolled: bool) -> None:
        """`body(i)` for each `i`, written out or as a loop."""
        if not unrolled:
            self.loop(self.count(count), body)
            return
        for i in range(count):
            body(i)

    def each_set(self, bits: Any, body: Callable[[Any], None]) -> None:
        """`body(lane)` for each bit that is set."""
        before = self.ir.block
        head = self.function.append_basic_block("bits")
        inside = self.function.append_basic_block("bit")
        after = self.function.append_basic_block("after")
        self.ir.branch(head)
        self.ir.position_at_end(head)
        left = self.ir.phi(I64)
        left.add_incoming(bits, before)
        some = self.ir.icmp_unsigned("!=", left, self.count(0))
        self.ir.cbranch(some, inside, after)
        self.ir.position_at_end(inside)
        body(self.ir.cttz(left, ir.Constant(I1, 1)))
        rest = self.ir.and_(left, self.ir.sub(left, self.count(1)))
        left.add_incoming(rest, self.ir.block)
        self.ir.branch(head)
        self.ir.position_at_end(after)

    @contextmanager
    def when(self, condition: Any, likely: bool | None = None) -> Any:
        """What follows only if a scalar truth holds."""
        with self.ir.if_then(condition, likely):
            yield

    def block(self, name: str) -> Any:
        """A new block of code; jump to it by `ir.branch` and `ir.cbranch`."""
        return self.function.append_basic_block(name)


def nearest_bits(value: float) -> int:
    """The bits of a number."""
    return struct.unpack("<q", struct.pack("<d", value))[0]
