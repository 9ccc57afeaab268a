"""Figures and the report of a result; everything here stands on `simkit.results` alone.

Each function returns a `matplotlib.figure.Figure`; pyplot is never touched:

    sk.plots.fit(fit).savefig("lynx_hare.png")
"""

from simkit.plots.collection import all_figures, save_figures
from simkit.plots.diagnostics import correlations, residuals, waterfall
from simkit.plots.fits import data_and_fit, data_and_fit as fit
from simkit.plots.molecular import compared_curves
from simkit.plots.report import write_report
from simkit.plots.style import save
from simkit.plots.trajectories import phase, trajectory


__all__ = [
    "all_figures",
    "compared_curves",
    "correlations",
    "data_and_fit",
    "fit",
    "phase",
    "residuals",
    "save",
    "save_figures",
    "trajectory",
    "waterfall",
    "write_report",
]
