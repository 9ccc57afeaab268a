"""Every script runs from end to end, and its numbers are those of the literature."""

import csv
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import simkit as sk


ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
FIT_FIGURES = {"fit", "residuals", "waterfall", "correlations"}
# As many as `cases.fitted` has, so that a run of all tests compiles a case only once.
STARTS = 8
# Of argon in each turn; the script's own 100 take three times as long.
FRAMES = 40


def script(name: str) -> ModuleType:
    """A script as a module of a name of its own: dependencies may install a `scripts`."""
    spec = importlib.util.spec_from_file_location(
        f"simkit_script_{name}", ROOT / f"scripts/{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figures(folder: Path) -> set[str]:
    """Names of the figures that are there both as PNG and as SVG."""
    pixels = {path.stem for path in folder.glob("*.png") if path.stat().st_size > 1000}
    return pixels & {path.stem for path in folder.glob("*.svg") if path.stat().st_size > 1000}


def read_fit(folder: Path) -> sk.Fit:
    """The fit that a script left, with the files beside it checked."""
    fit = sk.load(folder / "result.h5")
    assert isinstance(fit, sk.Fit)
    assert fit.status == "converged"
    assert fit.uncertainty is not None
    assert figures(folder / "figures") == FIT_FIGURES
    assert fit.title in (folder / "report.html").read_text(encoding="utf-8")
    return fit


def read_ensemble(folder: Path, members: int) -> sk.Trajectory:
    """The ensemble that a script left."""
    trajectory = sk.load(folder / "result.h5")
    assert isinstance(trajectory, sk.Trajectory)
    assert trajectory.status.shape == (members,)
    assert trajectory.succeeded.all()
    return trajectory


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_keeps_to_the_public_interface(name):
    """It explains itself, writes to results/NAME, has a seed, and imports no more than
    simkit and what holds its numbers."""
    module = script(name)
    assert module.__doc__ and f"scripts/{name}.py [FOLDER]" in module.__doc__
    arguments = inspect.signature(module.main).parameters
    assert arguments["folder"].default == f"results/{name}"
    assert isinstance(arguments["seed"].default, int)
    text = (ROOT / f"scripts/{name}.py").read_text(encoding="utf-8")
    imported = set(re.findall(r"^ *(?:import|from) ([\w.]+)", text, re.MULTILINE))
    assert imported - set(sys.stdlib_module_names) <= {"simkit", "numpy", "jax.numpy"}
    assert f"def test_{name.removeprefix('fit_')}(" in Path(__file__).read_text("utf-8")


@pytest.mark.slow
def test_argon(tmp_path, capsys):
    """Both parameters come back to what is known of argon from 30 % below it: epsilon/k of
    120 K and sigma of 3.40 angstrom (A. Rahman, Phys. Rev. 136, A405 (1964))."""
    returned = script("fit_argon").main(tmp_path, frames=FRAMES)
    assert returned.converged
    printed = capsys.readouterr().out
    assert "epsilon/k = " in printed and "Written to" in printed
    with (tmp_path / "parameters.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert float(rows["sigma"]["estimate"]) == pytest.approx(3.40, abs=0.1)
    # The structure of a liquid says much about sigma and little about epsilon.
    epsilon, error = (float(rows["epsilon/k"][key]) for key in ("estimate", "standard_error"))
    assert 20 < error < 60
    assert abs(epsilon - 120) < 2 * error
    assert (tmp_path / "structure_factor.png").stat().st_size > 1000
    with (tmp_path / "structure_factor.csv").open(newline="") as file:
        curves = [[float(value) for value in row.values()] for row in csv.DictReader(file)]
    _, measured, fitted = np.transpose(curves)
    assert np.sqrt(np.mean((fitted - measured) ** 2)) < 0.03


@pytest.mark.slow
def test_lynx_hare(tmp_path, capsys):
    """Rates agree with the reference posterior in data/lynx_hare/SOURCE.txt."""
    returned = script("fit_lynx_hare").main(tmp_path, starts=STARTS)
    fit = read_fit(tmp_path)
    assert fit.estimates == returned.estimates
    posterior = fit.uncertainty
    assert posterior is not None
    means = dict(zip(posterior.name.tolist(), posterior.mean.tolist(), strict=True))
    assert means["prey_growth"] == pytest.approx(0.54686, abs=0.3 * 0.0631)
    assert means["predator_death"] == pytest.approx(0.80010, abs=0.3 * 0.0894)
    assert means["noise.hare"] == pytest.approx(0.24806, abs=0.3 * 0.0433)
    printed = capsys.readouterr().out
    assert all(name in printed for name in means)
    assert f"\nSolved by {fit.engine}: {fit.engine_reason}\n" in printed
    assert fit.engine in ("native", "diffrax")


@pytest.mark.slow
def test_influenza(tmp_path, capsys):
    """The posterior is that of the grid in data/influenza/SOURCE.txt."""
    script("fit_influenza").main(tmp_path, starts=STARTS)
    fit = read_fit(tmp_path)
    posterior = fit.uncertainty
    assert posterior is not None
    means = dict(zip(posterior.name.tolist(), posterior.mean.tolist(), strict=True))
    table = posterior.derived
    means |= dict(zip(table.name.tolist(), table.estimate.tolist(), strict=True))
    assert means["transmission_rate"] == pytest.approx(1.7349, abs=0.25 * 0.0528)
    assert means["recovery_rate"] == pytest.approx(0.5420, abs=0.25 * 0.0454)
    assert means["basic_reproduction_number"] == pytest.approx(3.2224, abs=0.25 * 0.2758)
    assert means["recovery_time"] == pytest.approx(1.8581, abs=0.25 * 0.1565)
    assert means["noise.in_bed"] == pytest.approx(0.1375, abs=0.25 * 0.0748)
    assert "basic_reproduction_number" in capsys.readouterr().out


@pytest.mark.slow
def test_theophylline(tmp_path, capsys):
    """Clearances and half-lives are those of the least-squares fits of each subject."""
    script("fit_theophylline").main(tmp_path, starts=STARTS)
    fit = read_fit(tmp_path)
    assert fit.curves.group.size == 12
    with (tmp_path / "subjects.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["subject"]: row for row in csv.DictReader(file)}
    assert len(rows) == 12
    # Elimination rate (1/h) and volume (L/kg) by SciPy, from data/theophylline/SOURCE.txt.
    for subject, rate, volume in (("1", 0.0540, 0.3693), ("9", 0.0866, 0.3773)):
        assert float(rows[subject]["clearance"]) == pytest.approx(rate * volume, rel=2e-3)
        assert float(rows[subject]["half_life"]) == pytest.approx(np.log(2) / rate, rel=2e-3)
    printed = capsys.readouterr().out
    assert all(f"{float(row['half_life']):.4f} +-" in printed for row in rows.values())


def test_stochastic_ensemble(tmp_path, capsys):
    """Mean and variance are within four standard errors of the exact ones at all times."""
    module = script("stochastic_ensemble")
    module.main(tmp_path, members=500)
    trajectory = read_ensemble(tmp_path, members=500)
    assert figures(tmp_path / "figures") == {"trajectory"}
    found = module.compare(trajectory)
    # The exact moments, written out once more.
    decay = np.exp(-0.7 * found["time"])
    np.testing.assert_allclose(found["exact_mean"], 2.0 - 3.0 * decay)
    np.testing.assert_allclose(found["exact_variance"], 0.8**2 * (1 - decay**2) / 1.4)
    for moment in ("mean", "variance"):
        assert found[f"{moment}_difference"].shape == (80,)
        assert np.max(np.abs(found[f"{moment}_difference"])) < 4
    assert "500 members" in capsys.readouterr().out


def test_chaotic_ensemble(tmp_path, capsys):
    """The exponent is within 15 % of the literature value; differences end large."""
    module = script("chaotic_ensemble")
    module.main(tmp_path, starts=25, members=4)
    trajectory = read_ensemble(tmp_path, members=100)
    assert figures(tmp_path / "figures") == {"trajectory", "phase"}
    assert (tmp_path / "figures/growth.png").stat().st_size > 1000
    distance = module.distances(trajectory, 25)
    assert distance.shape == (25, 4, trajectory.times.size)
    assert np.all(distance[:, :, 0] < 1e-9)
    assert np.median(distance[:, :, -1]) > 1
    value, error = module.exponent(distance)
    assert value == pytest.approx(0.906, rel=0.15)
    assert 0 < error < 0.1
    printed = capsys.readouterr().out
    assert f"{value:.3f}" in printed
    assert f"\nsolved by {trajectory.engine}: {trajectory.engine_reason}\n" in printed
    assert trajectory.engine in ("native", "lanes")


def test_a_script_overwrites_its_own_output(tmp_path):
    """The file is that of the last run, and another seed gives other noise."""
    module = script("stochastic_ensemble")
    first, last = (module.main(tmp_path, members=500, seed=seed).states["x"] for seed in (1, 2))
    assert not np.any(first[:, 1:] == last[:, 1:])
    np.testing.assert_array_equal(read_ensemble(tmp_path, 500).states["x"], last)


@pytest.mark.slow
def test_a_script_runs_from_the_command_line(tmp_path):
    """With a folder as its one argument, from any working folder."""
    command = [sys.executable, str(ROOT / "scripts/stochastic_ensemble.py"), "here"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Written to here" in done.stdout
    read_ensemble(tmp_path / "here", members=2000)
