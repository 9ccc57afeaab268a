"""Whether what a case says of data and fit makes sense, as far as is known without jax."""

import dataclasses
from collections.abc import Iterator

from simkit.catalogue import SystemEntry
from simkit.config.bounds import (
    find_distribution_mistakes,
    find_name_mistakes,
    interval,
    within,
)
from simkit.config.errors import KeyPath, Mistake, described, number
from simkit.config.schema import Case, DataTable, FitTable, FreeParameter, ObservableTable


COUNTS = ("poisson", "negative_binomial")
"""Noise models of counts: whole numbers from zero."""

_DEFAULT_DEGREES = 4.0


@dataclasses.dataclass(frozen=True)
class _Quantity:
    """What is known of a quantity that is to be fitted.

    - `path`: its place in [fit].
    - `lower`, `upper`: the declared bounds, `None` where there is none.
    - `value`: its value in the case, `None` where nobody knows it yet.
    - `value_path`: where the case gives the value, `None` where it does not.
    """

    path: KeyPath
    lower: float | None = None
    upper: float | None = None
    value: float | None = None
    value_path: KeyPath | None = None


def find_data_mistakes(case: Case, system: SystemEntry | None) -> Iterator[Mistake]:
    """Mistakes in [data], the file itself left aside."""
    data = case.data
    if data is None:
        return
    for name, observable in data.observables.items():
        yield from _find_observable_mistakes(name, observable, data, system)
    if data.group == data.time:
        yield _taken(("data", "group"), data.time, "data.time")
    if system is not None:
        yield from find_name_mistakes(
            data.inputs, system.inputs, ("data", "inputs"), f"input of {system.name}"
        )
    for name in data.inputs:
        if name in case.system.inputs:
            yield Mistake(
                ("data", "inputs", name),
                f"is given beside system.inputs.{name}",
                "only one of the two",
            )


def find_fit_mistakes(case: Case, system: SystemEntry | None) -> Iterator[Mistake]:
    """Mistakes in [fit]."""
    fit, data = case.fit, case.data
    if fit is None:
        return
    if data is None:
        yield Mistake(("fit",), "is given without [data]", "a [data] table too")
        return
    if system is not None and system.kind == "SDE":
        yield Mistake(
            ("fit",),
            f"is given for {system.name}, which is stochastic",
            "a system without noise of its own",
        )
    if system is not None:
        yield from find_name_mistakes(
            fit.parameters,
            system.parameters,
            ("fit", "parameters"),
            f"parameter of {system.name}",
        )
        yield from find_name_mistakes(
            fit.initial_state,
            system.states,
            ("fit", "initial_state"),
            f"state of {system.name}",
        )
    yield from find_name_mistakes(
        fit.noise, data.observables, ("fit", "noise"), "observable of [data]"
    )
    yield from _find_noise_mistakes(fit, data)
    if not _has_free(fit, data):
        yield Mistake(("fit",), "leaves nothing free", "at least one entry in fit.parameters")
    for free, quantity in _free_quantities(case, system):
        yield from _find_free_mistakes(free, quantity, data)


def _find_observable_mistakes(
    name: str, observable: ObservableTable, data: DataTable, system: SystemEntry | None
) -> Iterator[Mistake]:
    path = ("data", "observables", name)
    if system is not None:
        for mistake in find_name_mistakes(
            {observable.state: observable.state},
            system.states,
            (),
            f"state of {system.name}",
        ):
            yield dataclasses.replace(
                mistake,
                path=(*path, "state"),
                came=f"is {described(observable.state)}",
            )
    taken = {"data.time": data.time, "data.group": data.group}
    for key, column in taken.items():
        if observable.column == column:
            yield _taken((*path, "column"), observable.column, key)
    if observable.noise == "poisson" and observable.sd is not None:
        yield Mistake(
            (*path, "sd"),
            f"is {described(observable.sd)}",
            "no sd, for poisson noise has no scale",
        )
    if observable.noise != "student_t" and observable.degrees_of_freedom != _DEFAULT_DEGREES:
        yield Mistake(
            (*path, "degrees_of_freedom"),
            f"is {described(observable.degrees_of_freedom)}",
            f"it only with student_t noise, and noise is {observable.noise}",
        )


def _taken(path: KeyPath, column: str, by: str) -> Mistake:
    return Mistake(path, f"is {described(column)}, the column of {by}", "another column")


def _find_noise_mistakes(fit: FitTable, data: DataTable) -> Iterator[Mistake]:
    for name in fit.noise:
        observable = data.observables.get(name)
        if observable is None:
            continue
        path = ("fit", "noise", name)
        if observable.noise == "poisson":
            yield Mistake(
                path,
                "is given, and the noise of the observable is poisson, which has no scale",
                "an observable with another noise model",
            )
        elif observable.sd is not None:
            yield Mistake(
                path,
                f"is given beside data.observables.{name}.sd = {number(observable.sd)}",
                "only one of the two",
            )


