"""The outcome of a run in plain sentences."""

import numpy as np

from simkit.plots.diagnostics import PLATEAU, above_best, failed_starts
from simkit.plots.words import counted, failures, listing, number, plain, reasons
from simkit.results import Fit, Trajectory


def succeeded(result: Trajectory | Fit) -> bool:
    """Whether the fit converged, or all solves reached the end."""
    if isinstance(result, Fit):
        return result.status == "converged"
    return bool(np.all(result.succeeded))


def headline(result: Trajectory | Fit) -> str:
    """The outcome in one sentence."""
    if isinstance(result, Fit):
        if succeeded(result):
            return "The fit converged."
        return f"The fit did not converge: {plain(result.status, 200)}"
    if not result.is_ensemble:
        return "The solve reached the end." if succeeded(result) else _unreached(result)
    good, members = int(result.succeeded.sum()), counted(result.status.size, "member")
    return (
        f"All {members} reached the end."
        if succeeded(result)
        else f"{good} of {members} reached the end."
    )


def sentences(result: Trajectory | Fit) -> list[str]:
    """What happened, in a few sentences."""
    return _fit(result) if isinstance(result, Fit) else _trajectory(result)


def warnings(result: Trajectory | Fit) -> list[str]:
    """Everything the reader should know before trusting the numbers."""
    if isinstance(result, Trajectory):
        why = reasons(result.status[~result.succeeded].tolist()) if result.is_ensemble else ""
        return [f"{failures(result.status)} Why: {why}."] if why else []
    uncertainty = result.uncertainty
    said = [*result.warnings, *(() if uncertainty is None else uncertainty.warnings)]
    return list(dict.fromkeys(said))


def _fit(fit: Fit) -> list[str]:
    table = fit.observations
    observables = [plain(name) for name in dict.fromkeys(table.observable.tolist())]
    groups = len(set(table.group.tolist()))
    inside = f" in {groups} groups" if groups > 1 else ""
    answer = [
        f"{plain(fit.system)} was fitted to {counted(table.time.size, 'measurement')} of "
        f"{listing(observables)}{inside} with {plain(fit.method)} "
        f"({plain(fit.reason, 200)}).",
        f"{counted(fit.parameters.name.size, 'parameter')}; objective (negative log "
        f"posterior) {number(fit.objective, 7)}, log-likelihood "
        f"{number(fit.log_likelihood, 7)}, largest component of the gradient at the optimum "
        f"{number(fit.gradient_norm, 2)}.",
        _starts(fit),
    ]
    if fit.uncertainty is not None:
        answer.append(f"Uncertainty: {plain(fit.uncertainty.method, 300)}.")
    return answer


def _starts(fit: Fit) -> str:
    above, starts = above_best(fit.starts), fit.starts.status.size
    if above.size == 0:
        return f"None of {counted(starts, 'start')} counts. {failed_starts(fit.starts)}"
    same = int((above <= PLATEAU).sum())
    said = f"{above.size} of {counted(starts, 'start')} converged, "
    said += f"{same} of them to within {PLATEAU:g} of the best objective."
    return f"{said} {failed_starts(fit.starts)}".strip()


def _trajectory(result: Trajectory) -> list[str]:
    first, last = (number(result.times[index], 6) for index in (0, -1))
    unit = "" if result.time_unit == "1" else f" {plain(result.time_unit)}"
    names = list(result.states)
    named = f" ({listing([plain(name) for name in names])})" if len(names) <= 8 else ""
    return [
        f"{plain(result.system)} was solved with {plain(result.method, 120)} from time "
        f"{first} to {last}{unit}, with {counted(result.times.size, 'saved time')}.",
        f"{counted(len(names), 'state')}{named}"
        + (f", {counted(result.status.size, 'member')}." if result.is_ensemble else "."),
    ]


def _unreached(result: Trajectory) -> str:
    return f"The solve did not reach the end: {plain(result.status, 200)}"
