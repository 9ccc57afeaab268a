"""What was seen, when, by whom and with what noise."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from simkit.fitting.noise import typical_scale


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

    Raises `ValueError` for an unknown observable or if nothing was measured.
    """
    names = [item.name for item in observables]
    labels = ["" for _ in time] if group is None else [str(label) for label in group]
    groups = tuple(dict.fromkeys(labels))
    rows: dict[str, dict[tuple[float, int], dict[int, float]]] = {label: {} for label in groups}
    for label, when, what, number in zip(labels, time, observable, value, strict=True):
        if what not in names:
            raise ValueError(f"There is no observable {what!r}; there are {names}.")
        if np.isfinite(number):
            _place(rows[label], float(when), names.index(what), float(number))
    empty = [label for label, found in rows.items() if not found]
    if empty or not rows:
        raise ValueError(f"There are no measurements{f' in group {empty[0]!r}' * bool(empty)}.")
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
    return {
        name: np.array([float(inputs[label][name]) for label in groups])
        for name in sorted(names)
    }
