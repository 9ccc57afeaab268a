"""What a fit comes to: parameters, correlations, how well they are told, residuals."""

from collections import Counter
from typing import Any

import numpy as np

from simkit.analysis.base import Analysis
from simkit.analysis.identifiability import correlations, identifiability, relative_errors
from simkit.results import Fit
from simkit.tabular import Column, FlatTable


def analyse_fit(fit: Fit) -> Analysis:
    """Parameters with errors, correlations, identifiability, measures and residuals of a fit.

    The information criteria are those of Akaike (with the correction for few data of Hurvich
    and Tsai) and Schwarz, from the log-likelihood at the optimum; with priors the optimum is
    not that of the likelihood alone, and they are indicative.
    """
    found = identifiability(fit)
    names, matrix = correlations(fit)
    table = fit.parameters
    relative = relative_errors(fit)
    values = {
        "kind": "fit",
        "title": fit.title,
        "system": fit.system,
        "status": fit.status,
        "parameters": [
            {
                "name": name,
                "unit": str(table.unit[index]),
                "estimate": float(table.estimate[index]),
                "standard_error": float(table.standard_error[index]),
                "relative_error": float(relative[index]),
                "inflation": float(found.inflation[index]),
                "at_bound": bool(table.at_bound[index]),
            }
            for index, name in enumerate(table.name.tolist())
        ],
        "correlations": {"names": names.tolist(), "matrix": matrix.tolist()},
        "identifiability": {
            "collinearity": found.collinearity,
            "condition_number": found.condition_number,
            "weakest": found.weakest,
            "remarks": list(found.remarks),
        },
        "measures": _measures(fit),
        "residuals": _residuals(fit),
        "starts": {
            "total": int(fit.starts.rank.size),
            "counted": int(np.sum(fit.starts.rank >= 0)),
            "at_optimum": int(np.sum(fit.starts.at_best)),
            "failed": dict(Counter(fit.starts.status[fit.starts.rank < 0].tolist())),
        },
    }
    return Analysis(values, _tables(fit, values, names, matrix))


def _measures(fit: Fit) -> dict[str, float | int]:
    parameters = int(fit.parameters.name.size)
    observations = int(np.sum(np.isfinite(fit.observations.measured)))
    deviance = -2.0 * float(fit.log_likelihood)
    aic = deviance + 2.0 * parameters
    left = observations - parameters - 1
    correction = 2.0 * parameters * (parameters + 1) / left if left > 0 else float("nan")
    return {
        "observations": observations,
        "parameters": parameters,
        "objective": float(fit.objective),
        "log_likelihood": float(fit.log_likelihood),
        "aic": aic,
        "aicc": aic + correction,
        "bic": deviance + parameters * float(np.log(max(1, observations))),
    }


def _residuals(fit: Fit) -> dict[str, dict[str, Any]]:
    table, answer = fit.observations, {}
    for name in dict.fromkeys(table.observable.tolist()):
        values = table.residual[table.observable == name]
        values = values[np.isfinite(values)]
        some = values.size > 0
        answer[name] = {
            "count": int(values.size),
            "mean": float(values.mean()) if some else float("nan"),
            "root_mean_square": float(np.sqrt(np.mean(values**2))) if some else float("nan"),
            "largest": float(np.abs(values).max()) if some else float("nan"),
        }
    return answer


def _tables(
    fit: Fit, values: dict[str, Any], names: np.ndarray, matrix: np.ndarray
) -> tuple[FlatTable, ...]:
    rows = values["parameters"]
    columns = [
        Column(field, np.array([row[field] for row in rows]), "", field.replace("_", " "))
        for field in rows[0]
        if field != "name"
    ]
    axis = Column("parameter", fit.parameters.name, "", "parameter")
    two = (Column("parameter", names, "", "parameter"), Column("other", names, "", "parameter"))
    residuals = values["residuals"]
    return (
        FlatTable("parameters", (axis,), tuple(columns)),
        FlatTable("correlations", two, (Column("correlation", matrix, "1", "correlation"),)),
        FlatTable(
            "residuals",
            (Column("observable", np.array(list(residuals)), "", "observable"),),
            tuple(
                Column(
                    field,
                    np.array([row[field] for row in residuals.values()]),
                    "1",
                    f"{field.replace('_', ' ')} of the standardised residuals",
                )
                for field in next(iter(residuals.values()))
            ),
        ),
    )
