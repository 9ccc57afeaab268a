r"""The radial distribution function $g(r)$: how densely others stand around a particle.

$$g_{ab}(r) = \frac{V}{4\pi r^2 \, \Delta r \, N_{ab}}
  \Big\langle \sum_{i \in a} \sum_{j \in b, j \ne i} [\, r_{ij} \in \text{bin} \,] \Big\rangle$$

with $N_{ab}$ the number of such pairs $(i, j)$, so that it is 1 for an ideal gas of any
number of particles. Source: M. P. Allen, D. J. Tildesley, *Computer Simulation of Liquids*,
2nd ed. (2017), section 8.2.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from simkit.molecular.block_errors import block_average
from simkit.molecular.frames import Boxes, checked_positions, over_frames, shortest_height
from simkit.molecular.values import Curve
from systems.molecular.boxes import AbstractBox


# Pairs that are looked at together: bounds the memory.
_PAIRS_AT_ONCE = 2**20


class RadialDistribution(eqx.Module):
    """The radial distribution function of one frame, as a function of positions and box.

    - `radius`: distance of the end of the last bin, unit of length; at most half the
      smallest height of the box.
    - `bins`: how many bins of equal width.
    - `smooth`: spread each pair over four bins by a cubic spline. The curve is then
      smoothed by about a bin, and has continuous derivatives with respect to positions;
      with sharp bins it has none.
    - `first`, `second`: indices of the particles in the middle and of those around them;
      `None` is all.
    """

    radius: float
    bins: int = eqx.field(static=True, default=100)
    smooth: bool = eqx.field(static=True, default=False)
    first: Int[np.ndarray, " first"] | None = None
    second: Int[np.ndarray, " second"] | None = None

    @property
    def distances(self) -> Float[np.ndarray, " bins"]:
        """The middles of the bins."""
        return (np.arange(self.bins) + 0.5) * (float(self.radius) / self.bins)

    def __call__(
        self, positions: Float[Array, "particles 3"], box: AbstractBox
    ) -> Float[Array, " bins"]:
        """The function at `distances`; the box must be periodic."""
        one = positions if self.first is None else positions[self.first]
        other = positions if self.second is None else positions[self.second]
        mine = jnp.arange(len(positions)) if self.first is None else jnp.asarray(self.first)
        yours = jnp.arange(len(positions)) if self.second is None else jnp.asarray(self.second)
        width = self.radius / self.bins
        counts, pairs = _count(one, other, mine, yours, box, width, self.bins, self.smooth)
        edges = jnp.arange(self.bins + 1) * width
        shells = 4 * math.pi / 3 * (edges[1:] ** 3 - edges[:-1] ** 3)
        return counts * box.volume() / (shells * pairs)


def _count(
    one: Float[Array, "first 3"],
    other: Float[Array, "second 3"],
    mine: Int[Array, " first"],
    yours: Int[Array, " second"],
    box: AbstractBox,
    width: Any,
    bins: int,
    smooth: bool,
) -> tuple[Float[Array, " bins"], Float[Array, ""]]:
    """Pairs in each bin, and how many there are at all distances; some rows at a time."""
    rows = max(1, min(len(one), _PAIRS_AT_ONCE // len(other)))
    blocks = -(-len(one) // rows)
    surplus = blocks * rows - len(one)
    one = jnp.pad(one, ((0, surplus), (0, 0))).reshape(blocks, rows, 3)
    mine = jnp.pad(mine, (0, surplus), constant_values=-1).reshape(blocks, rows)

    def block(carry: Array, part: tuple[Array, Array]) -> tuple[Array, Array]:
        places, names = part
        gaps = [places[:, axis, None] - other[None, :, axis] for axis in range(3)]
        dx, dy, dz = box.displacement(*gaps)
        counted = (names[:, None] != yours[None, :]) & (names[:, None] >= 0)
        squared: Array = dx**2 + dy**2 + dz**2
        distance = jnp.sqrt(jnp.where(counted, squared, 1.0))
        found = _histogram(distance / width, counted, bins, smooth)
        return carry + found, jnp.sum(counted, dtype=float)

    counts, pairs = jax.lax.scan(block, jnp.zeros(bins, one.dtype), (one, mine))
    return counts, jnp.sum(pairs)


def _histogram(place: Array, counted: Array, bins: int, smooth: bool) -> Float[Array, " bins"]:
    """How many of the places, in units of the bin width, lie in each bin."""
    place, counted = place.ravel(), counted.ravel()
    empty = jnp.zeros(bins, place.dtype)
    if not smooth:
        index = jnp.floor(place).astype(jnp.int32)
        return empty.at[jnp.where(counted, index, bins)].add(1.0, mode="drop")
    # The cubic B-spline of unit width, centred on the place: four bins share a pair.
    whole = jnp.floor(place - 0.5)
    part = place - 0.5 - whole
    weights = (
        (1 - part) ** 3 / 6,
        (3 * part**3 - 6 * part**2 + 4) / 6,
        (-3 * part**3 + 3 * part**2 + 3 * part + 1) / 6,
        part**3 / 6,
    )
    index = whole.astype(jnp.int32)
    for shift, weight in enumerate(weights):
        target = index + (shift - 1)
        # A negative index would count from the end.
        inside = counted & (target >= 0)
        empty = empty.at[jnp.where(inside, target, bins)].add(weight, mode="drop")
    return empty


def radial_distribution(
    positions: Float[ArrayLike, "frames particles 3"],
    box: Boxes,
    *,
    radius: float | None = None,
    bins: int = 200,
    smooth: bool = False,
    species: Int[ArrayLike, " particles"] | None = None,
    pair: tuple[int, int] | None = None,
    length_unit: str = "1",
) -> Curve:
    """The radial distribution function of a trajectory, with its standard error.

    **Arguments:**

    - `positions`: shape `(frames, particles, 3)`, wrapped or not.
    - `box`: the box, or the box vectors of each frame, shape `(frames, 3, 3)`; periodic.
    - `radius`: how far; left out, half the smallest height of the box.
    - `bins`, `smooth`: see
      [`RadialDistribution`][simkit.molecular.radial_distributions.RadialDistribution].
    - `species`, `pair`: of particles of species `pair[1]` around those of `pair[0]`; left
      out, all particles count alike.
    - `length_unit`: name of the unit of length.

    Raises `ValueError` for an open box, a radius beyond half the smallest height, a pair
    without particles, and positions of a wrong shape or not finite.
    """
    values = checked_positions(positions)
    height = shortest_height(box, len(values))
    if not np.isfinite(height):
        raise ValueError(
            "The radial distribution function needs a periodic box: an open one has no density."
        )
    radius = height / 2 if radius is None else radius
    if not 0 < radius <= height / 2 * (1 + 1e-12):
        raise ValueError(
            f"The radius is {radius:.6g}, expected one above zero and at most half the "
            f"smallest height of the box, {height / 2:.6g}."
        )
    first, second = _chosen(species, pair, values.shape[1])
    one = RadialDistribution(radius, bins, smooth, first, second)
    mean, error = block_average(over_frames(one, values, box))
    return Curve("g", "1", "r", length_unit, one.distances, mean, error)


def _chosen(
    species: Any, pair: tuple[int, int] | None, particles: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Indices of the particles of both species."""
    if (species is None) != (pair is None):
        raise ValueError("Of species and pair one was given; expected both or neither.")
    if species is None or pair is None:
        if particles < 2:
            raise ValueError("There is one particle, expected at least two.")
        return None, None
    kinds = np.asarray(species)
    if kinds.shape != (particles,):
        raise ValueError(f"The species have shape {kinds.shape}, expected ({particles},).")
    found = [np.flatnonzero(kinds == kind).astype(np.int32) for kind in pair]
    for kind, indices in zip(pair, found, strict=True):
        if len(indices) < (2 if pair[0] == pair[1] else 1):
            raise ValueError(
                f"There are {len(indices)} particles of species {kind}: too few for a pair."
            )
    return found[0], found[1]
