"""Pair energies, cut-offs, mixing rules: values, slopes, smoothness, refusals."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from systems.base import get_parameter, parameter_declarations, replace_parameters
from systems.molecular.corrections import TailCorrection, tail_energy, tail_pressure
from systems.molecular.cutoffs import ForceShifted, Shifted, Switched, Truncated
from systems.molecular.mixing import geometric, lorentz_berthelot, waldman_hagler
from systems.molecular.pairwise import LennardJones, WeeksChandlerAndersen, pair_value
from systems.molecular.potentials import (
    Buckingham,
    HarmonicSphere,
    Morse,
    SoftSphere,
    UserPair,
    Yukawa,
)


# Each with the formula of its publication, written with the distance.
POTENTIALS = {
    "LennardJones": (
        LennardJones(1.3, 0.9),
        lambda r: 4 * 1.3 * ((0.9 / r) ** 12 - (0.9 / r) ** 6),
    ),
    "WeeksChandlerAndersen": (
        WeeksChandlerAndersen(1.3, 0.9),
        lambda r: (
            4 * 1.3 * ((0.9 / r) ** 12 - (0.9 / r) ** 6) + 1.3
            if r < 2 ** (1 / 6) * 0.9
            else 0.0
        ),
    ),
    "Buckingham": (
        Buckingham(300.0, 0.2, 1.5),
        lambda r: 300 * math.exp(-r / 0.2) - 1.5 / r**6,
    ),
    "Morse": (
        Morse(1.3, 4.0, 1.1),
        lambda r: 1.3 * (math.exp(-8 * (r - 1.1)) - 2 * math.exp(-4 * (r - 1.1))),
    ),
    "SoftSphere": (SoftSphere(1.3, 0.9, 9), lambda r: 1.3 * (0.9 / r) ** 9),
    "HarmonicSphere": (
        HarmonicSphere(1.3, 1.4, 2.5),
        lambda r: 1.3 / 2.5 * (1 - r / 1.4) ** 2.5 if r < 1.4 else 0.0,
    ),
    "Yukawa": (Yukawa(-1.3, 0.8), lambda r: -1.3 * math.exp(-0.8 * r) / r),
    "UserPair": (
        UserPair(lambda r, first, second: jnp.cos(r) / r**3),
        lambda r: math.cos(r) / r**3,
    ),
}
SCHEMES = {
    "Truncated": functools.partial(Truncated, radius=2.3),
    "Shifted": functools.partial(Shifted, radius=2.3),
    "ForceShifted": functools.partial(ForceShifted, radius=2.3),
    "Switched": functools.partial(Switched, onset=1.6, radius=2.3),
}
DISTANCES = np.asarray([0.85, 0.95, 1.1, 1.35, 1.7, 2.1, 2.29, 2.31, 3.0])


def at(pair, distances, first: Any = 0, second: Any = 0):
    """Energy and force (-du/dr) at up to nine distances, outside jit.

    Always nine, so that the operations are compiled once for all tests.
    """
    size = np.size(distances)
    nine = jnp.asarray(np.resize(distances, 9))
    species = [
        np.resize(kind, 9).astype(np.int32) if np.ndim(kind) else kind
        for kind in (first, second)
    ]
    energy, slope = pair.energy_and_slope(nine**2, *species)
    return np.asarray(energy)[:size], np.asarray(slope * nine)[:size]


@pytest.mark.parametrize("name", POTENTIALS)
def test_energies_are_those_of_the_formula(name):
    pair, formula = POTENTIALS[name]
    expected = [formula(r) for r in DISTANCES]
    np.testing.assert_allclose(at(pair, DISTANCES)[0], expected, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(
        pair.energy(jnp.asarray(DISTANCES) ** 2, 0, 0), expected, rtol=1e-13, atol=1e-14
    )


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
@pytest.mark.parametrize("name", POTENTIALS)
def test_forces_are_the_slope_of_the_energy(name, scheme):
    """Against central differences, within the cut-off and beyond it."""
    pair = POTENTIALS[name][0]
    pair = pair if scheme is None else SCHEMES[scheme](pair)
    step = 1e-6
    numeric = -(at(pair, DISTANCES + step)[0] - at(pair, DISTANCES - step)[0]) / (2 * step)
    forces = at(pair, DISTANCES)[1]
    np.testing.assert_allclose(forces, numeric, rtol=1e-7, atol=3e-8)
    if scheme in ("Truncated", "Shifted"):
        return
    # The derivative by jax, where the formula is written out, is the same.
    by_jax = jax.grad(lambda r: jnp.sum(pair.energy(r**2, 0, 0)))(jnp.asarray(DISTANCES))
    np.testing.assert_allclose(forces, -by_jax, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["LennardJones", "Morse", "Yukawa"])
def test_what_is_smooth_at_the_cut_off(name):
    """Just within the radius: which of energy, force and its derivative have come to zero."""
    pair, formula = POTENTIALS[name]
    end, end_force = formula(2.3), at(pair, [2.3])[1][0]
    found = {key: at(make(pair), [2.3 - 1e-5, 2.3, 5.0]) for key, make in SCHEMES.items()}
    energies = {key: energy[0] for key, (energy, _) in found.items()}
    forces = {key: force[0] for key, (_, force) in found.items()}
    small = 1e-4 * abs(end_force)
    assert energies["Truncated"] == pytest.approx(end, rel=1e-3)
    assert forces["Truncated"] == pytest.approx(end_force, rel=1e-3)
    assert abs(energies["Shifted"]) < small
    assert forces["Shifted"] == pytest.approx(end_force, rel=1e-3)
    assert abs(energies["ForceShifted"]) < 1e-3 * small
    assert abs(forces["ForceShifted"]) < small
    assert abs(energies["Switched"]) < 1e-9 * abs(end)
    assert abs(forces["Switched"]) < 1e-6 * abs(end)
    for energy, force in found.values():
        assert energy[1:].tolist() == force[1:].tolist() == [0.0, 0.0]


def test_a_switch_changes_nothing_before_its_onset():
    pair = POTENTIALS["LennardJones"][0]
    near = np.linspace(0.8, 1.6, 9)
    assert np.array_equal(at(Switched(pair, 1.6, 2.3), near)[0], at(pair, near)[0])
    np.testing.assert_allclose(
        at(Switched(pair, 1.6, 2.3), near)[1], at(pair, near)[1], rtol=1e-15
    )


@pytest.mark.parametrize("name", ["LennardJones", "Buckingham", "HarmonicSphere"])
def test_single_precision_stays_single(name):
    """And is right to single precision, with what schemes do with roots and powers."""
    pair = POTENTIALS[name][0]
    for make in (SCHEMES["ForceShifted"], SCHEMES["Switched"]):
        square = jnp.asarray(DISTANCES**2, jnp.float32)
        energy, slope = make(pair).energy_and_slope(square, 0, 0)
        assert energy.dtype == slope.dtype == jnp.float32
        exact = make(pair).energy_and_slope(square.astype(jnp.float64), 0, 0)
        np.testing.assert_allclose(energy, exact[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(slope, exact[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("species", [1, 2, 3, 4, 5])
def test_tables_are_looked_up_by_pairs_of_species(species):
    """By comparisons or by index; and the symmetric part counts."""
    table = np.random.default_rng(3).random((species, species))
    first, second = np.meshgrid(np.arange(species), np.arange(species), indexing="ij")
    found = pair_value(table, jnp.asarray(first), jnp.asarray(second), jnp.float64)
    np.testing.assert_allclose(
        np.broadcast_to(found, table.shape), (table + table.T) / 2, rtol=1e-15
    )
    columns = pair_value(
        table, jnp.asarray(first[:, :1]), jnp.asarray(second[:1, :]), jnp.float64
    )
    np.testing.assert_allclose(
        np.broadcast_to(columns, table.shape), (table + table.T) / 2, rtol=1e-15
    )


def test_a_mixture_by_vectors_is_that_by_tables():
    vectors = LennardJones([1.0, 0.5], [1.0, 0.8])
    tables = LennardJones(
        [[1.0, math.sqrt(0.5)], [math.sqrt(0.5), 0.5]], [[1.0, 0.9], [0.9, 0.8]]
    )
    first, second = np.asarray([0, 0, 1, 1]), np.asarray([0, 1, 0, 1])
    distances = np.full(4, 1.2)
    np.testing.assert_allclose(
        at(vectors, distances, first, second), at(tables, distances, first, second), rtol=1e-14
    )
    assert at(vectors, distances, first, second)[0][1] == pytest.approx(
        4 * math.sqrt(0.5) * ((0.9 / 1.2) ** 12 - (0.9 / 1.2) ** 6), rel=1e-14
    )
    one_epsilon = LennardJones(2.0, [1.0, 0.8], geometric)
    assert at(one_epsilon, [1.2], np.asarray([0]), np.asarray([1]))[0] == pytest.approx(
        8 * (0.8**3 / 1.2**6 * (0.8**3 / 1.2**6 - 1)), rel=1e-13
    )


@pytest.mark.parametrize("rule", [lorentz_berthelot, geometric, waldman_hagler])
def test_mixing_rules_keep_like_pairs_and_are_symmetric(rule):
    epsilon, sigma = jnp.asarray([1.0, 0.4, 2.0]), jnp.asarray([1.0, 0.7, 1.3])
    mixed = rule(epsilon, sigma)
    for table, given in zip(mixed, (epsilon, sigma), strict=True):
        np.testing.assert_allclose(np.diag(table), given, rtol=1e-14)
        np.testing.assert_allclose(table, table.T, rtol=1e-15)


def test_waldman_and_hagler_keep_the_dispersion_geometric():
    """Argon and neon of their paper's kind: eps * sigma**6 is the geometric mean."""
    epsilon, sigma = jnp.asarray([119.8, 36.7]), jnp.asarray([3.405, 2.79])
    mixed_epsilon, mixed_sigma = waldman_hagler(epsilon, sigma)
    dispersion = mixed_epsilon * mixed_sigma**6
    assert dispersion[0, 1] == pytest.approx(
        math.sqrt(float(dispersion[0, 0] * dispersion[1, 1])), rel=1e-13
    )


