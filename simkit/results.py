"""What a run leaves behind: labelled, plain numpy values with units.

Nothing here knows jax, a solver, a file or a picture. The store writes these classes
and reads them back bit for bit; analysis and plots stand on them alone. Each array
field says in its metadata which axes it has (`dimensions`), in what unit it is and
whether it labels its axis, so that the store needs no list of its own. A field that came
later has a default, and says since which version of the file it is there (`since`). The
glossary of axes (one that ends in `?` may be absent, `parameter_2` is `parameter` once more):

- `time`: saved times of a trajectory; `member`: members of an ensemble;
- `parameter`: fitted numbers; `start`: starts of a multi-start fit;
- `observation`: single measurements, in long form; `group`: subjects or experiments;
- `point`: points of the smooth curves drawn through the data;
- `derived`: quantities that follow from the parameters; `draw`: posterior draws.
"""

import dataclasses
from dataclasses import field
from typing import Any

import numpy as np


SAME_OPTIMUM = 0.1
"""Starts whose objective is within this of the best have found the same optimum: a
difference far below what the data can tell apart."""


def _axes(
    *dimensions: str,
    unit: str | None = "1",
    unit_from: str = "",
    coordinate: bool = False,
    description: str = "",
    holds: str = "numbers",
) -> dict[str, Any]:
    # What the store tells a reader of the file about an array field, beside its axes:
    # `unit`, `None` where it differs along an axis; `unit_from`, the field, here or in
    # the result that holds this table, that has the unit (a text, or one for each
    # name); `coordinate`, whether the values label the points of the one axis;
    # `description`, one line for people, by default the name of the field; `holds`,
    # whether the values are "numbers", "texts" or "truths".
    return {
        "dimensions": dimensions,
        "unit": unit,
        "unit_from": unit_from,
        "coordinate": coordinate,
        "description": description,
        "holds": holds,
    }


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a result comes from; every value is text, so that any reader shows it.

    - `command`: how the run was asked for.
    - `case_text`: the case file as it was read, or `""` for a run from Python.
    - `configuration`: the resolved case as JSON.
    - `versions`: versions of simkit, Python and the numerical packages, as JSON.
    - `device`: platform, device kind and number of devices.
    - `git_state`: commit and whether the tree was changed, or `""`.
    - `started`, `stopped`: ISO 8601 times with zone.
    - `seed`: the seed of every random draw of the run.
    """

    command: str = ""
    case_text: str = ""
    configuration: str = "{}"
    versions: str = "{}"
    device: str = ""
    git_state: str = ""
    started: str = ""
    stopped: str = ""
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """States over time, of one solve or of an ensemble.

    - `title`: one line for people.
    - `times`: the saved times, shape `(time,)`, in `time_unit`.
    - `states`: for each state its values, shape `(time,)`, or `(member, time)` for an
      ensemble, in `state_units`. Values that were not reached are NaN. Those of a large
      ensemble may stay in a file, as `simkit.stored.StoredArray`.
    - `status`: `"successful"` or why the solve stopped, shape `()` or `(member,)`.
    - `parameters`: values of the parameters, each of shape `()` or, where it varies
      over the ensemble, `(member,)`, in `parameter_units`.
    - `statistics`: counts of the solver, each of shape `()` or `(member,)`.
    - `engine`, `engine_reason`: what solved the members of an ensemble, and why that; `""`
      for one solve, and where an older file does not say.
    """

    title: str
    system: str
    method: str
    times: np.ndarray = field(metadata=_axes("time", unit_from="time_unit", coordinate=True))
    states: dict[str, np.ndarray] = field(
        metadata=_axes(
            "member?", "time", unit_from="state_units", description="states over time"
        )
    )
    status: np.ndarray = field(
        metadata=_axes(
            "member?", description="successful, or why the solve stopped", holds="texts"
        )
    )
    parameters: dict[str, np.ndarray] = field(
        metadata=_axes(
            "member?", unit_from="parameter_units", description="values of the parameters"
        )
    )
    statistics: dict[str, np.ndarray] = field(
        metadata=_axes("member?", description="counts of the solver")
    )
    state_units: dict[str, str] = field(default_factory=dict)
    parameter_units: dict[str, str] = field(default_factory=dict)
    time_unit: str = "1"
    engine: str = field(default="", metadata={"since": 2})
    engine_reason: str = field(default="", metadata={"since": 2})
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def is_ensemble(self) -> bool:
        """Whether there is a member axis."""
        return self.status.ndim == 1

    @property
    def succeeded(self) -> np.ndarray:
        """Which solves reached the end, shape `()` or `(member,)`."""
        return self.status == "successful"


@dataclasses.dataclass(frozen=True)
class ParameterTable:
    """The fitted parameters, one row each.

    - `scale`: `"linear"`, `"log"` or `"logit"`: the coordinate the optimiser moves in.
    - `estimate`: at the optimum, in `unit`.
    - `standard_error`: from the inverse Hessian of the objective at the optimum.
    - `lower`, `upper`: the bounds, infinite where there is none.
    - `at_bound`: whether the estimate lies on a bound within rounding; its standard
      error then means nothing.
    """

    name: np.ndarray = field(metadata=_axes("parameter", coordinate=True, holds="texts"))
    unit: np.ndarray = field(
        metadata=_axes("parameter", description="unit of the row", holds="texts")
    )
    scale: np.ndarray = field(
        metadata=_axes(
            "parameter", description="coordinate in which the optimiser moves", holds="texts"
        )
    )
    estimate: np.ndarray = field(
        metadata=_axes("parameter", unit=None, description="estimate at the optimum")
    )
    standard_error: np.ndarray = field(
        metadata=_axes(
            "parameter", unit=None, description="standard error from the inverse Hessian"
        )
    )
    lower: np.ndarray = field(metadata=_axes("parameter", unit=None, description="lower bound"))
    upper: np.ndarray = field(metadata=_axes("parameter", unit=None, description="upper bound"))
    at_bound: np.ndarray = field(
        metadata=_axes(
            "parameter", description="whether the estimate lies on a bound", holds="truths"
        )
    )


@dataclasses.dataclass(frozen=True)
class StartTable:
    """Every start of a multi-start fit, in the order in which they were drawn.

    - `initial`, `final`: parameters before and after, shape `(start, parameter)`.
    - `objective`: negative log posterior at `final`; NaN for a start that failed.
    - `status`: `"converged"`, or in words why the start does not count.
    - `steps`: iterations of the optimiser.
    - `rank`: 0 for the best; -1 for a start that does not count.
    """

    initial: np.ndarray = field(
        metadata=_axes("start", "parameter", unit=None, description="parameters at the start")
    )
    final: np.ndarray = field(
        metadata=_axes("start", "parameter", unit=None, description="parameters at the end")
    )
    objective: np.ndarray = field(
        metadata=_axes("start", description="negative log posterior at the end")
    )
    status: np.ndarray = field(
        metadata=_axes(
            "start", description="converged, or why the start does not count", holds="texts"
        )
    )
    steps: np.ndarray = field(
        metadata=_axes("start", description="iterations of the optimiser")
    )
    rank: np.ndarray = field(
        metadata=_axes(
            "start", description="0 for the best, -1 for a start that does not count"
        )
    )

    @property
    def at_best(self) -> np.ndarray:
        """Which starts that count reached the best optimum, shape `(start,)`."""
        counted = self.rank >= 0
        best = np.min(self.objective[counted], initial=np.inf)
        return counted & (self.objective <= best + SAME_OPTIMUM)


@dataclasses.dataclass(frozen=True)
class ObservationTable:
    """Every single measurement beside what the fitted model says, in long form.

    - `residual`: standardised: (measured - predicted) / noise scale on the scale of
      the noise model (logarithmic for log-normal noise).
    - `noise`: name of the noise model of the measurement.
    """

    group: np.ndarray = field(
        metadata=_axes("observation", description="subject or experiment", holds="texts")
    )
    observable: np.ndarray = field(metadata=_axes("observation", holds="texts"))
    time: np.ndarray = field(
        metadata=_axes(
            "observation", unit_from="time_unit", description="time of the measurement"
        )
    )
    measured: np.ndarray = field(
        metadata=_axes("observation", unit=None, description="measured value")
    )
    predicted: np.ndarray = field(
        metadata=_axes(
            "observation", unit=None, description="value that the fitted model predicts"
        )
    )
    residual: np.ndarray = field(
        metadata=_axes("observation", description="standardised residual")
    )
    noise: np.ndarray = field(
        metadata=_axes("observation", description="noise model", holds="texts")
    )


@dataclasses.dataclass(frozen=True)
class CurveTable:
    """Smooth model curves through the data, per observable shape `(group, point)`.

    `lower` and `upper` bound the central `level` of the posterior of the noise-free
    curve, `predictive_lower` and `predictive_upper` that of a new measurement. All four
    are empty where no uncertainty was computed.
    """

    group: np.ndarray = field(
        metadata=_axes(
            "group", coordinate=True, description="subject or experiment", holds="texts"
        )
    )
    time: np.ndarray = field(metadata=_axes("group", "point", unit_from="time_unit"))
    fitted: dict[str, np.ndarray] = field(
        metadata=_axes(
            "group", "point", unit_from="units", description="curves of the fitted model"
        )
    )
    lower: dict[str, np.ndarray] = field(
        metadata=_axes(
            "group",
            "point",
            unit_from="units",
            description="lower ends of the bands of the curves",
        )
    )
    upper: dict[str, np.ndarray] = field(
        metadata=_axes(
            "group",
            "point",
            unit_from="units",
            description="upper ends of the bands of the curves",
        )
    )
    predictive_lower: dict[str, np.ndarray] = field(
        metadata=_axes(
            "group",
            "point",
            unit_from="units",
            description="lower ends of the bands of new measurements",
        )
    )
    predictive_upper: dict[str, np.ndarray] = field(
        metadata=_axes(
            "group",
            "point",
            unit_from="units",
            description="upper ends of the bands of new measurements",
        )
    )
    level: float = 0.9
    units: dict[str, str] = field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class DerivedTable:
    """Quantities that follow from the parameters, such as a reproduction number."""

    name: np.ndarray = field(
        metadata=_axes(
            "derived", coordinate=True, description="derived quantity", holds="texts"
        )
    )
    unit: np.ndarray = field(
        metadata=_axes("derived", description="unit of the row", holds="texts")
    )
    estimate: np.ndarray = field(
        metadata=_axes("derived", unit=None, description="value at the optimum")
    )
    standard_error: np.ndarray = field(metadata=_axes("derived", unit=None))


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """Posterior moments of the parameters, and curves with bands.

    - `method`: which approximation, with what it corrects, in words.
    - `name`: the parameters, as in the fit.
    - `mean`, `standard_deviation`, `lower`, `upper`: moments and the central `level`
      interval of each parameter in its unit.
    - `correlation`: of the parameters on the scale the optimiser moves in.
    - `shift`: how far the correction moved the mean, in standard deviations; above
      about one the approximation is not to be trusted.
    - `draws`: draws from the approximate posterior, in natural units.
    - `failed_draws`: draws whose solve failed; they are left out of the bands.
    - `warnings`: plain sentences for people.
    """

    method: str
    level: float
    name: np.ndarray = field(metadata=_axes("parameter", coordinate=True, holds="texts"))
    mean: np.ndarray = field(
        metadata=_axes("parameter", unit=None, description="posterior mean")
    )
    standard_deviation: np.ndarray = field(
        metadata=_axes("parameter", unit=None, description="posterior standard deviation")
    )
    lower: np.ndarray = field(
        metadata=_axes("parameter", unit=None, description="lower end of the central interval")
    )
    upper: np.ndarray = field(
        metadata=_axes("parameter", unit=None, description="upper end of the central interval")
    )
    shift: np.ndarray = field(
        metadata=_axes(
            "parameter", description="correction of the mean, in standard deviations"
        )
    )
    correlation: np.ndarray = field(
        metadata=_axes(
            "parameter", "parameter_2", description="correlation on the scale of the optimiser"
        )
    )
    draws: np.ndarray = field(
        metadata=_axes("draw", "parameter", unit=None, description="draws from the posterior")
    )
    curves: CurveTable
    derived: DerivedTable
    failed_draws: int = 0
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Fit:
    """Fitted parameters with everything that is needed to judge them.

    - `objective`: negative log posterior at the optimum; `log_likelihood` its part
      from the data alone, with all constants.
    - `gradient_norm`: largest absolute component of the gradient of the objective at
      the optimum on the optimiser's scale; zero at an exact optimum.
    - `covariance`: of the parameters in their units, from the inverse Hessian.
    - `method`: the optimiser, and `reason` why it was chosen.
    - `engine`, `engine_reason`: what solved the equation, and why that; `""` where an older
      file does not say.
    - `status`: `"converged"`, or why no start did.
    - `memory`: the live posterior, for what is computed next; it is never stored.
    - `warnings`: plain sentences for people: starts that disagree, parameters at
      bounds, a near-singular Hessian.
    """

    title: str
    system: str
    method: str
    reason: str
    status: str
    objective: float
    log_likelihood: float
    gradient_norm: float
    parameters: ParameterTable
    covariance: np.ndarray = field(
        metadata=_axes(
            "parameter", "parameter_2", unit=None, description="covariance of the parameters"
        )
    )
    starts: StartTable
    observations: ObservationTable
    curves: CurveTable
    derived: DerivedTable
    observable_units: dict[str, str] = field(default_factory=dict)
    time_unit: str = "1"
    uncertainty: Uncertainty | None = None
    warnings: tuple[str, ...] = ()
    engine: str = field(default="", metadata={"since": 2})
    engine_reason: str = field(default="", metadata={"since": 2})
    provenance: Provenance = field(default_factory=Provenance)
    memory: Any = field(default=None, repr=False, compare=False, metadata={"stored": False})

    @property
    def estimates(self) -> dict[str, float]:
        """The parameters by name."""
        table = self.parameters
        return dict(zip(table.name.tolist(), table.estimate.tolist(), strict=True))

    def with_uncertainty(self, uncertainty: Uncertainty) -> "Fit":
        """The same fit with an uncertainty, as it is stored, drawn and reported."""
        return dataclasses.replace(self, uncertainty=uncertainty)

    @property
    def correlation(self) -> np.ndarray:
        """Correlation matrix of the parameters, shape `(parameter, parameter)`."""
        deviation = np.sqrt(np.diag(self.covariance))
        return self.covariance / np.outer(deviation, deviation)
