"""Influenza: an epidemic model fitted to an outbreak in a boarding school, 1978.

763 boys, one of them ill; for two weeks the boys in bed were counted each morning. The
SIR model is built here piece by piece in Python, without a case file: measurements,
free parameters with their priors, posterior. The basic reproduction number R0 and the
recovery time follow from the two rates. Model, noise and priors are those of
L. Grinsztajn et al., Statistics in Medicine 40, 6209 (2021), who find R0 = 3.22 +- 0.28
and a recovery time of 1.86 +- 0.16 days; see `data/influenza/SOURCE.txt`.

    python scripts/fit_influenza.py [FOLDER]

FOLDER (default: results/fit_influenza) then holds `result.h5`, `figures/`, `report.html`.
"""

import csv
import dataclasses
import sys
from pathlib import Path

import simkit as sk


DATA = Path(__file__).parent.parent / "data/influenza/in_bed.csv"
BOYS = {"susceptible": 762.0, "infected": 1.0, "recovered": 0.0}
RATES = {
    "transmission_rate": sk.FreeParameter(prior=sk.Normal(mean=2.0, sd=1.0), start=(0.8, 4.0)),
    "recovery_rate": sk.FreeParameter(prior=sk.Normal(mean=0.4, sd=0.5), start=(0.2, 1.5)),
}
# Counts scatter more than independent infections would: the noise scale is the inverse
# of Stan's phi, so that a count of mean m has the variance m + scale * m^2.
SCATTER = {"in_bed": sk.FreeParameter(prior=sk.Exponential(rate=5.0), start=(0.02, 1.0))}


def build_posterior() -> sk.Posterior:
    """The posterior of both rates and the scatter, given the boys in bed."""
    with DATA.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    in_bed = sk.Observable("in_bed", "infected", noise="negative_binomial", unit="person")
    measurements = sk.measurements_from_rows(
        [in_bed],
        time=[float(row["day"]) for row in rows],
        observable=["in_bed"] * len(rows),
        value=[float(row["in_bed"]) for row in rows],
    )
    system = sk.systems.SIR()
    parameters = sk.build_parameters(
        system,
        measurements,
        parameters=RATES,
        initial_state={},
        noise=SCATTER,
        initial_values=BOYS,
    )
    method = sk.solvers.Tsit5(rtol=1e-8, atol=1e-8)
    return sk.Posterior(system, method, 0.0, BOYS, {}, measurements, parameters)


def main(
    folder: str | Path = "results/fit_influenza", *, starts: int = 16, seed: int = 0
) -> sk.Fit:
    """Fit from `starts` places drawn with `seed`, write everything, print R0."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    options = sk.FitTable(starts=starts, seed=seed)
    title = "Influenza in an English boarding school, 1978"
    fit = sk.fit(build_posterior(), options=options, title=title, time_unit="day")
    posterior = sk.uncertainty(fit, sk.Laplace(level=0.9, seed=seed))
    fit = dataclasses.replace(fit, uncertainty=posterior)

    sk.save(fit, folder / "result.h5", overwrite=True)
    sk.plots.save_figures(fit, folder / "figures")
    sk.write_report(fit, folder / "report.html")

    print(f"{title}: posterior mean and standard deviation")
    means = zip(posterior.name, posterior.mean, posterior.standard_deviation, strict=True)
    derived = posterior.derived
    means_too = zip(derived.name, derived.estimate, derived.standard_error, strict=True)
    units = [*fit.parameters.unit, *derived.unit]
    for (name, mean, deviation), unit in zip([*means, *means_too], units, strict=True):
        print(f"{name:28}{mean:8.3f} +- {deviation:.3f}  {unit if unit != '1' else ''}")
    print(f"Written to {folder}: result.h5, figures/, report.html")
    return fit


if __name__ == "__main__":
    main(*sys.argv[1:2])
