"""Lynx and hare: predator and prey fitted to the Hudson Bay pelts, 1900 to 1920.

The pelts that trappers sold, in thousands, stand for the two populations. Their law is
that of Lotka and Volterra; its four rates, both populations in 1900 and the scatter of
each record about the law (log-normal noise) are fitted. Model, priors and data, with
their sources, are in `data/lynx_hare`; the same fit from the command line is
`simkit fit data/lynx_hare/case.toml`.

    python scripts/fit_lynx_hare.py [FOLDER]

FOLDER (default: results/fit_lynx_hare) then holds

- `result.h5`: the fit with its uncertainty; `simkit.load`, xarray or h5py open it;
- `figures/`: data with fitted curves, residuals, starts, correlations;
- `report.html`: all of it as one page.
"""

import dataclasses
import sys
from pathlib import Path

import simkit as sk


CASE = Path(__file__).parent.parent / "data/lynx_hare/case.toml"


def main(
    folder: str | Path = "results/fit_lynx_hare", *, starts: int = 16, seed: int = 0
) -> sk.Fit:
    """Fit from `starts` places drawn with `seed`, write everything, print the table."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    # Many starts, since the objective has many local optima: a cycle of the wrong period
    # that meets some of the peaks is one.
    case = sk.read_case(CASE, [f"fit.starts={starts}", f"fit.seed={seed}"])
    fit = sk.fit(case)
    fit = dataclasses.replace(
        fit, uncertainty=sk.uncertainty(fit, sk.Laplace(level=0.9, seed=seed))
    )

    sk.save(fit, folder / "result.h5", overwrite=True)
    sk.plots.save_figures(fit, folder / "figures")
    sk.write_report(fit, folder / "report.html")
    print_table(fit)
    print(f"\nWritten to {folder}: result.h5, figures/, report.html")
    return fit


def print_table(fit: sk.Fit) -> None:
    """The parameters with their posterior, and how many starts found the optimum."""
    posterior = fit.uncertainty
    assert posterior is not None
    interval = f"{100 * posterior.level:.0f} % interval"
    print(fit.title)
    print(f"{'parameter':24}{'optimum':>10}{'mean':>10}{'sd':>10}  {interval:20}unit")
    for i, name in enumerate(posterior.name):
        bounds = f"{posterior.lower[i]:.4g} to {posterior.upper[i]:.4g}"
        print(
            f"{name:24}{fit.parameters.estimate[i]:10.4g}{posterior.mean[i]:10.4g}"
            f"{posterior.standard_deviation[i]:10.2g}  {bounds:20}{fit.parameters.unit[i]}"
        )
    # Starts that did not converge have rank -1 and do not count.
    same = (fit.starts.rank >= 0) & (fit.starts.objective < fit.objective + 0.1)
    print(f"{same.sum()} of {same.size} starts found this optimum.")
    print(f"Solved by {fit.engine}: {fit.engine_reason}")
    for warning in (*fit.warnings, *posterior.warnings):
        print(f"warning: {warning}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
