"""From a function of JAX to a straight-line program, by walking its trace."""

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Literal

from solvers.ensemble.scalarise.arrays import (
    as_symbols,
    boxed,
    each,
    is_symbolic,
    settle,
    stack,
)
from solvers.ensemble.scalarise.builder import Builder, Element, Symbol, TooManyOperations
from solvers.ensemble.scalarise.elementwise import (
    Unsupported,
    choose_case,
    elementwise,
)
from solvers.ensemble.scalarise.movement import combined, moved
from solvers.ensemble.scalarise.program import Program
from solvers.ensemble.scalarise.refusal import NotScalarisable, refusal


LIMIT = 5_000
"""Operations of a program beyond which compiling takes longer than it is worth."""

_CALLS = frozenset(
    {
        "pjit", "jit", "closed_call", "core_call", "core_closed_call", "call",
        "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
        "remat", "remat2", "checkpoint", "composite",
    }
)  # fmt: skip

_REPEATS = 100_000
"""Rounds of a loop, which may do nothing, before it is given up."""

_FEW = 4_096
"""Elements of a constant up to which it is computed with here, not compiled."""


def scalarise(
    function: Callable[..., Any], *shapes: tuple[int, ...], limit: int = LIMIT
) -> Program:
    """The program of a function of arrays of reals, and of its derivatives likewise.

    Inputs and outputs of the program are the elements of the arguments and of the leaves
    of the result, one after another. Constants are folded and equal values computed once;
    a product with a constant zero is zero whatever the other factor is, so that Jacobians
    (`jax.jacfwd(function)`) come out sparse. A `cond` whose predicate depends on the
    arguments computes both branches and selects; loops of a known number of rounds are
    written out; whole numbers that depend on the arguments are carried as reals.

    **Arguments:**

    - `shapes`: the shapes of the arguments.
    - `limit`: the most operations.

    **Raises:** `NotScalarisable`, which names the primitive and the line in the source,
    for what has no straight-line program: loops whose end depends on the arguments,
    indices that do, random numbers, complex numbers, other precisions, side effects, a
    function that closes over a traced value, and more operations than the limit.
    """
    reals = jnp.result_type(float)
    arguments = [jax.ShapeDtypeStruct(shape, reals) for shape in shapes]
    traced = jax.make_jaxpr(function)(*arguments)
    sizes = [int(np.prod(shape)) for shape in shapes]
    builder = Builder(sum(sizes), 4 * limit)
    ends = np.cumsum(sizes)
    values = []
    for shape, size, end in zip(shapes, sizes, ends, strict=True):
        numbers = np.empty(size, object)
        for place in range(size):
            numbers[place] = Symbol(int(end) - size + place)
        values.append(numbers.reshape(shape))
    walk = _Walk(builder, limit, reals)
    outputs: list[Element] = []
    for result in walk.run(traced.jaxpr, traced.consts, values):
        for element in as_symbols(np.asarray(result)).reshape(-1):
            truth = isinstance(element, bool) or (
                isinstance(element, Symbol) and element.kind == "truth"
            )
            outputs.append(builder.make("select", element, 1.0, 0.0) if truth else element)
    program = builder.finish(outputs)
    if len(program.operations) > limit:
        raise NotScalarisable(
            f"The function takes {len(program.operations)} operations, of at most {limit}."
        )
    return program


