"""Observables of molecules: against answers that are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simkit.molecular.block_errors import autocorrelation_time, block_average, blocking
from simkit.molecular.displacements import (
    diffusion_coefficient,
    finite_size_correction,
    mean_squared_displacement,
)
from simkit.molecular.heat_capacities import heat_capacity, microcanonical_heat_capacity
from simkit.molecular.radial_distributions import RadialDistribution, radial_distribution
from simkit.molecular.stress import average_pressure, average_stress
from simkit.molecular.structure_factors import (
    structure_factor,
    structure_factor_from_distribution,
    windowed_structure_factor,
)
from simkit.molecular.velocity_correlations import (
    green_kubo_diffusion,
    velocity_autocorrelation,
    velocity_spectrum,
)
from systems.molecular.boxes import OpenBox, OrthorhombicBox, TriclinicBox
from systems.molecular.builders import lattice


@pytest.fixture(scope="module")
def gas() -> tuple[np.ndarray, OrthorhombicBox]:
    """Frames of points without any order."""
    box = OrthorhombicBox([5.0, 6.0, 7.0])
    places = np.random.default_rng(1).uniform(size=(160, 100, 3)) * np.asarray(box.lengths)
    return places, box


def auto_regressive(steps: int, memory: float, *, seed: int) -> np.ndarray:
    """A series of variance one whose correlation falls by `memory` at each step."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=steps) * np.sqrt(1 - memory**2)
    values = np.empty(steps)
    values[0] = generator.normal()
    for i in range(1, steps):
        values[i] = memory * values[i - 1] + noise[i]
    return values


def test_block_error_of_an_autoregressive_series_is_the_exact_one() -> None:
    memory, steps = 0.9, 2**15
    exact = np.sqrt((1 + memory) / (1 - memory) / steps)
    found = [block_average(auto_regressive(steps, memory, seed=s))[1] for s in range(6)]
    assert np.mean(found) == pytest.approx(exact, rel=0.08)
    # The plain error, which takes frames as independent, is four times too small.
    assert blocking(auto_regressive(steps, memory, seed=0)).standard_errors[0] < 0.3 * exact


def test_autocorrelation_time_of_an_autoregressive_series_is_the_exact_one() -> None:
    series = np.stack([auto_regressive(2**15, m, seed=2) for m in (0.0, 0.9)], axis=1)
    found = autocorrelation_time(series)
    assert found == pytest.approx([0.5, 0.5 * 1.9 / 0.1], rel=0.12)
    assert autocorrelation_time(np.ones(50)) == 0.5


def test_series_that_cannot_be_averaged_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1,\), expected at least two frames"):
        blocking(np.asarray([1.0]))
    with pytest.raises(ValueError, match="Frame 2 of the series is nan"):
        block_average(np.asarray([1.0, 2.0, np.nan]))
    assert np.isnan(block_average(np.asarray([3.0]))[1])


def test_ideal_gas_has_no_structure(gas) -> None:
    places, box = gas
    curve = radial_distribution(places, box, bins=25)
    assert curve.coordinate[-1] == pytest.approx(2.45)
    score = (curve.value - 1)[5:] / curve.standard_error[5:]
    assert np.abs(score).max() < 4 and np.std(score) < 1.7
    assert np.mean(curve.value[5:]) == pytest.approx(1, abs=0.01)
    factor = structure_factor(places, box, largest=8.0, per_shell=40)
    assert factor.value.mean() == pytest.approx(1, abs=0.05)
    assert np.abs((factor.value - 1) / factor.standard_error).max() < 4.5


def test_pairs_are_those_of_a_plain_count_in_a_triclinic_box() -> None:
    box = TriclinicBox([[4.0, 0, 0], [1.0, 4.0, 0], [0.5, -1.0, 5.0]])
    places = np.random.default_rng(3).uniform(-5, 9, size=(1, 30, 3))
    species = np.arange(30) % 3
    curve = radial_distribution(places, box, radius=1.9, bins=10, species=species, pair=(0, 1))
    shifts = np.stack(np.meshgrid(*[range(-6, 7)] * 3, indexing="ij"), -1).reshape(-1, 3)
    images = shifts @ np.asarray(box.vectors())
    counts = np.zeros(10)
    for i in np.flatnonzero(species == 0):
        for j in np.flatnonzero(species == 1):
            distances = np.linalg.norm(places[0, i] - places[0, j] + images, axis=1)
            counts += np.histogram(distances, bins=10, range=(0, 1.9))[0]
    edges = np.linspace(0, 1.9, 11)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    assert counts.sum() > 10
    np.testing.assert_allclose(curve.value, counts * 80.0 / (shells * 100), rtol=1e-10)