def _has_free(fit: FitTable, data: DataTable) -> bool:
    estimated = any(
        item.sd is None and item.noise != "poisson" for item in data.observables.values()
    )
    return bool(fit.parameters or fit.initial_state or fit.noise or estimated)


def _free_quantities(
    case: Case, system: SystemEntry | None
) -> Iterator[tuple[FreeParameter, _Quantity]]:
    fit, table = case.fit, case.system
    assert fit is not None
    declared = system.parameters if system else {}
    for name, free in fit.parameters.items():
        path = ("fit", "parameters", name)
        entry = declared.get(name)
        given = name in table.parameters
        yield (
            free,
            _Quantity(
                path,
                entry.lower if entry else None,
                entry.upper if entry else None,
                table.parameters.get(name, entry.default if entry else None),
                ("system", "parameters", name) if given else None,
            ),
        )
    states = system.states if system else {}
    for name, free in fit.initial_state.items():
        state = states.get(name)
        given = name in table.initial_state
        yield (
            free,
            _Quantity(
                ("fit", "initial_state", name),
                value=table.initial_state.get(name, state.default if state else None),
                value_path=("system", "initial_state", name) if given else None,
            ),
        )
    for name, free in fit.noise.items():
        yield free, _Quantity(("fit", "noise", name), lower=0.0)


def _find_free_mistakes(
    free: FreeParameter, quantity: _Quantity, data: DataTable
) -> Iterator[Mistake]:
    path = quantity.path
    for end in ("lower", "upper"):
        bound = getattr(free, end)
        if bound is not None and not within(bound, quantity.lower, quantity.upper):
            yield Mistake(
                (*path, end),
                f"is {described(bound)}",
                f"a number {interval(quantity.lower, quantity.upper)}",
            )
    lower = free.lower if free.lower is not None else quantity.lower
    upper = free.upper if free.upper is not None else quantity.upper
    if lower is not None and upper is not None and lower >= upper:
        yield _crossed(free, lower, upper, path)
        return
    if free.each and data.group is None:
        yield Mistake(
            (*path, "each"), "is true without data.group", "a column in data.group too"
        )
    yield from _find_scale_mistakes(free, lower, upper, path)
    if free.prior is not None:
        yield from find_distribution_mistakes(free.prior, lower, upper, (*path, "prior"))
    yield from _find_start_mistakes(free, lower, upper, quantity)


def _crossed(free: FreeParameter, lower: float, upper: float, path: KeyPath) -> Mistake:
    if free.lower is not None:
        wanted = f"a number below {number(upper)}, the upper bound"
        return Mistake((*path, "lower"), f"is {described(lower)}", wanted)
    wanted = f"a number above {number(lower)}, the lower bound"
    return Mistake((*path, "upper"), f"is {described(upper)}", wanted)


def _find_scale_mistakes(
    free: FreeParameter, lower: float | None, upper: float | None, path: KeyPath
) -> Iterator[Mistake]:
    if free.scale == "logit" and (lower is None or upper is None):
        missing = "lower" if lower is None else "upper"
        yield Mistake(
            (*path, "scale"),
            f'is "logit" (text) without the bound {missing}',
            "both bounds, or scale log or linear",
        )
    if free.scale == "log" and lower is not None and lower < 0:
        key = "lower" if free.lower is not None else "scale"
        came = (
            f"is {described(lower)} with scale log"
            if key == "lower"
            else (f'is "log" (text) where the lower bound is {number(lower)}')
        )
        yield Mistake((*path, key), came, "a lower bound of at least 0, or scale linear")
    if free.scale == "log" and upper is not None and upper <= 0:
        yield Mistake(
            (*path, "scale"),
            f'is "log" (text) where the upper bound is {number(upper)}',
            "a range of positive numbers, or scale linear",
        )


def _find_start_mistakes(
    free: FreeParameter, lower: float | None, upper: float | None, quantity: _Quantity
) -> Iterator[Mistake]:
    path = (*quantity.path, "start")
    if free.start is not None:
        low, high = free.start
        if low >= high:
            yield Mistake((*path, 0), f"is {described(low)}", f"a number below {number(high)}")
            return
        for index, value in enumerate(free.start):
            if not within(value, lower, upper):
                yield Mistake(
                    (*path, index),
                    f"is {described(value)}",
                    f"a number {interval(lower, upper)} (the bounds)",
                )
        if free.scale == "log" and low <= 0 and within(low, lower, upper):
            yield Mistake(
                (*path, 0), f"is {described(low)}", "a positive number, for scale is log"
            )
        return
    bounded = lower is not None and upper is not None
    if quantity.value_path is None and (free.prior is not None or bounded):
        return  # the default of the system is not needed then
    value = quantity.value
    if value is not None and not within(value, lower, upper):
        yield Mistake(
            quantity.value_path or quantity.path,
            f"is {described(value)}"
            if quantity.value_path
            else (f"starts about the default of the system, {number(value)}"),
            f"a number {interval(lower, upper)} (the bounds in [fit])",
        )
