"""Whether what a case says of its fit makes sense, as far as is known without jax."""

import dataclasses
from collections.abc import Iterator

from simkit.catalogue import SystemEntry
from simkit.config.bounds import (
    find_distribution_mistakes,
    find_name_mistakes,
    inside,
    interval,
    open_interval,
    within,
)
from simkit.config.errors import KeyPath, Mistake, described, dotted, number
from simkit.config.optimisers import OPTIMISERS, find_option_mistakes
from simkit.config.schema import (
    Case,
    DataTable,
    Exponential,
    FitTable,
    FreeParameter,
    Gamma,
    Uniform,
)


SQUARES = ("normal", "log_normal")
"""Noise models whose density is that of a square, so that least squares can fit them."""


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
    yield from _find_method_mistakes(fit, data)
    if not _has_free(fit, data):
        yield Mistake(("fit",), "leaves nothing free", "at least one entry in fit.parameters")
    for free, quantity in _free_quantities(case, system):
        yield from _find_free_mistakes(free, quantity, data)


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


def _find_method_mistakes(fit: FitTable, data: DataTable) -> Iterator[Mistake]:
    yield from find_option_mistakes(fit.method, fit.options)
    if not OPTIMISERS[fit.method].squares:
        return
    expected = '"auto", "minimise" or "trust_region_newton"'
    for name, observable in data.observables.items():
        if observable.noise not in SQUARES:
            came = f'is "{fit.method}", and the noise of {name} is {observable.noise}'
            yield Mistake(("fit", "method"), came, expected)
    for table in ("parameters", "initial_state"):
        for name, free in getattr(fit, table).items():
            if isinstance(free.prior, Exponential | Gamma):
                came = f'is "{fit.method}", and the prior of {name} is no normal density'
                yield Mistake(("fit", "method"), came, expected)


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
                # Where there are inputs, the start may follow from them.
                value=table.initial_state.get(
                    name, state.default if state and system and not system.inputs else None
                ),
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
    bounds = lower, upper
    lower, upper = _range_of_starts(free, lower, upper)
    path = (*quantity.path, "start")
    if free.start is not None:
        low, high = free.start
        if low >= high:
            yield Mistake((*path, 0), f"is {described(low)}", f"a number below {number(high)}")
            return
        for index, value in enumerate(free.start):
            if not inside(value, lower, upper):
                expected = f"a number {open_interval(lower, upper)}"
                yield Mistake((*path, index), f"is {described(value)}", expected)
    value, given = quantity.value, quantity.value_path
    if value is None or inside(value, lower, upper):
        return
    if given and free.start is not None and within(value, *bounds):
        return
    if given:
        expected = f"a number {open_interval(lower, upper)}, as {dotted(quantity.path)} says"
        yield Mistake(given, f"is {described(value)}", expected)
    elif free.start is None:
        yield Mistake(
            quantity.path,
            f"starts from the default of the system, {number(value)}",
            f"a start or a value {open_interval(lower, upper)}",
        )


def _range_of_starts(
    free: FreeParameter, lower: float | None, upper: float | None
) -> tuple[float | None, float | None]:
    """The open range in which a fit can start: bounds, scale and prior together."""
    if isinstance(free.prior, Uniform):
        ends = free.prior.lower, free.prior.upper
        lower = ends[0] if lower is None else max(lower, ends[0])
        upper = ends[1] if upper is None else min(upper, ends[1])
    if free.scale == "log":
        lower = 0.0 if lower is None else max(lower, 0.0)
    return lower, upper
