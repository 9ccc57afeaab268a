"""Units of molecular models: the values of LAMMPS, consistency, round trips."""

import itertools

import pytest

from systems.molecular.units import (
    AVOGADRO,
    BOLTZMANN,
    METAL,
    REAL,
    REDUCED,
    SI,
    UNITS,
    convert,
    reduced_by,
)


KNOWN = [
    # LAMMPS, update.cpp, which rounds to seven to ten digits.
    (REAL.boltzmann, 0.0019872067),
    (REAL.kinetic, 48.88821291**2),
    (REAL.compression, 68568.415),
    (METAL.boltzmann, 8.617343e-5),
    (METAL.kinetic, 1.0364269e-4),
    (METAL.compression, 1.6021765e6),
]


@pytest.mark.parametrize(("ours", "published"), KNOWN)
def test_factors_are_those_of_lammps(ours, published):
    # LAMMPS has constants of CODATA 2006, which differ in the sixth digit.
    assert ours == pytest.approx(published, rel=5e-6)


@pytest.mark.parametrize("units", [METAL, REAL, SI], ids=lambda units: units.name)
def test_units_are_consistent(units):
    """Half of m v**2 and p V are energies, k T is one."""
    assert units.kinetic == pytest.approx(
        units.in_si("mass") * units.in_si("velocity") ** 2 / units.in_si("energy"), rel=1e-15
    )
    assert units.in_si("pressure") * units.compression == pytest.approx(
        units.in_si("energy") / units.in_si("volume"), rel=1e-15
    )
    assert units.boltzmann * units.in_si("energy") == pytest.approx(
        BOLTZMANN * units.in_si("temperature"), rel=1e-15
    )


def test_known_conversions():
    """Numbers that can be found in any table."""
    assert convert(1.0, "energy", METAL, REAL) == pytest.approx(23.060548, rel=1e-7)
    assert convert(1.0, "pressure", REAL, SI) == 101325.0
    assert convert(1.0, "velocity", METAL, SI) == pytest.approx(100.0, rel=1e-15)
    assert convert(12.0, "mass", REAL, SI) == pytest.approx(12e-3 / AVOGADRO, rel=1e-15)
    # Liquid argon at 85 K: 0.0213 atoms in a cubic angstrom.
    assert convert(0.0213, "number_density", REAL, SI) == pytest.approx(2.13e28, rel=1e-14)


@pytest.mark.parametrize(
    "quantity",
    ["energy", "length", "mass", "time", "temperature", "pressure", "force", "diffusion"],
)
def test_conversions_go_there_and_back(quantity):
    for source, target in itertools.permutations([METAL, REAL, SI], 2):
        there = convert(1.7, quantity, source, target)
        assert convert(there, quantity, target, source) == pytest.approx(1.7, rel=1e-15)


def test_reduced_units_of_argon():
    """Epsilon 119.8 K, sigma 3.405 angstrom: the time is 2.156 ps (Rahman 1964)."""
    argon = reduced_by(119.8 * REAL.boltzmann, 3.405, 39.948, REAL)
    assert argon.boltzmann == argon.kinetic == argon.compression == 1.0
    assert convert(1.0, "time", argon, METAL) == pytest.approx(2.156, rel=2e-3)
    assert convert(1.0, "temperature", argon, SI) == pytest.approx(119.8, rel=1e-14)
    assert convert(1.0, "pressure", argon, SI) == pytest.approx(
        119.8 * BOLTZMANN / 3.405e-10**3, rel=1e-14
    )
    assert convert(0.71, "temperature", argon, argon) == 0.71


def test_what_cannot_be_converted_is_said():
    with pytest.raises(ValueError, match="no unit of 'charge'; expected one of energy, length"):
        convert(1.0, "charge", METAL, SI)
    with pytest.raises(ValueError, match="'reduced' have no size in SI units; make some with"):
        convert(1.0, "energy", REDUCED, SI)
    with pytest.raises(ValueError, match="length is -1"):
        reduced_by(1.0, -1.0, 1.0, SI)
    assert convert(3.0, "energy", REDUCED, REDUCED) == 3.0
    assert list(UNITS) == ["reduced", "metal", "real", "SI"]