class _Walk:
    """Writes out the equations of a trace, one after another."""

    def __init__(self, builder: Builder, limit: int, reals: Any):
        self._builder = builder
        self._limit = limit
        self._reals = reals
        self._outermost: Any = None

    def run(
        self, program: Any, constants: Sequence[Any], arguments: Sequence[Any]
    ) -> list[Any]:
        """The results of a traced program."""
        known: dict[Any, Any] = {}

        def read(variable: Any) -> Any:
            if isinstance(variable, Literal):
                return _concrete(variable.val, variable.aval)
            return known[variable]

        for variable, value in zip(program.constvars, constants, strict=True):
            known[variable] = _concrete(value, variable.aval)
        known.update(zip(program.invars, arguments, strict=True))
        for equation in _needed(program):
            outermost = self._outermost is None
            if outermost:
                self._outermost = equation
            values = [read(variable) for variable in equation.invars]
            results = self._equation(equation, values)
            for variable, result in zip(equation.outvars, results, strict=True):
                known[variable] = self._checked(equation, variable.aval, result)
            if outermost:
                self._outermost = None
        return [read(variable) for variable in program.outvars]

    def _refuse(self, equation: Any, reason: str) -> NotScalarisable:
        return refusal(self._outermost or equation, equation.primitive.name, reason)

    def _checked(self, equation: Any, kind: Any, result: Any) -> Any:
        if jnp.issubdtype(kind.dtype, jax.dtypes.extended):
            return result
        result = settle(boxed(result), kind.dtype)
        if not is_symbolic(result):
            return result
        if np.issubdtype(kind.dtype, np.floating) and kind.dtype != self._reals:
            raise self._refuse(equation, f"computes in {kind.dtype}, not in {self._reals}")
        if np.issubdtype(kind.dtype, np.complexfloating):
            raise self._refuse(equation, "computes with complex numbers")
        return result

    def _equation(self, equation: Any, values: list[Any]) -> list[Any]:
        name = equation.primitive.name.replace("-", "_")
        try:
            if name in _CALLS:
                return self._call(equation, values)
            if name == "cond":
                return self._cond(equation, values)
            if name == "scan":
                return self._scan(equation, values)
            if name == "while":
                return self._while(equation, values)
            if not any(map(is_symbolic, values)):
                return self._evaluate(name, equation, values)
            results = self._written_out(name, equation, values)
            if results is None:
                raise self._refuse(equation, "has no straight-line program")
            return results
        except Unsupported as reason:
            raise self._refuse(equation, f"{reason} has no straight-line program") from None
        except TooManyOperations:
            raise self._refuse(
                equation, f"makes the program longer than {self._limit} operations"
            ) from None

    def _written_out(self, name: str, equation: Any, values: list[Any]) -> list[Any] | None:
        results = moved(name, equation, values)
        if results is not None:
            return results
        result = elementwise(self._builder, name, equation, values)
        if result is None:
            result = combined(self._builder, name, equation, values)
        return None if result is None else [result]

    def _evaluate(self, name: str, equation: Any, values: list[Any]) -> list[Any]:
        """The results of an equation whose operands are all known."""
        if all(map(_is_plain, values)) and (values or name == "iota"):
            # Compiling takes longer than a few numbers by hand.
            try:
                results = self._written_out(name, equation, values)
            except Unsupported:
                results = None
            if results is not None:
                return results
        return _compute(equation, values)

    def _call(self, equation: Any, values: list[Any]) -> list[Any]:
        if _is_bell(equation):
            return [each(self._bell, values[0])]
        inner = next(
            equation.params[name]
            for name in ("jaxpr", "call_jaxpr", "fun_jaxpr")
            if name in equation.params
        )
        return self._closed(inner, values)

    def _bell(self, x: Any) -> Any:
        make = self._builder.make
        return make("exp", make("neg", make("mul", x, x)))

    def _closed(self, inner: Any, values: Sequence[Any]) -> list[Any]:
        if hasattr(inner, "consts"):
            return self.run(inner.jaxpr, inner.consts, values)
        return self.run(inner, (), values)

    def _cond(self, equation: Any, values: list[Any]) -> list[Any]:
        which, *arguments = values
        branches = equation.params["branches"]
        if not is_symbolic(which):
            chosen = min(max(int(which), 0), len(branches) - 1)
            return self._closed(branches[chosen], arguments)
        results = [self._closed(branch, arguments) for branch in branches]
        selected = []
        for variable, cases in zip(equation.outvars, zip(*results, strict=True), strict=True):
            if not all(isinstance(case, np.ndarray) for case in cases):
                raise Unsupported("between random keys")
            of_truths = variable.aval.dtype == np.bool_
            choices = stack(list(cases))
            result = np.empty(choices.shape[1:], object)
            for place in np.ndindex(*result.shape):
                some = [choices[(i, *place)] for i in range(len(cases))]
                result[place] = choose_case(self._builder, which.item(), some, of_truths)
            selected.append(result)
        return selected

    def _scan(self, equation: Any, values: list[Any]) -> list[Any]:
        params = equation.params
        constants, carried = _of_scan(params)
        fixed, rest = values[:constants], values[constants:]
        carry, sequences = rest[:carried], rest[carried:]
        rounds = range(params["length"])
        rows: list[list[Any]] = []
        for place in reversed(rounds) if params["reverse"] else rounds:
            here = [boxed(sequence[place]) for sequence in sequences]
            results = self._closed(params["jaxpr"], [*fixed, *carry, *here])
            carry = results[:carried]
            rows.append(results[carried:])
        if params["reverse"]:
            rows.reverse()
        stacked = []
        for place, variable in enumerate(equation.outvars[carried:]):
            some = [row[place] for row in rows]
            empty = np.empty(variable.aval.shape, variable.aval.dtype)
            stacked.append(stack(some) if some else empty)
        return [*carry, *stacked]

    def _while(self, equation: Any, values: list[Any]) -> list[Any]:
        params = equation.params
        first, second = params["cond_nconsts"], params["body_nconsts"]
        of_test, of_body = values[:first], values[first : first + second]
        carry = values[first + second :]
        for _ in range(_REPEATS):
            (going,) = self._closed(params["cond_jaxpr"], [*of_test, *carry])
            if is_symbolic(going):
                raise self._refuse(equation, "runs until something computed says stop")
            if not going:
                return carry
            carry = self._closed(params["body_jaxpr"], [*of_body, *carry])
        raise self._refuse(equation, f"runs for more than {_REPEATS} rounds")


