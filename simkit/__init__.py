"""simkit: from a mechanistic model and data to fitted parameters and their uncertainty.

`import simkit as sk` is the one face for users: `sk.systems.LotkaVolterra`,
`sk.solvers.Tsit5`, `sk.simulate`, `sk.fit`. Each name is imported when it is first used,
so that importing simkit, and its command line, need not wait for jax.
"""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import solvers as solvers
    import systems as systems
    from simkit import molecular as molecular, plots as plots
    from simkit.config.errors import CaseError as CaseError
    from simkit.config.reader import (
        LoadedCase as LoadedCase,
        check_case as check_case,
        read_case as read_case,
    )
    from simkit.config.schema import (
        Case as Case,
        Exponential as Exponential,
        FitTable as FitTable,
        FreeParameter as FreeParameter,
        Gamma as Gamma,
        LogNormal as LogNormal,
        Normal as Normal,
        Uniform as Uniform,
    )
    from simkit.fitting.fit import fit as fit
    from simkit.fitting.measurements import (
        Measurements as Measurements,
        Observable as Observable,
        measurements_from_rows as measurements_from_rows,
    )
    from simkit.fitting.parameters import build_parameters as build_parameters
    from simkit.fitting.posterior import Posterior as Posterior
    from simkit.fitting.uncertainty import Laplace as Laplace, uncertainty as uncertainty
    from simkit.plots.report import write_report as write_report
    from simkit.results import Fit as Fit, Trajectory as Trajectory, Uncertainty as Uncertainty
    from simkit.simulation import simulate as simulate
    from simkit.store.reader import load as load
    from simkit.store.schema import StoreError as StoreError
    from simkit.store.writer import save as save


_MODULES = {
    "molecular": "simkit.molecular",
    "plots": "simkit.plots",
    "solvers": "solvers",
    "systems": "systems",
}

_NAMES = {
    "Case": "simkit.config.schema",
    "CaseError": "simkit.config.errors",
    "Exponential": "simkit.config.schema",
    "Fit": "simkit.results",
    "FitTable": "simkit.config.schema",
    "FreeParameter": "simkit.config.schema",
    "Gamma": "simkit.config.schema",
    "Laplace": "simkit.fitting.uncertainty",
    "LoadedCase": "simkit.config.reader",
    "LogNormal": "simkit.config.schema",
    "Measurements": "simkit.fitting.measurements",
    "Normal": "simkit.config.schema",
    "Observable": "simkit.fitting.measurements",
    "Posterior": "simkit.fitting.posterior",
    "StoreError": "simkit.store.schema",
    "Trajectory": "simkit.results",
    "Uncertainty": "simkit.results",
    "Uniform": "simkit.config.schema",
    "build_parameters": "simkit.fitting.parameters",
    "check_case": "simkit.config.reader",
    "fit": "simkit.fitting.fit",
    "load": "simkit.store.reader",
    "measurements_from_rows": "simkit.fitting.measurements",
    "read_case": "simkit.config.reader",
    "save": "simkit.store.writer",
    "simulate": "simkit.simulation",
    "uncertainty": "simkit.fitting.uncertainty",
    "write_report": "simkit.plots.report",
}

__all__ = [*_MODULES, *_NAMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _NAMES:
        found = getattr(importlib.import_module(_NAMES[name]), name)
        # Kept, so that it is looked up once.
        globals()[name] = found
        return found
    raise AttributeError(f"module 'simkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
