"""Whether the names and numbers of a case make sense, as far as is known without jax."""

import itertools
from collections.abc import Iterator

from simkit.catalogue import MethodEntry, SystemEntry, catalogue
from simkit.config.bounds import (
    find_distribution_mistakes,
    find_name_mistakes,
    interval,
    within,
)
from simkit.config.data_checks import find_data_mistakes
from simkit.config.errors import Mistake, choice, described, names, number, quoted
from simkit.config.fit_checks import find_fit_mistakes
from simkit.config.schema import Case


MOST_TIMES = 10_000_000
"""More saved times than this are taken for a slip."""


def find_mistakes(case: Case, system: SystemEntry | None = None) -> Iterator[Mistake]:
    """Every mistake in a case whose keys and types are right, table by table.

    Names of parameters, states and inputs are checked against `system`, by default its
    entry in the catalogue. A system of the user's own (`package.module:Class`) has none,
    and its names are left unchecked.
    """
    mistake = _system_type_mistake(case.system.type)
    if mistake:
        yield mistake
        return
    system = system or catalogue().systems.get(case.system.type)
    if not case.title.strip():
        yield Mistake(("title",), f"is {described(case.title)}", "one line for people")
    if system is not None:
        yield from _find_system_mistakes(case, system)
    yield from _find_times_mistakes(case)
    yield from _find_method_mistakes(case, system)
    yield from _find_ensemble_mistakes(case, system)
    yield from find_data_mistakes(case, system)
    yield from find_fit_mistakes(case, system)
    if case.uncertainty is not None and case.fit is None:
        yield Mistake(("uncertainty",), "is given without [fit]", "a [fit] table too")
    if case.output.plots and not case.output.formats:
        yield Mistake(("output", "formats"), "is empty", "at least one of png, svg or pdf")


def _system_type_mistake(kind: str) -> Mistake | None:
    path = ("system", "type")
    if ":" in kind:
        module, _, name = kind.partition(":")
        if name.isidentifier() and all(part.isidentifier() for part in module.split(".")):
            return None
        return Mistake(path, f"is {described(kind)}", "package.module:Class")
    known = catalogue().systems
    if kind in known and known[kind].python_only:
        return Mistake(
            path,
            f"is {described(kind)}, which needs a network and is for Python only",
            f"one of {names(catalogue().case_systems)}",
        )
    if kind not in known:
        known = [*catalogue().case_systems]
        return Mistake(
            path, f"is {described(kind)}", choice(kind, known, "package.module:Class or one of")
        )
    return None


def _find_system_mistakes(case: Case, system: SystemEntry) -> Iterator[Mistake]:
    table, name = case.system, system.name
    path = ("system", "parameters")
    yield from find_name_mistakes(
        table.parameters, system.parameters, path, f"parameter of {name}"
    )
    yield from find_name_mistakes(
        table.initial_state, system.states, ("system", "initial_state"), f"state of {name}"
    )
    yield from find_name_mistakes(
        table.inputs, system.inputs, ("system", "inputs"), f"input of {name}"
    )
    for key, value in table.parameters.items():
        declared = system.parameters.get(key)
        if declared and not within(value, declared.lower, declared.upper):
            yield Mistake(
                (*path, key),
                f"is {described(value)}",
                f"a number {interval(declared.lower, declared.upper)} (in {declared.unit})",
            )


def _find_times_mistakes(case: Case) -> Iterator[Mistake]:
    times = case.times
    start, stop = times.start, times.stop
    if times.save_every is not None and times.save_at is not None:
        yield Mistake(
            ("times", "save_at"), "is given beside times.save_every", "only one of the two"
        )
    if stop is None and case.data is None:
        yield Mistake(("times", "stop"), "is missing", "the end of the simulated time")
    if stop is not None and stop <= start:
        yield Mistake(
            ("times", "stop"),
            f"is {described(stop)}",
            f"a number above times.start = {number(start)}",
        )
        return
    if times.save_every is not None and stop is not None:
        yield from _find_save_every_mistakes(times.save_every, stop - start)
    if times.save_at is not None:
        yield from _find_save_at_mistakes(times.save_at, start, stop)


