"""Theophylline: how fast twelve subjects clear a drug after one dose by mouth.

Each subject has an absorption rate, an elimination rate and a volume of distribution of
its own; one standard deviation of the assay is common to all. The 37 numbers are fitted
in one go, and clearance and half-life follow from them. Model and data, with their
sources, are in `data/theophylline`.

    python scripts/fit_theophylline.py [FOLDER]

FOLDER (default: results/fit_theophylline) then holds `result.h5`, `figures/`,
`report.html` and `subjects.csv`, the table that is printed.
"""

import csv
import dataclasses
import sys
from pathlib import Path

import simkit as sk


CASE = Path(__file__).parent.parent / "data/theophylline/case.toml"
QUANTITIES = {"clearance": "L/(h kg)", "half_life": "h"}


def main(
    folder: str | Path = "results/fit_theophylline", *, starts: int = 8, seed: int = 0
) -> sk.Fit:
    """Fit from `starts` places drawn with `seed`, write everything, print the table."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    case = sk.read_case(CASE, [f"fit.starts={starts}", f"fit.seed={seed}"])
    fit = sk.fit(case)
    fit = dataclasses.replace(
        fit, uncertainty=sk.uncertainty(fit, sk.Laplace(level=0.9, seed=seed))
    )

    sk.save(fit, folder / "result.h5", overwrite=True)
    sk.plots.save_figures(fit, folder / "figures")
    sk.write_report(fit, folder / "report.html")
    rows = subject_rows(fit)
    with (folder / "subjects.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

    print(f"{fit.title}: estimate and standard error")
    print("subject" + "".join(f"{f'{name}, {unit}':>26}" for name, unit in QUANTITIES.items()))
    for row in rows:
        cells = [f"{row[name]:.4f} +- {row[f'{name}_error']:.4f}" for name in QUANTITIES]
        print(f"{row['subject']:>7}" + "".join(f"{cell:>26}" for cell in cells))
    print(f"noise of the assay: {fit.estimates['noise.concentration']:.3f} mg/L")
    print(f"Written to {folder}: result.h5, figures/, report.html, subjects.csv")
    return fit


def subject_rows(fit: sk.Fit) -> list[dict[str, str | float]]:
    """One row per subject: each quantity with its standard error."""
    table = fit.derived
    numbers = dict(
        zip(table.name, zip(table.estimate, table.standard_error, strict=True), strict=True)
    )
    rows = []
    for subject in fit.curves.group:
        row: dict[str, str | float] = {"subject": str(subject)}
        for name in QUANTITIES:
            row[name], row[f"{name}_error"] = map(float, numbers[f"{name}[{subject}]"])
        rows.append(row)
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:2])
