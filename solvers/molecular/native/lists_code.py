"""What the code of neighbour lists is written with: short vectors and lists that grow."""

from typing import Any

from llvmlite import ir

from solvers.ensemble.native.build import F32, I32, I64, POINTER, Build


I8 = ir.IntType(8)

PERMUTED = 8
"""Lanes of the vectors whose chosen lanes are put together by a permutation (AVX2)."""


class ListBuild(Build):
    """Code over vectors of single-precision numbers and of 32-bit indices.

    - `lanes`: numbers in a vector.
    - `permutes`: whether chosen lanes are put side by side by one instruction of AVX2; else
      one after another.
    """

    def __init__(self, function: ir.Function, lanes: int, permutes: bool):
        super().__init__(function, lanes, F32)
        if permutes and lanes != PERMUTED:
            raise ValueError(f"Permutations are of {PERMUTED} lanes, not of {lanes}.")
        self.permutes = permutes
        self.indices = ir.VectorType(I32, lanes)

    # Scalars and vectors.

    def index(self, value: int) -> Any:
        """A scalar of 32 bits."""
        return ir.Constant(I32, value)

    def counting(self, start: Any) -> Any:
        """`start, start + 1, ...` of 32 bits."""
        steps = ir.Constant(self.indices, [ir.Constant(I32, i) for i in range(self.lanes)])
        return self.ir.add(self.splat(start), steps)

    def wide(self, value: Any) -> Any:
        """A 32-bit index as 64 bits."""
        return self.ir.sext(value, I64)

    def narrow(self, value: Any) -> Any:
        """A 64-bit count as 32 bits."""
        return self.ir.trunc(value, I32)

    def smaller(self, a: Any, b: Any) -> Any:
        """The smaller of two scalar counts."""
        return self.ir.select(self.ir.icmp_signed("<", a, b), a, b)

    def larger(self, a: Any, b: Any) -> Any:
        """The larger of two scalar counts."""
        return self.ir.select(self.ir.icmp_signed(">", a, b), a, b)

    def named(self, name: str, *operands: Any) -> Any:
        """A function of LLVM's own by its full name; its result is of the first kind."""
        found = self.module.globals.get(name)
        if found is None:
            signature = ir.FunctionType(operands[0].type, [x.type for x in operands])
            found = ir.Function(self.module, signature, name)
        return self.ir.call(found, operands)

    # Memory: arrays are aligned to their elements only.

    def get(self, kind: Any, base: Any, index: Any) -> Any:
        """A number, or a vector that begins at it."""
        return self.ir.load(self._place(kind, base, index), typ=kind, align=4)

    def put(self, value: Any, base: Any, index: Any) -> None:
        """Write a number, or a vector that begins at it."""
        self.ir.store(value, self._place(value.type, base, index), align=4)

    def _place(self, kind: Any, base: Any, index: Any) -> Any:
        element = kind.element if isinstance(kind, ir.VectorType) else kind
        return self.at(element, base, index)

    def variable(self, kind: Any, value: Any) -> Any:
        """A variable on the stack with a value."""
        place = self.space(kind)
        self.store(value, place)
        return place

    # Control.

    def stretch(self, begin: Any, end: Any, step: int, body: Any) -> None:
        """`body(i)` for `i = begin, begin + step, ...` below `end`."""
        length = self.ir.sub(end, begin)
        times = self.ir.sdiv(self.ir.add(length, self.count(step - 1)), self.count(step))
        self.loop(times, lambda n: body(self.ir.add(begin, self.ir.mul(n, self.count(step)))))

    # Lists that grow.

    def append(self, chosen: Any, place: Any, *lists: tuple[Any, Any]) -> Any:
        """Puts chosen lanes of vectors at a place of arrays; the place behind them.

        Arrays must have room for a whole vector at the place.
        """
        bits = self.bits(chosen)
        if self.permutes:
            order = self._permutation(bits)
            for vector, base in lists:
                self.put(self._permute(vector, order), base, place)
            return self.ir.add(place, self.named("llvm.ctpop.i64", bits))
        spaces = [self._spill(vector) for vector, _ in lists]
        behind = self.variable(I64, place)

        def one(lane: Any) -> None:
            at = self.load(I64, behind)
            for (vector, base), space in zip(lists, spaces, strict=True):
                self.put(self.get(vector.type.element, space, lane), base, at)
            self.store(self.ir.add(at, self.count(1)), behind)

        self.each_set(bits, one)
        return self.load(I64, behind)

    def _spill(self, vector: Any) -> Any:
        space = self.space(vector.type)
        self.put(vector, space, 0)
        return space

    def _permutation(self, bits: Any) -> Any:
        """The lanes whose bits are set, first ones first."""
        row = self.at(I8, self._table(), self.ir.mul(bits, self.count(PERMUTED)))
        packed = self.ir.load(row, typ=ir.VectorType(I8, PERMUTED), align=8)
        return self.ir.zext(packed, self.indices)

    def _table(self) -> Any:
        known = self.module.globals.get("chosen_lanes")
        if known is not None:
            return known
        lanes = range(PERMUTED)
        rows = [[lane for lane in lanes if bits >> lane & 1] for bits in range(1 << PERMUTED)]
        flat = b"".join(bytes((row + [0] * PERMUTED)[:PERMUTED]) for row in rows)
        kind = ir.ArrayType(I8, len(flat))
        table: Any = ir.GlobalVariable(self.module, kind, "chosen_lanes")
        table.initializer = ir.Constant(kind, bytearray(flat))
        table.global_constant = True
        table.linkage = "internal"
        table.align = 64
        table.type = POINTER
        return table

    def _permute(self, vector: Any, order: Any) -> Any:
        kind = vector.type
        words = vector if kind.element == I32 else self.ir.bitcast(vector, self.indices)
        moved = self.named("llvm.x86.avx2.permd", words, order)
        return moved if kind.element == I32 else self.ir.bitcast(moved, kind)
