"""Whether what a case says of its data makes sense, the file itself left aside."""

import dataclasses
from collections.abc import Iterator

from simkit.catalogue import SystemEntry
from simkit.config.bounds import find_name_mistakes
from simkit.config.errors import KeyPath, Mistake, described
from simkit.config.schema import Case, DataTable, ObservableTable


COUNTS = ("poisson", "negative_binomial")
"""Noise models of counts: whole numbers from zero."""

_DEFAULT_DEGREES = 4.0


def find_data_mistakes(case: Case, system: SystemEntry | None) -> Iterator[Mistake]:
    """Mistakes in [data]."""
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
            f"is {described(observable.degrees_of_freedom)} with {observable.noise} noise",
            "it only with student_t noise",
        )


def _taken(path: KeyPath, column: str, by: str) -> Mistake:
    return Mistake(path, f"is {described(column)}, the column of {by}", "another column")
