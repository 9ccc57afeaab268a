"""What all parts of a kernel share: the arrays of the call, and the lanes' memory."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from solvers.ensemble.native.build import F64, I64, POINTER, Build
from solvers.ensemble.native.emit import emit
from solvers.ensemble.native.memory import LaneMemory, Vectors, make_storage
from solvers.ensemble.native.plan import Explicit, Plan, Rosenbrock
from solvers.ensemble.scalarise.program import Program


CALL = (
    "start",
    "stop",
    "initial",
    "varied",
    "shared",
    "times",
    "keys",
    "settings",
    "saved",
    "final_time",
    "final_state",
    "status",
    "accepted",
    "rejected",
    "members",
    "saves",
    "times_stride",
    "key_words",
    "queue",
)
"""The words of a call, 64 bits each: addresses of arrays, then sizes, then the number of
the next member, which threads take from one after another."""

SETTINGS = ("rtol", "atol", "step", "max_steps")
"""The numbers of the array `settings`."""

ADDRESSES = CALL.index("members")

MOST_UNROLLED = 2500
"""Vector operations of one step up to which it is written out in registers."""


class Worker:
    """A kernel under construction: one thread's work on all members.

    - `registers`: whether the numbers of a step stand in registers; else in memory, with
      loops over the states and the law as a function that is called, which keeps the
      code of large laws small.
    - `poor`: whether one of the shared numbers is none.
    - `active`: where the lanes that have a member stand, as bits.
    """

    def __init__(self, module: ir.Module, plan: Plan, lanes: int, name: str):
        signature = ir.FunctionType(POINTER, [POINTER])
        function = ir.Function(module, signature, name)
        self.build = b = Build(function, lanes)
        self.plan = plan
        self.call = function.args[0]
        self._words = {
            word: b.load(POINTER if i < ADDRESSES else I64, self.call, i)
            for i, word in enumerate(CALL[:-1])
        }
        self.settings = {
            setting: b.splat(b.load(F64, self._words["settings"], i))
            for i, setting in enumerate(SETTINGS)
        }
        self.registers = _is_small(plan)
        self.memory = LaneMemory(b, _lane_sizes(plan))
        self._functions: dict[str, ir.Function] = {}
        self.poor: Any = None
        self.active = b.space(I64)

    def word(self, name: str) -> Any:
        """A word of the call."""
        return self._words[name]

    def room(self, count: int) -> Any:
        """Room for the numbers of a step."""
        return make_storage(self.build, count, self.registers)

    def for_states(self, body: Callable[[Any], None], count: int | None = None) -> None:
        """`body(i)` for each state."""
        count = self.plan.states if count is None else count
        self.build.each(count, body, self.registers)

    def sum_over(self, term: Callable[[Any], Any], count: int) -> Any:
        """The sum of `term(i)`, from 0 on."""
        b = self.build
        total = b.space(b.reals)
        b.store(b.real(0.0), total)
        self.for_states(lambda i: b.store(b.add(b.load(b.reals, total), term(i)), total), count)
        return b.load(b.reals, total)

    def all_over(self, test: Callable[[Any], Any], count: int) -> Any:
        """Whether `test(i)` holds for all, from 0 on."""
        b = self.build
        ones, zeros = b.real(1.0), b.real(0.0)
        failed = self.sum_over(lambda i: b.select(test(i), zeros, ones), count)
        return b.compare("==", failed, zeros)

    def evaluate(
        self, name: str, program: Program, time: Any, y: Any, out: Any, more: Any = None
    ) -> None:
        """A program of the law: inputs are time, states, varied and shared numbers.

        - `name`: of the program in this kernel.
        - `more`: one further vector as the last input.
        """
        b = self.build
        varied, shared = self.memory.part("varied"), self._words["shared"]
        if self.registers:
            inputs = self._inputs(b, time, y, varied, shared)
            inputs += [] if more is None else [more]
            for i, value in enumerate(emit(b, program, inputs)):
                out.store(value, i)
            return
        operands = [time, y.pointer, varied.pointer, shared, out.pointer]
        operands += [] if more is None else [more]
        b.ir.call(self._function(name, program, more is not None), operands)

    def apply(self, name: str, program: Program, parts: list[Any], sizes: list[int]) -> Any:
        """A program of numbers that stand in several places, one after the other."""
        b = self.build
        out = self.room(len(program.outputs))
        if self.registers:
            inputs = [
                part.load(i) for part, n in zip(parts, sizes, strict=True) for i in range(n)
            ]
            for i, value in enumerate(emit(b, program, inputs)):
                out.store(value, i)
            return out
        full = f"{b.function.name}.{name}"
        if name not in self._functions:
            kinds = [POINTER] * (len(parts) + 1)
            made = ir.Function(b.module, ir.FunctionType(ir.VoidType(), kinds), full)
            made.linkage = "internal"
            made.attributes.add("noinline")
            inner = Build(made, b.lanes)
            inputs = [
                inner.load(inner.reals, place, i)
                for place, n in zip(made.args[:-1], sizes, strict=True)
                for i in range(n)
            ]
            for i, value in enumerate(emit(inner, program, inputs)):
                inner.store(value, made.args[-1], i)
            inner.finish()
            self._functions[name] = made
        places = [part.pointer for part in parts]
        b.ir.call(self._functions[name], [*places, out.pointer])
        return out

    def _inputs(self, b: Build, time: Any, y: Any, varied: Any, shared: Any) -> list[Any]:
        plan = self.plan
        return [
            time,
            *(y.load(i) for i in range(plan.states)),
            *(varied.load(i) for i in range(plan.varied)),
            *(b.splat(b.load(F64, shared, i)) for i in range(plan.shared)),
        ]

    def _function(self, name: str, program: Program, more: bool) -> ir.Function:
        if name in self._functions:
            return self._functions[name]
        b = self.build
        kinds = [b.reals, POINTER, POINTER, POINTER, POINTER] + [b.reals] * more
        made = ir.Function(
            b.module, ir.FunctionType(ir.VoidType(), kinds), f"{b.function.name}.{name}"
        )
        made.linkage = "internal"
        made.attributes.add("noinline")
        inner = Build(made, b.lanes)
        time, y, varied, shared, out, *rest = made.args
        places = Vectors(inner, y), Vectors(inner, varied)
        inputs = [*self._inputs(inner, time, *places, shared), *rest]
        for i, value in enumerate(emit(inner, program, inputs)):
            inner.store(value, out, i)
        inner.finish()
        self._functions[name] = made
        return made


def _is_small(plan: Plan) -> bool:
    method, n = plan.method, plan.states
    if isinstance(method, Explicit):
        s = method.stages
        size = s * len(method.drift.operations) + n * s * (s + 1) // 2
    elif isinstance(method, Rosenbrock):
        s = method.stages
        inner = len(method.drift.operations) + len(method.solve.operations)
        size = s * inner + len(method.factors.operations) + n * s * s
    else:
        size = 2 * len(method.law.operations) + 8 * n
    return size <= MOST_UNROLLED


def _lane_sizes(plan: Plan) -> dict[str, int]:
    """Vectors by name; flags are reals, zero if not set.

    Times are counted in the direction of the solve. `begin` and `steps` are of constant
    steps, `clip` is the saved time at which a step must end.
    """
    single = (
        "member", "active", "fresh", "status", "direction", "time", "next", "stop", "floor",
        "saved", "save_time", "clip", "accepted", "attempts", "begin", "steps",
    )  # fmt: skip
    sizes = dict.fromkeys(single, 1)
    many = {"y": plan.states, "slope": plan.states, "saved_states": plan.states}
    return {**sizes, **many, "key": 4, "varied": plan.varied}