def _needed(program: Any) -> list[Any]:
    """The equations whose results are used, or that do something else."""
    wanted = {x for x in program.outvars if not isinstance(x, Literal)}
    kept = []
    for equation in reversed(program.eqns):
        if equation.effects or any(x in wanted for x in equation.outvars):
            wanted.update(x for x in equation.invars if not isinstance(x, Literal))
            kept.append(equation)
    kept.reverse()
    return kept


def _concrete(value: Any, kind: Any) -> Any:
    """A constant of a trace as a NumPy array, or as it is if it is a random key."""
    if isinstance(value, Tracer):
        raise NotScalarisable("The function closes over a traced value.")
    if jnp.issubdtype(kind.dtype, jax.dtypes.extended):
        return value
    return np.asarray(value, dtype=kind.dtype)


def _is_bell(equation: Any) -> bool:
    """Whether this is exp(-x^2) of jax 0.12, which splits the bits of numbers in halves."""
    inner = equation.params.get("call_jaxpr")
    source = str(getattr(getattr(inner, "debug_info", None), "func_src_info", ""))
    function, _, place = source.partition(" at ")
    return function == "exp_neg_sq" and PurePath(place).parts[-4:-1] == ("jax", "_src", "lax")


def _of_scan(params: Any) -> tuple[int, int]:
    """How many constants and how many carried values a scan has."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    # From jax 0.12 on the three kinds of operands come as trees.
    constants, carried, _ = params["ft_in"].unpack()
    return len(constants), len(carried)


def _is_plain(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.size <= _FEW and value.dtype.kind in "bif"


def _compute(equation: Any, values: list[Any]) -> list[Any]:
    """The results of a primitive, computed by JAX."""
    primitive = equation.primitive
    with jax.ensure_compile_time_eval():
        operands = [
            jnp.asarray(value) if isinstance(value, np.ndarray) else value for value in values
        ]
        found = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
        results = found if primitive.multiple_results else [found]
        return [
            _concrete(result, variable.aval)
            for result, variable in zip(results, equation.outvars, strict=True)
        ]
