"""What was seen, when, by whom and with what noise."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from simkit.fitting.noise import COUNTS, MODELS, typical_scale


@dataclasses.dataclass(frozen=True)
class Observable:
    """A state that was observed, and how it scatters.

    - `name`: how tables and pictures call it; `state`: the state it observes.
    - `noise`: a name from `simkit.fitting.noise`.
    - `sd`: its scale; `None` if it is estimated.
    - `unit`: unit as text.
    """

    name: str
    state: str
    noise: str = "normal"
    sd: float | None = None
    degrees_of_freedom: float = 4.0
    unit: str = "1"


class Measurements(eqx.Module):
    """Measurements of several groups (subjects, experiments), padded to one shape.

    - `groups`: their labels; one empty label where the data have no groups.
    - `observables`: what was observed.
    - `times`: shape `(groups, times)`, increasing; the last is repeated as padding.
    - `values`: shape `(groups, times, observables)`, 1 where nothing was measured.
    - `present`: of the same shape, whether something was measured.
    - `inputs`: known inputs by name, shape `(groups,)`.
    """

    groups: tuple[str, ...] = eqx.field(static=True)
    observables: tuple[Observable, ...] = eqx.field(static=True)
    times: Float[np.ndarray, "groups times"]
    values: Float[np.ndarray, "groups times observables"]
    present: Bool[np.ndarray, "groups times observables"]
    inputs: dict[str, Float[np.ndarray, " groups"]]

    @property
    def stops(self) -> Float[Array | np.ndarray, " groups"]:
        """The last time of each group."""
        return self.times[:, -1]

    @property
    def count(self) -> int:
        """How many single measurements there are."""
        return int(np.sum(self.present))

    def spread(self, observable: int) -> float:
        """A first guess of the noise scale of an observable."""
        seen = self.present[:, :, observable]
        model = self.observables[observable].noise
        return typical_scale(model, self.values[:, :, observable][seen])


def measurements_from_rows(
    observables: Sequence[Observable],
    *,
    time: Sequence[float],
    observable: Sequence[str],
    value: Sequence[float],
    group: Sequence[str] | None = None,
    inputs: Mapping[str, Mapping[str, float]] | None = None,
) -> Measurements:
    """Build measurements from long form: one row per single measurement.

    **Arguments:**

    - `observables`: what was observed; their `name` is what the rows refer to.
    - `time`, `observable`, `value`, `group`: columns of equal length; a missing value
      is left out or NaN.
    - `inputs`: for each group label its known inputs.

    Raises `ValueError` for an unknown observable or noise model, for columns of different
    lengths, for a time that is no finite number, for a value that its noise model cannot
    give, for a group without inputs, and for a group or an observable without any
    measurement.
    """
    names = [item.name for item in observables]
    _check_columns(observables, time, observable, value, group)
    labels = ["" for _ in time] if group is None else [str(label) for label in group]
    groups = tuple(dict.fromkeys(labels))
    rows: dict[str, dict[tuple[float, int], dict[int, float]]] = {label: {} for label in groups}
    for label, when, what, number in zip(labels, time, observable, value, strict=True):
        if what not in names:
            raise ValueError(f"There is no observable {what!r}; there are {names}.")
        item = observables[names.index(what)]
        _check_row(item, float(when), float(number))
        if not np.isnan(number):
            _place(rows[label], float(when), names.index(what), float(number))
    _check_something_measured(names, rows)
    length = max(len(times) for times in rows.values())
    shape = (len(groups), length, len(names))
    times, values, present = np.zeros(shape[:2]), np.ones(shape), np.zeros(shape, dtype=bool)
    for g, label in enumerate(groups):
        ordered = sorted(rows[label])
        whens = [when for when, _ in ordered]
        times[g] = whens + whens[-1:] * (length - len(whens))
        for t, place in enumerate(ordered):
            for o, number in rows[label][place].items():
                values[g, t, o], present[g, t, o] = number, True
    known = _input_arrays(groups, inputs or {})
    return Measurements(groups, tuple(observables), times, values, present, known)


def _check_columns(
    observables: Sequence[Observable],
    time: Sequence[float],
    observable: Sequence[str],
    value: Sequence[float],
    group: Sequence[str] | None,
) -> None:
    for item in observables:
        if item.noise not in MODELS:
            raise ValueError(
                f"The noise of {item.name} is {item.noise!r}, expected one of {list(MODELS)}."
            )
    columns = {"time": time, "observable": observable, "value": value}
    if group is not None:
        columns["group"] = group
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"The columns have different lengths ({told}).")


def _check_something_measured(
    names: list[str], rows: dict[str, dict[tuple[float, int], dict[int, float]]]
) -> None:
    empty = [label for label, found in rows.items() if not found]
    if not rows:
        raise ValueError("There are no measurements.")
    if empty:
        raise ValueError(f"There are no measurements in group {empty[0]!r}.")
    seen = {o for found in rows.values() for values in found.values() for o in values}
    for o, name in enumerate(names):
        if o not in seen:
            raise ValueError(f"There are no measurements of {name}.")


def _check_row(item: Observable, when: float, number: float) -> None:
    if not np.isfinite(when):
        raise ValueError(
            f"A measurement of {item.name} has the time {when:g}, no finite number."
        )
    if np.isnan(number):
        return
    if np.isinf(number):
        expected = "a finite number, or NaN where nothing was measured"
    elif item.noise == "log_normal" and number <= 0:
        expected = "a positive number for log_normal noise"
    elif item.noise in COUNTS and (number < 0 or number != round(number)):
        expected = f"a whole number from zero for {item.noise} noise"
    else:
        return
    raise ValueError(f"{item.name} at time {when:g} is {number:g}, expected {expected}.")


def _place(
    rows: dict[tuple[float, int], dict[int, float]], when: float, observable: int, number: float
) -> None:
    """Put a measurement beside others of its time; a repeated one gets a row of its own."""
    repeat = 0
    while observable in rows.get((when, repeat), {}):
        repeat += 1
    rows.setdefault((when, repeat), {})[observable] = number


def _input_arrays(
    groups: tuple[str, ...], inputs: Mapping[str, Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    names = {name for values in inputs.values() for name in values}
    for label in groups:
        lacking = sorted(names - set(inputs.get(label, {})))
        if lacking:
            raise ValueError(f"The input {lacking[0]} of group {label!r} is not given.")
    return {
        name: np.array([float(inputs[label][name]) for label in groups])
        for name in sorted(names)
    }