def switch(r):
    x = min(max((r - 1.6) / (2.3 - 1.6), 0.0), 1.0)
    return 1 - 10 * x**3 + 15 * x**4 - 6 * x**5


CUT = {
    "Truncated": (Truncated, "LennardJones", lambda r: float(r < 2.3), 2.3),
    "Switched": (Switched, "LennardJones", switch, 1.6),
    "Yukawa": (Truncated, "Yukawa", lambda r: float(r < 2.3), 2.3),
}


@pytest.mark.parametrize("name", CUT)
def test_long_range_corrections_are_the_integrals(name):
    """Against adaptive quadrature by SciPy; the pressure by parts, from the energies."""
    scheme, potential, factor, start = CUT[name]
    full, formula = POTENTIALS[potential]
    pair = SCHEMES[scheme.__name__](full)

    def integral(start, stop):
        return quad(lambda r: formula(r) * (1 - factor(r)) * r**2, start, stop, epsabs=1e-13)[0]

    energy = integral(start, 2.3) + integral(2.3, np.inf)
    # - int (u - u_c)' r^3 dr; where the cut jumps, the jump itself is left out.
    jump = formula(2.3) * 2.3**3 if scheme is Truncated else 0.0
    virial = 3 * energy + jump
    assert tail_energy(pair, [50.0], 200.0) == pytest.approx(
        2 * math.pi * 50**2 / 200 * energy, rel=1e-8
    )
    assert tail_pressure(pair, [50.0], 200.0) == pytest.approx(
        2 * math.pi / 3 * (50 / 200) ** 2 * virial, rel=1e-8
    )


