"""The nonlinear regressions of NIST's Statistical Reference Datasets, read from their files.

Source: NIST/ITL, https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml. The certified
values were found there in 128-bit arithmetic and are told to 11 digits.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "nist_strd" / "NIST_STRD"


def _cubic_over_cubic(b: Any, x: Any) -> Any:
    over = b[0] + x * (b[1] + x * (b[2] + x * b[3]))
    return over / (1 + x * (b[4] + x * (b[5] + x * b[6])))


def _two_peaks(b: Any, x: Any) -> Any:
    first = b[2] * jnp.exp(-(((x - b[3]) / b[4]) ** 2))
    second = b[5] * jnp.exp(-(((x - b[6]) / b[7]) ** 2))
    return b[0] * jnp.exp(-b[1] * x) + first + second


def _three_exponentials(b: Any, x: Any) -> Any:
    return sum(b[i] * jnp.exp(-b[i + 1] * x) for i in (0, 2, 4))


def _three_cycles(b: Any, x: Any) -> Any:
    angles = (2 * math.pi * x / 12, 2 * math.pi * x / b[3], 2 * math.pi * x / b[6])
    weights = ((b[1], b[2]), (b[4], b[5]), (b[7], b[8]))
    return b[0] + sum(
        even * jnp.cos(angle) + odd * jnp.sin(angle)
        for angle, (even, odd) in zip(angles, weights, strict=True)
    )


def _ultrasonic(b: Any, x: Any) -> Any:
    return jnp.exp(-b[0] * x) / (b[1] + b[2] * x)


def _saturating(b: Any, x: Any) -> Any:
    return b[0] * (1 - jnp.exp(-b[1] * x))


MODELS: dict[str, Callable[[Any, Any], Any]] = {
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": _saturating,
    "Chwirut1": _ultrasonic,
    "Chwirut2": _ultrasonic,
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "ENSO": _three_cycles,
    "Eckerle4": lambda b, x: b[0] / b[1] * jnp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
    "Gauss1": _two_peaks,
    "Gauss2": _two_peaks,
    "Gauss3": _two_peaks,
    "Hahn1": _cubic_over_cubic,
    "Kirby2": lambda b, x: (b[0] + x * (b[1] + x * b[2])) / (1 + x * (b[3] + x * b[4])),
    "Lanczos1": _three_exponentials,
    "Lanczos2": _three_exponentials,
    "Lanczos3": _three_exponentials,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda b, x: b[0] * jnp.exp(b[1] / (x + b[2])),
    "MGH17": lambda b, x: b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4]),
    "Misra1a": _saturating,
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Nelson": lambda b, x: b[0] - b[1] * x[0] * jnp.exp(-b[2] * x[1]),
    "Rat42": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)),
    "Rat43": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Roszman1": lambda b, x: b[0] - b[1] * x - jnp.arctan(b[2] / (x - b[3])) / math.pi,
    "Thurber": _cubic_over_cubic,
}
"""The models `f(b, x)`; Nelson's predicts the logarithm of its response."""


@dataclasses.dataclass(frozen=True)
class Regression:
    """One data set: `y` of shape (rows,), `x` (rows,) or (predictors, rows), two starts."""

    name: str
    x: np.ndarray
    y: np.ndarray
    starts: np.ndarray
    certified: np.ndarray
    deviations: np.ndarray
    sum_of_squares: float

    def residuals(self, b: Any, args: Any = None) -> Any:
        """Model less measurement."""
        del args
        # Plain slices: indexing an array costs a gather, and many times its tracing.
        parts = [jax.lax.index_in_dim(b, i, keepdims=False) for i in range(b.shape[0])]
        return MODELS[self.name](parts, self.x) - self.y

    def digits(self, b: Any) -> float:
        """Significant digits of the worst parameter; 11 is all that is certified."""
        error = np.abs(np.asarray(b) - self.certified) / np.abs(self.certified)
        if not np.all(np.isfinite(error)):
            return -math.inf
        return float(min(11.0, -np.log10(max(error.max(), 1e-300))))


def read(name: str) -> Regression:
    """One regression by name; its numbers stand in lines that begin with `b1 =`."""
    text = (FOLDER / f"{name}.dat").read_text(encoding="utf-8")
    head, _, table = text.rpartition("Data:")
    rows = [line.split("=")[1].split() for line in re.findall(r"^ *b\d+ *=.*$", head, re.M)]
    values = np.asarray(rows, dtype=float)
    total = re.search(r"Residual Sum of Squares: *(\S+)", head)
    assert total is not None
    data = np.asarray(
        [line.split() for line in table.splitlines()[1:] if line.strip()], dtype=float
    )
    y, x = data[:, 0], data[:, 1:].T
    return Regression(
        name=name,
        x=x if len(x) > 1 else x[0],
        y=np.log(y) if name == "Nelson" else y,
        starts=values[:, :2].T,
        certified=values[:, 2],
        deviations=values[:, 3],
        sum_of_squares=float(total[1]),
    )


def stacked(regressions: list[Regression]) -> tuple[Any, np.ndarray, np.ndarray]:
    """All data sets as one function `residuals(b, index)` of padded parameters.

    Returns it with all starts, of shape (starts, parameters), and the index of each.
    """
    rows = max(r.y.size for r in regressions)
    most = max(r.certified.size for r in regressions)

    def branch(regression: Regression) -> Any:
        n, missing = regression.certified.size, rows - regression.y.size
        return lambda b: jnp.pad(regression.residuals(b[:n]), (0, missing))

    branches = [branch(r) for r in regressions]
    starts = [np.pad(start, (0, most - start.size)) for r in regressions for start in r.starts]
    index = np.repeat(np.arange(len(regressions)), 2)
    return lambda b, i: jax.lax.switch(i, branches, b), np.stack(starts), index
