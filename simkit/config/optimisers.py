"""The optimisers that `fit.method` names, and the options of each, known without jax."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from simkit.config.errors import Mistake, choice, described, shown


@dataclasses.dataclass(frozen=True)
class Option:
    """A number that an optimiser takes.

    - `lowest`: no number below; itself allowed only where `closed`.
    - `closed`: whether `lowest` is allowed.
    - `whole`: whether it is a whole number.
    """

    lowest: float = 0.0
    closed: bool = True
    whole: bool = False

    def allows(self, value: Any) -> bool:
        """Whether the value is such a number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not math.isfinite(value) or (self.whole and value != int(value)):
            return False
        return value >= self.lowest if self.closed else value > self.lowest

    @property
    def words(self) -> str:
        """Which numbers it may be."""
        kind = "a whole number" if self.whole else "a finite number"
        return f"{kind} {'of at least' if self.closed else 'above'} {self.lowest:g}"


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """How a fit calls an optimiser, what it does, and the options that it takes.

    - `squares`: whether it needs an objective that is a sum of squares.
    """

    name: str
    purpose: str
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)
    squares: bool = False


_NOT_NEGATIVE = Option()
_POSITIVE = Option(closed=False)
_COUNT = Option(lowest=1, whole=True)
_NEWTON = {"rtol": _NOT_NEGATIVE, "atol": _NOT_NEGATIVE, "noise": _NOT_NEGATIVE}

OPTIMISERS: Mapping[str, Optimiser] = {
    "auto": Optimiser("the one that suits", "the fit chooses by the shape of the problem"),
    "least_squares": Optimiser(
        "Levenberg-Marquardt by optimistix", "least squares", squares=True
    ),
    "minimise": Optimiser("BFGS", "it minimises the negative log posterior"),
    "levenberg_marquardt": Optimiser(
        "Levenberg-Marquardt",
        "it takes the residuals, in turn with the noise scales",
        {
            "rtol": _NOT_NEGATIVE,
            "atol": _NOT_NEGATIVE,
            "ftol": _NOT_NEGATIVE,
            "acceleration": _NOT_NEGATIVE,
            "first_radius": _POSITIVE,
        },
        squares=True,
    ),
    "trust_region_newton": Optimiser(
        "trust-region Newton",
        "it minimises the negative log posterior with the exact Hessian",
        _NEWTON,
    ),
    "cubic_newton": Optimiser(
        "cubic Newton",
        "it minimises the negative log posterior with the exact Hessian",
        _NEWTON,
    ),
    "newton_cg": Optimiser(
        "Newton-CG",
        "it minimises the negative log posterior with exact Hessian-vector products",
        {**_NEWTON, "products": _COUNT},
    ),
    "lbfgsb": Optimiser(
        "L-BFGS-B",
        "it minimises the negative log posterior with gradients alone",
        {**_NEWTON, "memory": _COUNT},
    ),
    "adahessian": Optimiser(
        "AdaHessian",
        "it minimises the negative log posterior with a random diagonal of the Hessian",
        {
            "learning_rate": _POSITIVE,
            "epsilon": _NOT_NEGATIVE,
            "power": _NOT_NEGATIVE,
            "probes": _COUNT,
            "rtol": _NOT_NEGATIVE,
            "atol": _NOT_NEGATIVE,
        },
    ),
}
"""By their names in a case."""


def find_option_mistakes(method: str, options: Mapping[str, Any]) -> Iterator[Mistake]:
    """Options that the method does not take, and values that it cannot use."""
    known = OPTIMISERS[method].options
    if options and not known:
        yield Mistake(
            ("fit", "options"),
            f'is given with the method "{method}", which takes no options',
            f"a fit.method with options: {', '.join(_with_options())}",
        )
        return
    for name, value in options.items():
        path = ("fit", "options", name)
        if name not in known:
            came = f"is not an option of {method} (its value: {shown(value)})"
            yield Mistake(path, came, choice(name, [*known]))
        elif not known[name].allows(value):
            yield Mistake(path, f"is {described(value)}", known[name].words)


def _with_options() -> list[str]:
    return [name for name, item in OPTIMISERS.items() if item.options]
