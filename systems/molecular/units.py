"""Units of molecular models: one system of units for each model, and ways between them.

The sets are those of the field: `METAL` and `REAL` are the units of that name in LAMMPS,
`SI` is the International System, `REDUCED` measures in the parameters of the model
itself (epsilon, sigma, the mass of a particle, with a Boltzmann constant of one).

Constants: the exact values of the International System since 2019 (Boltzmann, Avogadro,
elementary charge), E. Tiesinga et al., Rev. Mod. Phys. 93, 025010 (2021); the
thermochemical calorie of 4.184 J and the standard atmosphere of 101325 Pa.
"""

import dataclasses
import math


BOLTZMANN = 1.380649e-23
"""Boltzmann constant in J/K, exact."""
AVOGADRO = 6.02214076e23
"""Avogadro constant in 1/mol, exact."""
ELEMENTARY_CHARGE = 1.602176634e-19
"""Elementary charge in C, exact; also the electronvolt in J."""

_CALORIE = 4.184
_ATMOSPHERE = 101325.0
_GRAM_PER_MOLE = 1e-3 / AVOGADRO

# Each quantity as powers of the five that a set of units declares by itself.
_BASE: tuple[str, ...] = ("energy", "length", "mass", "time", "temperature", "pressure")
_DERIVED = {
    "velocity": {"length": 1, "time": -1},
    "acceleration": {"length": 1, "time": -2},
    "force": {"energy": 1, "length": -1},
    "area": {"length": 2},
    "volume": {"length": 3},
    "number_density": {"length": -3},
    "mass_density": {"mass": 1, "length": -3},
    "diffusion": {"length": 2, "time": -1},
    "frequency": {"time": -1},
}


@dataclasses.dataclass(frozen=True)
class Units:
    """One consistent set of units.

    - `name`: its name.
    - `energy`, `length`, `mass`, `time`, `temperature`, `pressure`: names of the units
      as text; `"1"` for reduced ones.
    - `boltzmann`: the Boltzmann constant in energy per temperature.
    - `kinetic`: the energy of one unit of mass times velocity squared, so that the
      kinetic energy is `kinetic * mass * velocity**2 / 2`, and the acceleration
      `force / (kinetic * mass)`.
    - `compression`: the pressure of one unit of energy per volume, so that the
      pressure is `compression * (2 * kinetic_energy + trace(virial)) / (3 * volume)`.
    - `si`: the value of each of the six units in SI (J, m, kg, s, K, Pa), or `None` if
      the units have none.

    Values are plain and hashable, so that a model carries them as a static field.
    """

    name: str
    energy: str
    length: str
    mass: str
    time: str
    temperature: str
    pressure: str
    boltzmann: float
    kinetic: float
    compression: float
    si: tuple[float, float, float, float, float, float] | None

    def in_si(self, quantity: str) -> float:
        """How much one unit of this quantity is in SI units.

        **Arguments:**

        - `quantity`: `"energy"`, `"length"`, `"mass"`, `"time"`, `"temperature"`,
          `"pressure"`, or one that follows from them: `"velocity"`, `"acceleration"`,
          `"force"`, `"area"`, `"volume"`, `"number_density"`, `"mass_density"`,
          `"diffusion"`, `"frequency"`.

        Raises `ValueError` for an unknown quantity, and for reduced units that nobody
        gave a scale (see [`reduced_by`][systems.molecular.units.reduced_by]).
        """
        if quantity not in _BASE and quantity not in _DERIVED:
            raise ValueError(
                f"There is no unit of {quantity!r}; expected one of "
                f"{', '.join((*_BASE, *_DERIVED))}."
            )
        if self.si is None:
            raise ValueError(
                f"The units {self.name!r} have no size in SI units; make some with "
                "reduced_by(energy, length, mass, units)."
            )
        sizes: dict[str, float] = dict(zip(_BASE, self.si, strict=True))
        powers = _DERIVED.get(quantity, {quantity: 1})
        return math.prod(sizes[base] ** power for base, power in powers.items())


def convert(value, quantity: str, source: Units, target: Units):
    """A number or an array in other units.

    **Arguments:**

    - `value`: a number or array in units of `source`.
    - `quantity`: what it is, see [`Units.in_si`][systems.molecular.units.Units.in_si].
    - `source`, `target`: the units it has and those it shall have.

    Raises `ValueError` for an unknown quantity, and for reduced units without a scale
    unless source and target are the same.
    """
    if source == target:
        return value
    return value * (source.in_si(quantity) / target.in_si(quantity))


def reduced_by(energy: float, length: float, mass: float, units: Units) -> Units:
    """Reduced units that know what they stand for, such as epsilon and sigma of argon.

    Time is in `length * sqrt(mass / energy)`, temperature in `energy / k`, pressure in
    `energy / length**3`, so that the Boltzmann constant and all factors are one.

    **Arguments:**

    - `energy`, `length`, `mass`: what counts as one, in `units`, each positive.
    - `units`: the units of these three numbers.

    Raises `ValueError` if one of them is not positive and finite.
    """
    for name, value in (("energy", energy), ("length", length), ("mass", mass)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"reduced_by: {name} is {value}, expected a positive number.")
    joule = energy * units.in_si("energy")
    metre = length * units.in_si("length")
    kilogram = mass * units.in_si("mass")
    second = metre * math.sqrt(kilogram / joule)
    sizes = (joule, metre, kilogram, second, joule / BOLTZMANN, joule / metre**3)
    return dataclasses.replace(REDUCED, si=sizes)


def _from_si(
    name: str, names: tuple[str, ...], sizes: tuple[float, float, float, float, float, float]
) -> Units:
    energy, length, mass, time, temperature, pressure = sizes
    return Units(
        name,
        *names,
        boltzmann=BOLTZMANN * temperature / energy,
        kinetic=mass * (length / time) ** 2 / energy,
        compression=energy / length**3 / pressure,
        si=sizes,
    )


REDUCED = Units("reduced", "1", "1", "1", "1", "1", "1", 1.0, 1.0, 1.0, None)
"""Units of the model itself: epsilon, sigma, mass, and what follows from them."""
METAL = _from_si(
    "metal",
    ("eV", "angstrom", "g/mol", "ps", "K", "bar"),
    (ELEMENTARY_CHARGE, 1e-10, _GRAM_PER_MOLE, 1e-12, 1.0, 1e5),
)
"""Electronvolt, angstrom, gram per mole, picosecond, kelvin, bar."""
REAL = _from_si(
    "real",
    ("kcal/mol", "angstrom", "g/mol", "fs", "K", "atm"),
    (1e3 * _CALORIE / AVOGADRO, 1e-10, _GRAM_PER_MOLE, 1e-15, 1.0, _ATMOSPHERE),
)
"""Kilocalorie per mole, angstrom, gram per mole, femtosecond, kelvin, atmosphere."""
SI = _from_si("SI", ("J", "m", "kg", "s", "K", "Pa"), (1.0, 1.0, 1.0, 1.0, 1.0, 1.0))
"""Joule, metre, kilogram, second, kelvin, pascal."""

UNITS = {units.name: units for units in (REDUCED, METAL, REAL, SI)}
"""The four sets by name."""
