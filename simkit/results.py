"""What a run leaves behind: labelled, plain numpy values with units.

Nothing here knows jax, a solver, a file or a picture. The store writes these classes
and reads them back bit for bit; analysis and plots stand on them alone. Each array
field says in its metadata which axes it has (`dimensions`), so that the store needs no
list of its own; the glossary of axes:

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


def _axes(*dimensions: str, unit: str = "1", description: str = "") -> dict[str, Any]:
    return {"dimensions": dimensions, "unit": unit, "description": description}


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
      ensemble, in `state_units`. Values that were not reached are NaN.
    - `status`: `"successful"` or why the solve stopped, shape `()` or `(member,)`.
    - `parameters`: values of the parameters, each of shape `()` or, where it varies
      over the ensemble, `(member,)`, in `parameter_units`.
    - `statistics`: counts of the solver, each of shape `()` or `(member,)`.
    """

    title: str
    system: str
    method: str
    times: np.ndarray = field(metadata=_axes("time"))
    states: dict[str, np.ndarray] = field(metadata=_axes("member?", "time"))
    status: np.ndarray = field(metadata=_axes("member?"))
    parameters: dict[str, np.ndarray] = field(metadata=_axes("member?"))
    statistics: dict[str, np.ndarray] = field(metadata=_axes("member?"))
    state_units: dict[str, str] = field(default_factory=dict)
    parameter_units: dict[str, str] = field(default_factory=dict)
    time_unit: str = "1"
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

    name: np.ndarray = field(metadata=_axes("parameter"))
    unit: np.ndarray = field(metadata=_axes("parameter"))
    scale: np.ndarray = field(metadata=_axes("parameter"))
    estimate: np.ndarray = field(metadata=_axes("parameter"))
    standard_error: np.ndarray = field(metadata=_axes("parameter"))
    lower: np.ndarray = field(metadata=_axes("parameter"))
    upper: np.ndarray = field(metadata=_axes("parameter"))
    at_bound: np.ndarray = field(metadata=_axes("parameter"))


@dataclasses.dataclass(frozen=True)
class StartTable:
    """Every start of a multi-start fit, in the order in which they were drawn.

    - `initial`, `final`: parameters before and after, shape `(start, parameter)`.
    - `objective`: negative log posterior at `final`; NaN for a start that failed.
    - `status`: `"converged"`, or in words why the start does not count.
    - `steps`: iterations of the optimiser.
    - `rank`: 0 for the best; -1 for a start that does not count.
    """

    initial: np.ndarray = field(metadata=_axes("start", "parameter"))
    final: np.ndarray = field(metadata=_axes("start", "parameter"))
    objective: np.ndarray = field(metadata=_axes("start"))
    status: np.ndarray = field(metadata=_axes("start"))
    steps: np.ndarray = field(metadata=_axes("start"))
    rank: np.ndarray = field(metadata=_axes("start"))


@dataclasses.dataclass(frozen=True)
class ObservationTable:
    """Every single measurement beside what the fitted model says, in long form.

    - `residual`: standardised: (measured - predicted) / noise scale on the scale of
      the noise model (logarithmic for log-normal noise).
    - `noise`: name of the noise model of the measurement.
    """

    group: np.ndarray = field(metadata=_axes("observation"))
    observable: np.ndarray = field(metadata=_axes("observation"))
    time: np.ndarray = field(metadata=_axes("observation"))
    measured: np.ndarray = field(metadata=_axes("observation"))
    predicted: np.ndarray = field(metadata=_axes("observation"))
    residual: np.ndarray = field(metadata=_axes("observation"))
    noise: np.ndarray = field(metadata=_axes("observation"))


@dataclasses.dataclass(frozen=True)
class CurveTable:
    """Smooth model curves through the data, per observable shape `(group, point)`.

    `lower` and `upper` bound the central `level` of the posterior of the noise-free
    curve, `predictive_lower` and `predictive_upper` that of a new measurement. All four
    are empty where no uncertainty was computed.
    """

    group: np.ndarray = field(metadata=_axes("group"))
    time: np.ndarray = field(metadata=_axes("group", "point"))
    fitted: dict[str, np.ndarray] = field(metadata=_axes("group", "point"))
    lower: dict[str, np.ndarray] = field(metadata=_axes("group", "point"))
    upper: dict[str, np.ndarray] = field(metadata=_axes("group", "point"))
    predictive_lower: dict[str, np.ndarray] = field(metadata=_axes("group", "point"))
    predictive_upper: dict[str, np.ndarray] = field(metadata=_axes("group", "point"))
    level: float = 0.9
    units: dict[str, str] = field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class DerivedTable:
    """Quantities that follow from the parameters, such as a reproduction number."""

    name: np.ndarray = field(metadata=_axes("derived"))
    unit: np.ndarray = field(metadata=_axes("derived"))
    estimate: np.ndarray = field(metadata=_axes("derived"))
    standard_error: np.ndarray = field(metadata=_axes("derived"))


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """Posterior moments of the parameters, and curves with bands.

    - `method`: which approximation, with what it corrects, in words.
    - `name`: the parameters, then the derived quantities, as in the fit.
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
    name: np.ndarray = field(metadata=_axes("parameter"))
    mean: np.ndarray = field(metadata=_axes("parameter"))
    standard_deviation: np.ndarray = field(metadata=_axes("parameter"))
    lower: np.ndarray = field(metadata=_axes("parameter"))
    upper: np.ndarray = field(metadata=_axes("parameter"))
    shift: np.ndarray = field(metadata=_axes("parameter"))
    correlation: np.ndarray = field(metadata=_axes("parameter", "parameter_2"))
    draws: np.ndarray = field(metadata=_axes("draw", "parameter"))
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
    - `status`: `"converged"`, or why no start did.
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
    covariance: np.ndarray = field(metadata=_axes("parameter", "parameter_2"))
    starts: StartTable
    observations: ObservationTable
    curves: CurveTable
    derived: DerivedTable
    observable_units: dict[str, str] = field(default_factory=dict)
    time_unit: str = "1"
    uncertainty: Uncertainty | None = None
    warnings: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def estimates(self) -> dict[str, float]:
        """The parameters by name."""
        table = self.parameters
        return dict(zip(table.name.tolist(), table.estimate.tolist(), strict=True))

    @property
    def correlation(self) -> np.ndarray:
        """Correlation matrix of the parameters, shape `(parameter, parameter)`."""
        deviation = np.sqrt(np.diag(self.covariance))
        return self.covariance / np.outer(deviation, deviation)