def test_long_range_corrections_of_a_mixture():
    """Of like particles in two groups it is that of one."""
    alike = Truncated(LennardJones([1.0, 1.0], [1.0, 1.0]), 3.0)
    one = tail_energy(Truncated(LennardJones(), 3.0), [800.0], 1000.0)
    assert tail_energy(alike, [300.0, 500.0], 1000.0) == pytest.approx(float(one), rel=1e-14)
    closed = 8 * math.pi / 3 * 800**2 / 1000 * (3.0**-9 / 3 - 3.0**-3)
    assert one == pytest.approx(closed, rel=1e-14)


def test_parameters_have_names_units_and_values():
    pair = Truncated(LennardJones(1.3, 0.9), 2.5)
    declared = {item.name: item for item in parameter_declarations(pair)}
    assert set(declared) == {"pair.epsilon", "pair.sigma"}
    assert declared["pair.sigma"].unit == "length"
    assert (declared["pair.epsilon"].lower, declared["pair.epsilon"].upper) == (0.0, math.inf)
    other = replace_parameters(pair, {"pair.sigma": 1.1})
    assert get_parameter(other, "pair.sigma") == 1.1
    slope = jax.grad(
        lambda sigma: replace_parameters(pair, {"pair.sigma": sigma}).energy(
            jnp.asarray(1.44), 0, 0
        )
    )
    step = 1e-6
    low, high = (
        replace_parameters(pair, {"pair.sigma": 0.9 + s}).energy(jnp.asarray(1.44), 0, 0)
        for s in (-step, step)
    )
    assert slope(0.9) == pytest.approx(float(high - low) / (2 * step), rel=1e-7)


