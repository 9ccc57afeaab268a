"""How well the data tell parameters apart: from their errors and correlations."""

import dataclasses

import numpy as np

from simkit.results import Fit


POORLY = 15.0
"""From this collinearity index on parameters are poorly told apart (Brun et al., 2001,
found the threshold to lie between 10 and 15)."""
_STRONG = 0.95
_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Identifiability:
    """How far the parameters can be told apart, close to the optimum.

    Only of parameters with a finite error that lie on no bound; NaN and empty without any.

    - `inflation`: for each parameter of the fit how many times larger its standard error is
      than if all others were known, shape `(parameter,)`; 1 is best.
    - `collinearity`: index of all together: a change of one can be made good by the others up
      to its inverse (R. Brun, P. Reichert, H. R. Künsch, Water Resources Research 37, 1015,
      2001). 1 is best; above `POORLY` the data tell combinations alone.
    - `condition_number`: of the correlation matrix.
    - `weakest`: the combination that is told worst: parameters and their weights, which have
      length one, in the units of their errors with all others known.
    - `remarks`: sentences for people.
    """

    inflation: np.ndarray
    collinearity: float
    condition_number: float
    weakest: dict[str, float]
    remarks: tuple[str, ...]


def correlations(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """The names of the parameters and their correlation matrix.

    That of the posterior, on the scale on which the optimiser moves, where there is one.
    """
    if fit.uncertainty is not None:
        return fit.uncertainty.name, fit.uncertainty.correlation
    with np.errstate(invalid="ignore", divide="ignore"):
        return fit.parameters.name, fit.correlation


def identifiability(fit: Fit) -> Identifiability:
    """Which parameters of a fit the data determine, and which only together."""
    table = fit.parameters
    names, matrix = correlations(fit)
    bound = dict(zip(table.name.tolist(), table.at_bound.tolist(), strict=True))
    usable = np.array([not bound[name] for name in names.tolist()])
    usable &= np.isfinite(np.diag(matrix))
    chosen = np.flatnonzero(usable)
    inside = matrix[np.ix_(chosen, chosen)]
    inside = 0.5 * (inside + inside.T)
    inflation = dict.fromkeys(table.name.tolist(), float("nan"))
    collinearity, condition, weakest = float("nan"), float("nan"), {}
    # A file may say anything; beyond one these are no correlations.
    if chosen.size and np.all(np.abs(inside) < 1.0 + 1e-6):
        spectrum = np.linalg.eigvalsh(inside)
        # Rounding alone decides below this about a matrix that is singular in truth.
        if spectrum[0] > chosen.size * np.finfo(np.float64).eps * spectrum[-1]:
            condition = float(spectrum[-1] / spectrum[0])
            information = np.linalg.inv(inside)
            scale = np.sqrt(np.diag(information))
            inflation |= dict(zip(names[chosen].tolist(), scale.tolist(), strict=True))
            values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
            collinearity = float(1.0 / np.sqrt(values[0]))
            direction = vectors[:, 0] * np.sign(vectors[np.argmax(np.abs(vectors[:, 0])), 0])
            weakest = dict(zip(names[chosen].tolist(), direction.tolist(), strict=True))
        else:
            collinearity = condition = float("inf")
    ordered = np.array([inflation[name] for name in table.name.tolist()])
    remarks = _remarks(fit, names[chosen], inside, collinearity, weakest)
    return Identifiability(ordered, collinearity, condition, weakest, tuple(remarks))


def _remarks(
    fit: Fit,
    names: np.ndarray,
    matrix: np.ndarray,
    collinearity: float,
    weakest: dict[str, float],
) -> list[str]:
    table = fit.parameters
    said = [
        f"{name} lies on a bound: its error means nothing."
        for name in table.name[table.at_bound].tolist()
    ]
    for name, relative, at_bound in zip(
        table.name.tolist(), relative_errors(fit).tolist(), table.at_bound.tolist(), strict=True
    ):
        if relative > 1.0 and not at_bound:
            said.append(f"{name} is uncertain by more than its size.")
    down, across = np.tril_indices(names.size, k=-1)
    for one, other in zip(down.tolist(), across.tolist(), strict=True):
        if abs(matrix[one, other]) > _STRONG:
            said.append(
                f"{names[other]} and {names[one]} are strongly correlated "
                f"({matrix[one, other]:.3f})."
            )
    if collinearity == float("inf"):
        said.append("The correlation matrix is singular: the data leave a combination open.")
    elif collinearity > POORLY:
        parts = [name for name, weight in weakest.items() if abs(weight) > _SHARE]
        said.append(
            f"The data hardly tell {', '.join(parts)} apart (collinearity index "
            f"{collinearity:.3g}, above {POORLY:g})."
        )
    return said


def relative_errors(fit: Fit) -> np.ndarray:
    """Standard errors by the size of the estimates, shape `(parameter,)`.

    NaN for a parameter that may be zero or of either sign, and on a scale of its own.
    """
    table = fit.parameters
    positive = (table.lower >= 0) & (table.estimate > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(positive, table.standard_error / np.abs(table.estimate), np.nan)
