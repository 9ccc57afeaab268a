"""Fits of the three real data sets against references that others computed."""

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

from .cases import fitted, load, posterior, reference_draws, uncertain


POSTERIORDB_NAMES = {
    "prey_growth": "theta[1]",
    "predation": "theta[2]",
    "predator_death": "theta[3]",
    "conversion": "theta[4]",
    "initial_state.prey": "z_init[1]",
    "initial_state.predator": "z_init[2]",
    "noise.hare": "sigma[1]",
    "noise.lynx": "sigma[2]",
}


def test_lynx_hare_laplace_agrees_with_the_reference_posterior(capsys):
    """Within 0.3 reference standard deviations in the mean, 20 % in the deviation."""
    draws = reference_draws("hudson_lynx_hare-lotka_volterra")
    result = uncertain("lynx_hare")
    rows = []
    for name, mean, deviation in zip(
        result.name, result.mean, result.standard_deviation, strict=True
    ):
        reference = draws[POSTERIORDB_NAMES[name]]
        distance = (mean - reference.mean()) / reference.std()
        rows.append((name, reference.mean(), mean, distance, deviation / reference.std()))
    with capsys.disabled():
        print(
            "\nparameter               reference mean   Laplace mean  distance (sd)  sd ratio"
        )
        for name, reference, mean, distance, ratio in rows:
            print(f"{name:22s} {reference:15.5f} {mean:14.5f} {distance:14.3f} {ratio:9.3f}")
    assert len(rows) == 8
    assert max(abs(row[3]) for row in rows) < 0.3
    assert all(0.8 < row[4] < 1.2 for row in rows)


def test_lynx_hare_optimum_is_exact():
    """The gradient vanishes to rounding, and several starts agree."""
    result = fitted("lynx_hare")
    assert result.status == "converged"
    assert result.gradient_norm < 1e-8
    # Found by an independent prototype with Newton's method at the same tolerances.
    assert result.objective == pytest.approx(127.0815992659, abs=1e-8)
    assert np.sum(result.starts.objective < result.objective + 1e-3) >= 2


def test_the_correction_of_the_mean_is_what_makes_noise_scales_right():
    """Without it the mean of a noise scale is off by more than half a deviation."""
    result = uncertain("lynx_hare")
    noise = result.shift[result.name == "noise.hare"]
    assert 0.5 < noise.item() < 0.7
    rates = result.shift[np.isin(result.name, ["prey_growth", "predation", "conversion"])]
    assert np.all(np.abs(rates) < 0.05)


# Posterior mean and standard deviation printed by Stan for the model of Grinsztajn,
# Semenova, Margossian and Riou, "Bayesian workflow for disease transmission modeling in
# Stan", Statistics in Medicine 40, 6209 (2021), on these data; see data/influenza/SOURCE.txt.
PUBLISHED_INFLUENZA = {
    "transmission_rate": (1.73, 0.05),
    "recovery_rate": (0.54, 0.05),
    "basic_reproduction_number": (3.22, 0.28),
    "recovery_time": (1.86, 0.16),
}


@pytest.mark.parametrize("name", PUBLISHED_INFLUENZA)
def test_influenza_recovers_published_values(name):
    """Means within a quarter of the published deviation; deviations within 30 %."""
    mean, deviation = PUBLISHED_INFLUENZA[name]
    result = uncertain("influenza")
    found = dict(
        zip(result.name, zip(result.mean, result.standard_deviation, strict=True), strict=True)
    )
    table = result.derived
    errors = zip(table.estimate, table.standard_error, strict=True)
    found |= dict(zip(table.name, errors, strict=True))
    assert found[name][0] == pytest.approx(mean, abs=0.25 * deviation)
    assert found[name][1] == pytest.approx(deviation, rel=0.3)


def test_influenza_least_squares_recovers_the_classical_values():
    """Murray, *Mathematical Biology I* (2002), section 10.2, gives by least squares
    r = 2.18e-3 per day and boy and rho = a / r = 202, so R0 = 762 / 202 = 3.77.
    """
    from simkit.fitting.fit import fit

    case = load(
        "influenza",
        "data.observables.in_bed.noise=normal",
        "fit.noise.in_bed={}",
        "fit.parameters.transmission_rate={start=[0.8, 4.0]}",
        "fit.parameters.recovery_rate={start=[0.2, 1.5]}",
        "fit.starts=4",
    )
    result = fit(case)
    assert result.method == "Levenberg-Marquardt"
    contact, recovery = (result.estimates[k] for k in ("transmission_rate", "recovery_rate"))
    assert contact / 763 == pytest.approx(2.18e-3, rel=0.01)
    assert 763 * recovery / contact == pytest.approx(202, rel=0.01)


def _scipy_fit(subject: int, start: np.ndarray) -> np.ndarray:
    """One subject by SciPy: the same equations, integrated and fitted there."""
    data = posterior("theophylline").measurements
    seen = data.present[subject, :, 0]
    times, measured = data.times[subject][seen], data.values[subject, :, 0][seen]
    dose = data.inputs["dose"][subject]

    def residuals(logarithms):
        absorption, elimination, volume = np.exp(logarithms)

        def slope(_, y):
            return [-absorption * y[0], absorption * y[0] / volume - elimination * y[1]]

        solution = scipy.integrate.solve_ivp(
            slope, (0, times[-1]), [dose, 0.0], "DOP853", times, rtol=1e-11, atol=1e-12
        )
        return solution.y[1] - measured

    found = scipy.optimize.least_squares(
        residuals, start, jac="3-point", ftol=1e-15, xtol=1e-15, gtol=1e-15
    )
    return np.exp(found.x)


def test_theophylline_agrees_with_scipy_for_every_subject():
    """Relative difference below 1e-5 in all 36 parameters."""
    result = fitted("theophylline")
    assert result.status == "converged"
    groups = posterior("theophylline").measurements.groups
    assert len(groups) == 12
    worst = 0.0
    for index, group in enumerate(groups):
        names = [f"{n}[{group}]" for n in ("absorption_rate", "elimination_rate", "volume")]
        ours = np.array([result.estimates[name] for name in names])
        # From a rounded guess of its own, so that agreement is no matter of the start.
        theirs = _scipy_fit(index, np.log([1.5, 0.08, 0.5]))
        worst = max(worst, np.max(np.abs(ours / theirs - 1)))
    assert worst < 1e-5


def test_every_measurement_is_told_beside_its_prediction():
    """The observation table repeats the data and its residuals are those of the noise."""
    result = fitted("lynx_hare")
    table = result.observations
    assert len(table.time) == 42
    hare = table.observable == "hare"
    expected = np.log(table.measured / table.predicted)[hare] / result.estimates["noise.hare"]
    np.testing.assert_allclose(table.residual[hare], expected, rtol=1e-12)
    assert result.log_likelihood < 0
