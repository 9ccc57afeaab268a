"""A case made live: the system, the method and the span of time it names."""

import dataclasses
import importlib
import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from simkit.catalogue import describe_system
from simkit.config.errors import CaseError
from simkit.config.reader import LoadedCase, check_system
from simkit.config.schema import MethodTable, TimesTable
from simkit.config.table import MeasurementTable, read_measurements
from solvers.integrators.base import AbstractMethod
from solvers.integrators.compatibility import check_method
from solvers.problem import InitialValueProblem
from systems.base import AbstractSystem


DEFAULT_SAVES = 101
"""Saved times where a case names none."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is simulated, how, and when it is looked at.

    - `system`, `method`: the model and the way it is solved.
    - `times`: saved times, increasing; the first is not before `start`.
    - `start`: time of the initial state.
    - `initial_state`, `inputs`: by name; the system's own stand where left out.
    - `time_unit`: as text.
    """

    system: AbstractSystem
    method: AbstractMethod
    start: float
    times: np.ndarray
    initial_state: Mapping[str, float] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    time_unit: str = "1"

    def problem(self) -> InitialValueProblem:
        """The initial value problem of the whole span."""
        stop = float(self.times[-1])
        return InitialValueProblem(
            self.system, self.start, stop, self.initial_state, self.inputs
        )


def experiment_from_case(
    loaded: LoadedCase, measurements: MeasurementTable | None = None
) -> Experiment:
    """Build the experiment that a case describes.

    `measurements` are those of the case, where they have been read already.

    Raises `CaseError` for what can only be seen with the live classes.
    """
    case = loaded.case
    kind = _system_class(loaded)
    try:
        system = kind(**case.system.parameters)
        if ":" in case.system.type:  # the catalogue does not know it
            check_system(loaded, describe_system(system))
        method = _method(case.method)
        check_method(system, method)
    except CaseError:
        raise
    except (TypeError, ValueError) as error:
        raise CaseError(
            loaded.source, "system", f"cannot be built ({error})", "values it accepts"
        ) from None
    if measurements is None and case.data is not None and case.times.stop is None:
        measurements = read_measurements(loaded)
    last = max(measurements.time) if measurements is not None else None
    return Experiment(
        system=system,
        method=method,
        start=case.times.start,
        times=_saved_times(case.times, last),
        initial_state=case.system.initial_state,
        inputs=case.system.inputs,
        time_unit=case.times.unit,
    )


def _saved_times(times: TimesTable, last: float | None) -> np.ndarray:
    stop = times.stop if times.stop is not None else last
    assert stop is not None, "the checks of a case ask for a stop where there are no data"
    if times.save_at is not None:
        return np.array(times.save_at, dtype=float)
    if times.save_every is None:
        return np.linspace(times.start, stop, DEFAULT_SAVES)
    # Counted rather than added up, so that a thousandth of a step is not lost.
    count = math.floor((stop - times.start) / times.save_every * (1 + 1e-12))
    return times.start + times.save_every * np.arange(count + 1)


def _method(table: MethodTable) -> AbstractMethod:
    return getattr(importlib.import_module("solvers"), table.type)(**table.options)


def _system_class(loaded: LoadedCase) -> Any:
    name = loaded.case.system.type
    if ":" not in name:
        return getattr(importlib.import_module("systems"), name)
    module_name, _, class_name = name.partition(":")
    # A model of the user's own usually lies beside the case or in the current folder;
    # last in line, so that no file there hides a module of Python's.
    folders = [str(loaded.folder.resolve()), "."]
    sys.path.extend(folders)
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise CaseError(
            loaded.source,
            "system.type",
            f"is {name!r}, which cannot be had ({error})",
            "package.module:Class of an importable module",
        ) from None
    finally:
        for folder in folders:
            sys.path.remove(folder)
    if not (isinstance(found, type) and issubclass(found, AbstractSystem)):
        raise CaseError(
            loaded.source,
            "system.type",
            f"is {name!r}, which is no system",
            "a class that derives from systems.base.AbstractSystem",
        )
    return found
