"""Results as plain values for `--json`; `outcome.schema.json` says what they look like."""

import json
import math
from collections import Counter
from typing import Any

import numpy as np

from simkit.member_statistics import member_statistics
from simkit.results import Fit, StartTable, Trajectory
from simkit.stored import is_stored


Files = dict[str, Any]


def summary(result: Trajectory | Fit, files: Files) -> dict[str, Any]:
    """The object that `--json` prints for a result, in which `files` says what was written."""
    if isinstance(result, Fit):
        return fit_summary(result, files)
    return trajectory_summary(result, files)


def as_json(values: Any) -> str:
    """Plain values as JSON in which every number is finite."""
    return json.dumps(_finite(values), indent=2, ensure_ascii=False, allow_nan=False)


def fit_summary(fit: Fit, files: Files) -> dict[str, Any]:
    """A fit as plain values."""
    posterior = fit.uncertainty
    return {
        "kind": "fit",
        "title": fit.title,
        "system": fit.system,
        "method": fit.method,
        "reason": fit.reason,
        "status": fit.status,
        "engine": fit.engine or None,
        "engine_reason": fit.engine_reason or None,
        "objective": float(fit.objective),
        "log_likelihood": float(fit.log_likelihood),
        "gradient_norm": float(fit.gradient_norm),
        "parameters": _parameters(fit),
        "derived": _derived(fit),
        "starts": _starts(fit.starts),
        "uncertainty": None
        if posterior is None
        else {
            "method": posterior.method,
            "level": float(posterior.level),
            "failed_draws": int(posterior.failed_draws),
        },
        "warnings": all_warnings(fit),
        "files": files,
    }


def all_warnings(fit: Fit) -> list[str]:
    """The warnings of a fit and of its uncertainty, each once."""
    later = fit.uncertainty.warnings if fit.uncertainty else ()
    return list(dict.fromkeys((*fit.warnings, *later)))


def trajectory_summary(trajectory: Trajectory, files: Files) -> dict[str, Any]:
    """A trajectory as plain values."""
    status = Counter(np.atleast_1d(trajectory.status).tolist())
    times = trajectory.times
    return {
        "kind": "trajectory",
        "title": trajectory.title,
        "system": trajectory.system,
        "method": trajectory.method,
        "status": dict(status),
        "engine": trajectory.engine or None,
        "engine_reason": trajectory.engine_reason or None,
        "members": int(trajectory.status.size) if trajectory.is_ensemble else None,
        "succeeded": int(np.sum(trajectory.succeeded)),
        "times": {
            "start": float(times[0]),
            "stop": float(times[-1]),
            "number": int(times.size),
            "unit": trajectory.time_unit,
        },
        "states": {
            name: {
                "unit": trajectory.state_units.get(name, "1"),
                **_course(trajectory, name),
            }
            for name in trajectory.states
        },
        "parameters": {
            name: {"unit": trajectory.parameter_units.get(name, "1"), **_extremes(values)}
            for name, values in trajectory.parameters.items()
        },
        "files": files,
    }


def _parameters(fit: Fit) -> list[dict[str, Any]]:
    table, posterior = fit.parameters, fit.uncertainty
    position = {} if posterior is None else {n: i for i, n in enumerate(posterior.name)}
    rows = []
    for index, name in enumerate(table.name.tolist()):
        row: dict[str, Any] = {
            "name": name,
            "unit": str(table.unit[index]),
            "scale": str(table.scale[index]),
            "estimate": float(table.estimate[index]),
            "standard_error": float(table.standard_error[index]),
            "lower": float(table.lower[index]),
            "upper": float(table.upper[index]),
            "at_bound": bool(table.at_bound[index]),
            "mean": None,
            "standard_deviation": None,
            "interval": None,
        }
        if posterior is not None and name in position:
            found = position[name]
            row["mean"] = float(posterior.mean[found])
            row["standard_deviation"] = float(posterior.standard_deviation[found])
            row["interval"] = [float(posterior.lower[found]), float(posterior.upper[found])]
        rows.append(row)
    return rows


def _derived(fit: Fit) -> list[dict[str, Any]]:
    table = fit.derived
    return [
        {
            "name": str(name),
            "unit": str(unit),
            "estimate": float(estimate),
            "standard_error": float(error),
        }
        for name, unit, estimate, error in zip(
            table.name, table.unit, table.estimate, table.standard_error, strict=True
        )
    ]


def _starts(starts: StartTable) -> dict[str, Any]:
    counted = starts.rank >= 0
    return {
        "total": int(starts.rank.size),
        "counted": int(counted.sum()),
        "at_optimum": int(starts.at_best.sum()),
        "failed": dict(Counter(starts.status[~counted].tolist())),
    }


def _course(trajectory: Trajectory, state: str) -> dict[str, float | None]:
    """Where a state begins and ends, and its extremes."""
    values = trajectory.states[state]
    if is_stored(values):
        found = member_statistics(trajectory, state)
        return {
            "first": found.first,
            "last": found.last,
            "lowest": found.least,
            "highest": found.greatest,
        }
    ends = {"first": _mean(values[..., 0]), "last": _mean(values[..., -1])}
    return {**ends, **_extremes(values)}


def _extremes(values: np.ndarray) -> dict[str, float | None]:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return {"lowest": None, "highest": None}
    return {"lowest": float(finite.min()), "highest": float(finite.max())}


def _mean(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def _finite(values: Any) -> Any:
    """The values with `None` for every number that is not finite."""
    if isinstance(values, dict):
        return {key: _finite(item) for key, item in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(item) for item in values]
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values