def test_lattice_has_its_shells_and_its_peaks() -> None:
    places, box = lattice("fcc", 4, constant=1.0)
    curve = radial_distribution(places[None], box, radius=1.3, bins=130)
    found = curve.coordinate[curve.value > 0]
    expected = np.sqrt([0.5, 1.0, 1.5])
    assert np.abs(found[:, None] - expected[None]).min(axis=1).max() < 0.011
    shell = curve.value * 4 / 3 * np.pi * np.diff(np.linspace(0, 1.3, 131) ** 3) * 255 / 64
    assert shell.sum() == pytest.approx(12 + 6 + 24)
    # All wave vectors vanish but those of the reciprocal lattice: the first is 111.
    factor = structure_factor(places[None], box, largest=11.0, width=0.05, per_shell=10**6)
    peaks = factor.coordinate[factor.value > 1e-9]
    np.testing.assert_allclose(peaks, 2 * np.pi * np.sqrt([3.0]), rtol=1e-12)
    assert factor.value.max() <= 256


def test_transform_of_a_known_distribution_is_its_structure_factor() -> None:
    # g - 1 = -exp(-r^2 / 2 s^2) has a Gaussian transform.
    density, spread = 0.3, 0.5
    q = np.linspace(0.1, 8, 50)
    exact = 1 - density * (2 * np.pi) ** 1.5 * spread**3 * np.exp(-((q * spread) ** 2) / 2)
    distances = (np.arange(400) + 0.5) * (4.0 / 400)
    distribution = radial_distribution(
        np.random.default_rng(0).uniform(size=(2, 4, 3)) * 9, OrthorhombicBox([9.0] * 3)
    )
    values = 1 - np.exp(-(distances**2) / (2 * spread**2))
    curve = type(distribution)("g", "1", "r", "1", distances, values, 0 * values)
    found = structure_factor_from_distribution(curve, q, density, window="none")
    np.testing.assert_allclose(found.value, exact, atol=1e-4)
    # A measured curve seen through the same window is the simulated one.
    windowed = structure_factor_from_distribution(curve, q, density, window="lorch")
    fine = np.linspace(0.0, 16, 400)
    wide = 1 - density * (2 * np.pi) ** 1.5 * spread**3 * np.exp(-((fine * spread) ** 2) / 2)
    seen = windowed_structure_factor(fine, wide, 4.0)
    np.testing.assert_allclose(np.interp(q, fine, seen), windowed.value, atol=1e-3)


def test_smooth_distribution_can_be_differentiated(gas) -> None:
    places, box = gas
    one = RadialDistribution(2.4, bins=12, smooth=True)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=12))

    def total(x):
        return jnp.dot(weights, one(x, box))

    start = jnp.asarray(places[0])
    direction = jnp.asarray(np.random.default_rng(1).normal(size=start.shape))
    slope = jnp.vdot(jax.jit(jax.grad(total))(start), direction)
    step = 1e-5
    value = jax.jit(total)
    difference = (value(start + step * direction) - value(start - step * direction)) / (
        2 * step
    )
    np.testing.assert_allclose(slope, difference, rtol=1e-5)
    sharp = RadialDistribution(2.4, bins=12)(start, box)
    smooth = one(start, box)
    assert abs(float(jnp.sum(smooth - sharp)[()])) < 1.0


def test_random_walk_diffuses_as_it_must() -> None:
    steps = np.random.default_rng(5).normal(size=(1000, 60, 3)) * np.sqrt(2 * 0.7 * 0.1)
    places = np.cumsum(steps, axis=0) + 100.0
    found = diffusion_coefficient(places, 0.1, start=0.1, stop=1.0)
    assert found.standard_error < 0.03
    assert abs(found.value - 0.7) < 3.5 * found.standard_error
    curve = mean_squared_displacement(places, 0.1, lags=20)
    plain = np.mean(np.sum((places[7:] - places[:-7]) ** 2, axis=2))
    assert curve.value[7] == pytest.approx(plain, rel=1e-10)
    assert curve.value[0] == pytest.approx(0, abs=1e-9)
    assert finite_size_correction(1.0, 2.837297, 1.0) == pytest.approx(1 / (6 * np.pi))


