"""The case file as types: every key, its type, its default and its meaning.

One schema serves all: the strict reader, the reference page of the docs, the resolved
configuration in the result file, and the constructors of the Python interface.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Probability = Annotated[float, Meta(gt=0, lt=1)]
_LARGEST_SEED = 2**63 - 1


class _Table(
    msgspec.Struct,
    forbid_unknown_fields=True,
    frozen=True,
    kw_only=True,
):
    """A table of the case file; a key that is not listed is an error."""


class SystemTable(_Table, frozen=True):
    """What is simulated."""

    type: Annotated[
        str,
        Meta(description="a system that `simkit systems` lists, or `package.module:Class`"),
    ]
    parameters: Annotated[
        dict[str, float], Meta(description="values of parameters, in their units")
    ] = {}
    initial_state: Annotated[
        dict[str, float], Meta(description="states at the start, in their units")
    ] = {}
    inputs: Annotated[
        dict[str, float], Meta(description="known quantities that the system declares")
    ] = {}


class TimesTable(_Table, frozen=True):
    """The span of time, and which times are saved.

    Give `save_every` or `save_at`, not both; with neither, 101 times are saved.
    """

    start: Annotated[float, Meta(description="time of the initial state")] = 0.0
    stop: Annotated[float | None, Meta(description="end; default: the last measurement")] = None
    save_every: Annotated[Positive | None, Meta(description="distance of saved times")] = None
    save_at: Annotated[list[float] | None, Meta(description="the saved times, increasing")] = (
        None
    )
    unit: Annotated[str, Meta(description="unit of time as text")] = "1"


class MethodTable(_Table, frozen=True):
    """How the equation is solved; which options a method takes, `simkit methods` tells."""

    type: Annotated[str, Meta(description="a method that `simkit methods` lists")] = "Tsit5"
    rtol: Annotated[Positive | None, Meta(description="relative tolerance of one step")] = None
    atol: Annotated[Positive | None, Meta(description="absolute tolerance of one step")] = None
    step: Annotated[Positive | None, Meta(description="step of a fixed-step method")] = None
    max_steps: Annotated[Count | None, Meta(description="steps after which a solve fails")] = (
        None
    )
    path_resolution: Annotated[
        Positive | None,
        Meta(description="time down to which a Wiener path is drawn, below the step"),
    ] = None

    @property
    def options(self) -> dict[str, float | int]:
        """The options that are given, by name."""
        values = {
            name: getattr(self, name) for name in self.__struct_fields__ if name != "type"
        }
        return {name: value for name, value in values.items() if value is not None}


class Normal(_Table, frozen=True, tag="normal", tag_field="type"):
    """Normal density, truncated to the bounds of the parameter."""

    mean: float
    sd: Positive


class LogNormal(_Table, frozen=True, tag="log_normal", tag_field="type"):
    """Log-normal density: the logarithm is normal about `log(median)`."""

    median: Positive
    sd: Annotated[Positive, Meta(description="standard deviation of the logarithm")]


class Uniform(_Table, frozen=True, tag="uniform", tag_field="type"):
    """Constant density between two numbers."""

    lower: float
    upper: float


class Exponential(_Table, frozen=True, tag="exponential", tag_field="type"):
    """Exponential density of a positive number."""

    rate: Positive


class Gamma(_Table, frozen=True, tag="gamma", tag_field="type"):
    """Gamma density of a positive number."""

    shape: Positive
    rate: Positive


Distribution = Normal | LogNormal | Uniform | Exponential | Gamma

EngineName = Literal["auto", "native", "lanes", "diffrax"]


class EnsembleTable(_Table, frozen=True):
    """Many members of one system, with what varies between them."""

    members: Annotated[Count, Meta(description="how many members")]
    seed: Annotated[int, Meta(ge=0, le=_LARGEST_SEED, description="seed of all draws")] = 0
    parameters: Annotated[
        dict[str, Distribution], Meta(description="distributions of parameters")
    ] = {}
    initial_state: Annotated[
        dict[str, Distribution], Meta(description="distributions of initial states")
    ] = {}
    segment: Annotated[
        Count | None,
        Meta(
            description="members that are solved at once and kept together in a run that can "
            "be resumed; default: a 32nd of them, but at least 256"
        ),
    ] = None
    engine: Annotated[
        EngineName,
        Meta(
            description="what solves the members; auto: the fastest that can serve; "
            "[which engine](../ensembles.md#three-engines-one-meaning)"
        ),
    ] = "auto"


NoiseModel = Literal[
    "normal", "log_normal", "laplace", "student_t", "poisson", "negative_binomial"
]


class ObservableTable(_Table, frozen=True):
    """One observed column and how it relates to the model."""

    column: Annotated[str, Meta(description="column of the data file")]
    state: Annotated[str, Meta(description="the state that was observed")]
    noise: Annotated[NoiseModel, Meta(description="distribution of the measurement")] = "normal"
    sd: Annotated[
        Positive | None,
        Meta(
            description="noise scale: standard deviation (of the logarithm for log_normal), "
            "scale of laplace and student_t, overdispersion 1/phi of negative_binomial; "
            "left out, it is estimated"
        ),
    ] = None
    degrees_of_freedom: Annotated[Positive, Meta(description="of student_t")] = 4.0
    unit: Annotated[str | None, Meta(description="unit; default: that of the state")] = None


class DataTable(_Table, frozen=True):
    """The measurements: a CSV file beside the case file."""

    file: Annotated[str, Meta(description="CSV file, relative to the case file")]
    time: Annotated[str, Meta(description="column of the times")]
    observables: Annotated[
        dict[str, ObservableTable],
        Meta(description="what was observed, by name", min_length=1),
    ]
    group: Annotated[
        str | None, Meta(description="column that tells subjects or experiments apart")
    ] = None
    inputs: Annotated[
        dict[str, str],
        Meta(description="inputs of the system read from columns, per group"),
    ] = {}


class FreeParameter(_Table, frozen=True):
    """One quantity to be fitted.

    Its bounds default to those that the system declares. Starts are drawn from
    `start` where given, else from the prior, else between the bounds, else within a
    factor e (or one unit of `value`) about the value in the case.
    """

    lower: Annotated[float | None, Meta(description="lower bound")] = None
    upper: Annotated[float | None, Meta(description="upper bound")] = None
    scale: Annotated[
        Literal["linear", "log", "logit"] | None,
        Meta(
            description="coordinate of the optimiser; default: logit with two bounds, "
            "log if positive, else linear"
        ),
    ] = None
    prior: Annotated[Distribution | None, Meta(description="prior density")] = None
    start: Annotated[
        tuple[float, float] | None,
        Meta(description="range from which starts are drawn"),
    ] = None
    each: Annotated[bool, Meta(description="a value for each group of the data")] = False


class FitTable(_Table, frozen=True):
    """What is fitted, and how."""

    parameters: Annotated[
        dict[str, FreeParameter], Meta(description="free parameters of the system")
    ] = {}
    initial_state: Annotated[
        dict[str, FreeParameter], Meta(description="free initial states")
    ] = {}
    noise: Annotated[
        dict[str, FreeParameter], Meta(description="free noise scales, by observable")
    ] = {}
    method: Annotated[
        Literal[
            "auto",
            "least_squares",
            "minimise",
            "levenberg_marquardt",
            "trust_region_newton",
            "cubic_newton",
            "newton_cg",
            "lbfgsb",
            "adahessian",
        ],
        Meta(
            description="auto: least squares where the noise models allow it; "
            "[which optimiser](../fitting.md#which-optimiser)"
        ),
    ] = "auto"
    options: Annotated[
        dict[str, float],
        Meta(description="numeric options of the method, such as `rtol`"),
    ] = {}
    starts: Annotated[Count, Meta(description="how many starts")] = 16
    seed: Annotated[int, Meta(ge=0, le=_LARGEST_SEED, description="seed of the starts")] = 0
    max_steps: Annotated[Count, Meta(description="iterations of the optimiser per start")] = 100
    segment: Annotated[
        Count | None,
        Meta(
            description="starts that are run and kept together in a run that can be resumed; "
            "default: a 32nd of them, but at least 8"
        ),
    ] = None
    engine: Annotated[
        EngineName,
        Meta(
            description="what solves the equation; auto: native where it can serve, else "
            "diffrax; [which engine](../ensembles.md#three-engines-one-meaning)"
        ),
    ] = "auto"


class LaplaceTable(_Table, frozen=True):
    """Laplace approximation of the posterior, with corrected means."""

    level: Annotated[Probability, Meta(description="level of intervals and bands")] = 0.9
    draws: Annotated[Count, Meta(description="draws behind the prediction band")] = 400
    seed: Annotated[int, Meta(ge=0, le=_LARGEST_SEED, description="seed of the draws")] = 0
    correct_mean: Annotated[
        bool, Meta(description="shift the mean by the skewness of the posterior")
    ] = True


class UncertaintyTable(_Table, frozen=True):
    """How the uncertainty of the fit is computed."""

    laplace: LaplaceTable = LaplaceTable()


class OutputTable(_Table, frozen=True):
    """What is written."""

    plots: Annotated[bool, Meta(description="draw the figures")] = True
    report: Annotated[bool, Meta(description="write the HTML report")] = True
    formats: Annotated[
        tuple[Literal["svg", "png", "pdf"], ...],
        Meta(description="file formats of the figures"),
    ] = ("png", "svg")


class Case(_Table, frozen=True):
    """A whole case: what to simulate, how, against which data."""

    schema: Annotated[Literal[1], Meta(description="version of this file format")]
    title: Annotated[str, Meta(description="one line for people")]
    system: SystemTable
    times: TimesTable = TimesTable()
    method: MethodTable = MethodTable()
    ensemble: EnsembleTable | None = None
    data: DataTable | None = None
    fit: FitTable | None = None
    uncertainty: UncertaintyTable | None = None
    output: OutputTable = OutputTable()
