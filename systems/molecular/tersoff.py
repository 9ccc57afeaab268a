r"""The bond-order potential of Tersoff, of silicon, germanium and carbon.

It is written out here and not taken from jax-md: there the derivative of $\zeta^n$ at
$\zeta = 0$ makes forces that are not a number as soon as two atoms are in the region
where the cut-off falls (0.2.29).
"""

import os
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from systems.base import check_parameters, parameter
from systems.molecular.boxes import AbstractBox
from systems.molecular.model import AbstractTerm, evaluate_function
from systems.molecular.neighbours import NeighbourList
from systems.molecular.one_image import check_width
from systems.molecular.pair_sums import Evaluation


# The columns of a parameter file of LAMMPS after the three elements.
_COLUMNS = (
    *("m", "gamma", "lambda3", "c", "d", "h", "n", "beta"),
    *("lambda2", "b", "radius", "width", "lambda1", "a"),
)


class Tersoff(AbstractTerm):
    r"""The potential of Tersoff for one element.

    $$U = \tfrac12 \sum_{i \ne j} f_c(r_{ij})
      \left[A e^{-\lambda_1 r_{ij}} - b_{ij} B e^{-\lambda_2 r_{ij}}\right], \qquad
      b_{ij} = \left(1 + \beta^n \zeta_{ij}^n\right)^{-1/2n}$$

    $$\zeta_{ij} = \sum_{k \ne i,j} f_c(r_{ik})\, \gamma
      \left(1 + \frac{c^2}{d^2} - \frac{c^2}{d^2 + (h - \cos\theta_{ijk})^2}\right)
      e^{\lambda_3^m (r_{ij} - r_{ik})^m}$$

    - `a`, `b`: $A$, $B$, unit of energy. `lambda1`, `lambda2`, `lambda3`: one over
      length. `beta`, `n`, `c`, `d`, `h`, `gamma`: of the bond order, without unit.
    - `radius`, `width`: $f_c$ falls as a sine from one at `radius - width` to zero at
      `radius + width`, unit of length; plain numbers. `m`: 1 or 3.

    Boxes must be at least twice its range wide: it takes the nearest image only.
    Without a neighbour list its cost grows as the cube of the number of particles.

    [`from_lammps`][systems.molecular.tersoff.Tersoff.from_lammps] reads a file.

    Source: J. Tersoff, Phys. Rev. B 37, 6991 (1988) and 38, 9902 (1988).
    """

    a: Float[Any, ""] = parameter(unit="energy", positive=True, description="repulsion, A")
    b: Float[Any, ""] = parameter(unit="energy", positive=True, description="attraction, B")
    lambda1: Float[Any, ""] = parameter(
        unit="1/length", positive=True, description="decay of the repulsion"
    )
    lambda2: Float[Any, ""] = parameter(
        unit="1/length", positive=True, description="decay of the attraction"
    )
    lambda3: Float[Any, ""] = parameter(
        unit="1/length", description="dependence of the bond order on distance"
    )
    beta: Float[Any, ""] = parameter(positive=True, description="strength of the bond order")
    n: Float[Any, ""] = parameter(positive=True, description="power of the bond order")
    c: Float[Any, ""] = parameter(description="strength of the angle")
    d: Float[Any, ""] = parameter(description="width of the angle")
    h: Float[Any, ""] = parameter(description="cosine of the best angle")
    radius: float = eqx.field(static=True, kw_only=True)
    width: float = eqx.field(static=True, kw_only=True)
    gamma: Float[Any, ""] = parameter(
        1.0, positive=True, description="factor of the bond order"
    )
    m: int = eqx.field(static=True, default=3)

    def __check_init__(self) -> None:
        check_parameters(self)
        if not 0 < self.width < self.radius:
            raise ValueError(
                f"Tersoff: radius {self.radius} and width {self.width}, expected positive "
                "lengths, the width below the radius."
            )
        if self.m not in (1, 3):
            raise ValueError(f"Tersoff: m is {self.m}, expected 1 or 3.")

    @classmethod
    def from_lammps(cls, path: str | os.PathLike[str]) -> "Tersoff":
        """The potential of one element from a parameter file of LAMMPS.

        **Arguments:**

        - `path`: the file, in the format of `pair_style tersoff`, with one entry.

        Raises `ValueError` for a file that does not hold exactly one entry of three
        elements and fourteen numbers.
        """
        name = os.fspath(path)
        with open(path, encoding="utf-8", errors="replace") as file:
            words = [word for line in file for word in line.split("#")[0].split()]
        expected = 3 + len(_COLUMNS)
        if len(words) != expected:
            raise ValueError(
                f"{name}: has {len(words)} entries, expected {expected}: the three names of "
                "one element and its fourteen numbers."
            )
        try:
            values = dict(zip(_COLUMNS, map(float, words[3:]), strict=True))
        except ValueError as error:
            raise ValueError(f"{name}: not a file of Tersoff parameters: {error}.") from error
        m = values.pop("m")
        return cls(**values, m=int(m) if m == int(m) else m)  # pyright: ignore

    @property
    def range(self) -> float | None:
        """The sum of `radius` and `width`."""
        return self.radius + self.width

    def evaluate(
        self,
        positions: Float[Array, "particles 3"],
        species: Int[Array, " particles"],
        box: AbstractBox,
        neighbours: NeighbourList | None,
    ) -> Evaluation:
        """By the formula, with forces and virial from reverse differentiation.

        Raises `ValueError` for a box that is narrower than twice the range; where its
        size is traced, everything is not a number then.
        """
        del species
        particles = len(positions)
        number = jnp.arange(particles, dtype=jnp.int32)
        if neighbours is None:
            indices = jnp.broadcast_to(number[None, :], (particles, particles))
        else:
            indices = neighbours.indices
        apart = indices != number[:, None]

        def total(positions: Float[Array, "particles 3"], box: AbstractBox) -> Float[Array, ""]:
            away = [positions[indices, axis] - positions[:, axis][:, None] for axis in range(3)]
            return self._total(box.displacement(*away), apart)

        return check_width(box, self.radius + self.width, "Tersoff")(
            evaluate_function(total, positions, box)
        )

    def _total(
        self,
        away: tuple[Float[Array, "i j"], Float[Array, "i j"], Float[Array, "i j"]],
        apart: Bool[Array, "i j"],
    ) -> Float[Array, ""]:
        """The energy from the vectors to neighbours, of which some are no neighbours."""
        square = away[0] ** 2 + away[1] ** 2 + away[2] ** 2
        bound = apart & (square < (self.radius + self.width) ** 2)
        distance = jnp.sqrt(jnp.where(bound, square, 1.0))
        cut = jnp.where(bound, self._cut_off(distance), 0.0)
        units = [component / distance for component in away]
        cosine: Any = sum(u[:, :, None] * u[:, None, :] for u in units)
        three: Any = bound[:, :, None] & bound[:, None, :]
        three &= ~jnp.eye(three.shape[-1], dtype=bool)[None]
        longer: Any = jnp.where(three, distance[:, :, None] - distance[:, None, :], 0.0)
        ratio = self.c**2 / self.d**2
        angle = 1 + ratio - self.c**2 / (self.d**2 + (self.h - cosine) ** 2)
        each: Any = cut[:, None, :] * angle * jnp.exp((self.lambda3 * longer) ** self.m)
        summed: Any = jnp.where(three, each, 0.0)
        zeta: Any = self.gamma * jnp.sum(summed, axis=2)
        # A power below one has no derivative at zero.
        some = zeta > 0
        power: Any = jnp.where(some, (self.beta * jnp.where(some, zeta, 1.0)) ** self.n, 0.0)
        order: Any = (1 + power) ** (-0.5 / self.n)
        repulsion = self.a * jnp.exp(-self.lambda1 * distance)
        attraction = order * self.b * jnp.exp(-self.lambda2 * distance)
        return 0.5 * jnp.sum(cut * (repulsion - attraction))

    def _cut_off(self, distance: Float[Array, "i j"]) -> Float[Array, "i j"]:
        x = jnp.clip((distance - self.radius) / self.width, -1.0, 1.0)
        return 0.5 * (1 - jnp.sin(0.5 * jnp.pi * x))