def test_a_range_that_a_fit_outgrows_is_no_number():
    """Never the energy of a potential that neighbour lists have cut."""
    pair = WeeksChandlerAndersen(1.0, 1.0, longest=1.3)
    grown = replace_parameters(pair, {"sigma": 1.2})
    assert np.isnan(at(grown, [1.0])[0]).all()
    assert np.isfinite(at(replace_parameters(pair, {"sigma": 1.15}), [1.0])[0]).all()
    with pytest.raises(ValueError, match="sigma is traced, so the range must be given"):
        jax.jit(lambda sigma: HarmonicSphere(1.0, sigma).energy(jnp.asarray(0.5), 0, 0))(1.0)


REFUSED = {
    "parameter 'sigma' is -1.0, expected a number from 0": lambda: LennardJones(1.0, -1.0),
    "parameter 'epsilon' is nan": lambda: LennardJones(np.nan),
    r"parameter 'epsilon' is \[\[1.0, 2.0\], \[3.0, 1.0\]\], expected a symmetric": (
        lambda: LennardJones([[1.0, 2.0], [3.0, 1.0]])
    ),
    r"parameter 'sigma' has shape \(1, 2\)": lambda: LennardJones(1.0, [[1.0, 2.0]]),
    "parameters of several shapes": lambda: LennardJones(np.eye(2), np.eye(3)),
    r"parameter 'depth' has shape \(2,\), expected a number or a square": (
        lambda: Morse([1.0, 2.0])
    ),
    "parameter 'exponent' is 1.0, expected a number from 2": (
        lambda: HarmonicSphere(1.0, 1.0, 1.0)
    ),
    "Truncated: radius is 0, expected a positive number": lambda: Truncated(LennardJones(), 0),
    "Shifted: pair is of type float": lambda: Shifted(1.0, 2.0),  # pyright: ignore
    "Switched: onset is 3.0, expected a number from 0 to below the radius 2.5": (
        lambda: Switched(LennardJones(), 3.0, 2.5)
    ),
    "of type float that cannot be called": lambda: UserPair(3.0),
    "TailCorrection: pair is of type Shifted": (
        lambda: TailCorrection(Shifted(LennardJones(), 2.5))  # pyright: ignore
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_meant_is_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        REFUSED[sentence]()