def test_oscillators_have_a_cosine_and_one_line() -> None:
    generator = np.random.default_rng(6)
    phases = generator.uniform(0, 2 * np.pi, size=(1, 40, 3))
    times = 0.05 * np.arange(1600)
    frequency = 0.8
    velocities = np.cos(2 * np.pi * frequency * times[:, None, None] + phases)
    curve = velocity_autocorrelation(velocities, 0.05)
    exact = 1.5 * np.cos(2 * np.pi * frequency * curve.coordinate)
    np.testing.assert_allclose(curve.value, exact, atol=0.02)
    spectrum = velocity_spectrum(velocities, 0.05)
    assert spectrum.coordinate[np.argmax(spectrum.value)] == pytest.approx(0.8, abs=0.06)
    area = np.trapezoid(spectrum.value, spectrum.coordinate)
    assert area == pytest.approx(curve.value[0], rel=0.01)


def test_integral_of_velocities_is_the_diffusion_of_a_random_walk() -> None:
    # Brownian velocities: correlation <v^2> exp(-t) with <v^2> = 1 each, so that D = 1.
    generator = np.random.default_rng(7)
    memory = np.exp(-0.1)
    values = np.empty((3000, 60, 3))
    values[0] = generator.normal(size=(60, 3))
    for i in range(1, 3000):
        noise = generator.normal(size=(60, 3))
        values[i] = memory * values[i - 1] + np.sqrt(1 - memory**2) * noise
    found = green_kubo_diffusion(values, 0.1, stop=8.0)
    assert found.standard_error < 0.05
    assert abs(found.value - 1.0) < 3.5 * found.standard_error
    weighted = velocity_autocorrelation(values, 0.1, lags=3, masses=np.arange(1.0, 61.0))
    assert weighted.value[0] == pytest.approx(3, rel=0.02)


def test_stress_is_minus_the_pressure() -> None:
    tensor = np.random.default_rng(8).normal(size=(64, 3, 3))
    pressure, stress = average_pressure(tensor, unit="bar"), average_stress(tensor)
    assert pressure.value == pytest.approx(-np.trace(stress.value) / 3)
    assert pressure.standard_error == pytest.approx(1 / np.sqrt(3 * 64), rel=0.6)
    assert str(pressure).startswith("pressure: ") and str(pressure).endswith(" bar")


def test_heat_capacity_of_harmonic_oscillators() -> None:
    # The energy of n classical oscillators at T is gamma distributed: C = n k.
    energies = np.random.default_rng(9).gamma(30.0, 2.0, size=20_000)
    found = heat_capacity(energies, 2.0)
    assert abs(found.value - 30) < 3.5 * found.standard_error < 4
    # At constant energy their kinetic energy is beta distributed, with f = 2 C = 60.
    kinetic = np.random.default_rng(10).beta(15.0, 15.0, size=20_000)
    constant = microcanonical_heat_capacity(kinetic, 30)
    assert abs(constant.value - 30) < 3.5 * constant.standard_error < 6
    with pytest.raises(ValueError, match="expected at least 16 frames"):
        heat_capacity(energies[:5], 2.0)
    with pytest.raises(ValueError, match="independent blocks"):
        heat_capacity(np.linspace(0, 1, 40), 2.0)


def test_bad_input_is_one_sentence(gas) -> None:
    places, box = gas
    with pytest.raises(ValueError, match=r"at most half the smallest height of the box, 2\.5"):
        radial_distribution(places, box, radius=3.0)
    with pytest.raises(ValueError, match="open one has no density"):
        radial_distribution(places, OpenBox())
    with pytest.raises(ValueError, match=r"expected \(frames, particles, 3\)"):
        radial_distribution(np.zeros((3, 4)), box)
    broken = places[:2].copy()
    broken[1, 4, 2] = np.nan
    with pytest.raises(ValueError, match="atom 4 in frame 1"):
        radial_distribution(broken, box)
    with pytest.raises(ValueError, match="0 particles of species 7"):
        radial_distribution(places, box, species=np.zeros(100, int), pair=(0, 7))
    with pytest.raises(ValueError, match=r"expected \(160, 3, 3\)"):
        radial_distribution(places, np.eye(3)[None].repeat(4, 0))
    with pytest.raises(ValueError, match="open one has no wave vectors"):
        structure_factor(places, None, largest=4.0)
    with pytest.raises(ValueError, match=r"has no wave vector up to 0\.1"):
        structure_factor(places, box, largest=0.1)
    with pytest.raises(ValueError, match="expected at least 16"):
        mean_squared_displacement(places[:9], 0.1)
    with pytest.raises(ValueError, match="expected a positive number"):
        mean_squared_displacement(places, 0.0)