def _find_save_every_mistakes(every: float, span: float) -> Iterator[Mistake]:
    path = ("times", "save_every")
    if every > span:
        yield Mistake(
            path, f"is {described(every)}", f"at most the simulated time, {number(span)}"
        )
    elif span / every > MOST_TIMES:
        yield Mistake(
            path,
            f"is {described(every)}, which makes {span / every:.3g} saved times",
            f"at most {MOST_TIMES} saved times",
        )


def _find_save_at_mistakes(
    saved: list[float], start: float, stop: float | None
) -> Iterator[Mistake]:
    path = ("times", "save_at")
    if not saved:
        yield Mistake(path, "is an empty list", "at least one time")
    if len(saved) > MOST_TIMES:
        yield Mistake(path, f"is {described(saved)}", f"at most {MOST_TIMES} saved times")
    for index, (earlier, later) in enumerate(itertools.pairwise(saved), start=1):
        if later <= earlier:
            yield Mistake(
                (*path, index),
                f"is {described(later)} after {number(earlier)}",
                "times that increase",
            )
            return
    for index, time in enumerate(saved):
        if time < start or (stop is not None and time > stop):
            end = number(stop) if stop is not None else "the last measurement"
            yield Mistake(
                (*path, index),
                f"is {described(time)}",
                f"a time from times.start = {number(start)} to times.stop = {end}",
            )
            return


def _find_method_mistakes(case: Case, system: SystemEntry | None) -> Iterator[Mistake]:
    table = case.method
    known = catalogue().methods
    path = ("method", "type")
    method = known.get(table.type)
    if method is None:
        suitable = [*system.methods] if system else [*known]
        yield Mistake(path, f"is {described(table.type)}", choice(table.type, suitable))
        return
    if system is not None and method.name not in system.methods:
        yield Mistake(
            path,
            f"is {quoted(method.name)}, which is for {_purpose(method, system)}",
            f"a method for {system.name} ({system.sort}): {names(system.methods)}",
        )
    for name, value in table.options.items():
        if name not in method.options:
            yield Mistake(
                ("method", name),
                f"is {described(value)}, an option that {method.name} does not take",
                f"options of {method.name}: {names(method.options)}",
            )
    yield from _find_step_mistakes(case, method)


def _find_step_mistakes(case: Case, method: MethodEntry) -> Iterator[Mistake]:
    """A constant step that cannot reach the end within the allowed steps."""
    table, stop = case.method, case.times.stop
    step = table.step or method.options.get("step")
    limit = table.max_steps or method.options.get("max_steps")
    if step is None or limit is None or stop is None:
        return
    needed = (stop - case.times.start) / step
    # The solver counts whole steps, and rounding may add one.
    if needed > limit + 1:
        yield Mistake(
            ("method", "step"),
            f"is {number(step)}, which takes {needed:.4g} steps to times.stop",
            f"a larger step, or method.max_steps above {limit}",
        )


def _purpose(method: MethodEntry, system: SystemEntry) -> str:
    if method.kind == "ODE" and system.kind != "SDE":
        return f"another kind of equation (see `simkit methods {method.name}`)"
    if method.kind == "ODE":
        return "ordinary differential equations"
    return f"stochastic differential equations ({method.calculus})"


def _find_ensemble_mistakes(case: Case, system: SystemEntry | None) -> Iterator[Mistake]:
    if case.ensemble is None:
        return
    path = ("ensemble", "parameters")
    declared = system.parameters if system else {}
    if system is not None:
        yield from find_name_mistakes(
            case.ensemble.parameters, declared, path, f"parameter of {system.name}"
        )
        yield from find_name_mistakes(
            case.ensemble.initial_state,
            system.states,
            ("ensemble", "initial_state"),
            f"state of {system.name}",
        )
    for name, distribution in case.ensemble.parameters.items():
        entry = declared.get(name)
        bounds = (entry.lower, entry.upper) if entry else (None, None)
        yield from find_distribution_mistakes(distribution, *bounds, (*path, name))
    for name, distribution in case.ensemble.initial_state.items():
        place = ("ensemble", "initial_state", name)
        yield from find_distribution_mistakes(distribution, None, None, place)
