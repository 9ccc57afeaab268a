r"""The static structure factor $S(q)$: what a scattering experiment sees.

From the radial distribution function of a fluid of number density $\rho$,

$$S(q) = 1 + 4\pi\rho \int_0^R [g(r) - 1]\, \frac{\sin qr}{qr}\, w(r)\, r^2\, dr ,$$

or from the positions, at wave vectors that fit into the box,

$$S(\mathbf q) = \frac1N \Big\langle \Big| \sum_j e^{i \mathbf q \cdot \mathbf r_j} \Big|^2
  \Big\rangle .$$

The window $w$ of E. Lorch, J. Phys. C 2, 229 (1969), $\sin(\pi r/R) / (\pi r/R)$, takes off
the ripples of the end at $R$ and broadens peaks to about $\pi / R$. Source: J.-P. Hansen,
I. R. McDonald, *Theory of Simple Liquids*, 4th ed. (2013), section 4.1.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from simkit.molecular.block_errors import block_average
from simkit.molecular.frames import Boxes, checked_positions, over_frames
from simkit.molecular.values import Curve, power_of_unit
from systems.molecular.boxes import AbstractBox


Window = Literal["lorch", "none"]

# Phases that are computed together: bounds the memory.
_PHASES_AT_ONCE = 2**20


def window_function(
    distances: Float[ArrayLike, " points"], radius: float, window: Window
) -> Float[np.ndarray, " points"]:
    """The window at some distances; zero beyond the radius.

    Raises `ValueError` for an unknown window.
    """
    distances = np.asarray(distances, float)
    within = distances <= radius
    if window == "none":
        return within.astype(float)
    if window == "lorch":
        return np.sinc(distances / radius) * within
    raise ValueError(f"The window is {window!r}, expected 'lorch' or 'none'.")


def fourier_matrix(
    distances: Float[ArrayLike, " points"],
    wavenumbers: Float[ArrayLike, " wavenumbers"],
    density: float,
    *,
    window: Window = "lorch",
    radius: float | None = None,
) -> Float[np.ndarray, "wavenumbers points"]:
    """The matrix that takes `g - 1` at even distances to `S - 1` at some wavenumbers.

    **Arguments:**

    - `distances`: middles of bins of equal width, from half a width, shape `(points,)`.
    - `wavenumbers`: in one over the unit of length, not negative, shape `(wavenumbers,)`.
    - `density`: particles per volume.
    - `window`, `radius`: the window and where it ends; the end of the last bin if left out.

    Raises `ValueError` for distances that are not such, and an unknown window.
    """
    distances = np.asarray(distances, float)
    width = 2 * distances[0]
    if not np.allclose(distances, (np.arange(len(distances)) + 0.5) * width, rtol=1e-6):
        raise ValueError("The distances are expected to be middles of even bins from zero.")
    radius = float(len(distances) * width) if radius is None else radius
    weights = 4 * np.pi * density * width * distances**2
    weights = weights * window_function(distances, radius, window)
    phases = np.outer(np.asarray(wavenumbers, float), distances)
    return np.sinc(phases / np.pi) * weights


def structure_factor_from_distribution(
    distribution: Curve,
    wavenumbers: Float[ArrayLike, " wavenumbers"],
    density: float,
    *,
    window: Window = "lorch",
) -> Curve:
    """The structure factor by a Fourier transform of the radial distribution function.

    Errors are those of independent bins, which is about right for thin ones; the error of
    few wide bins is better taken from
    [`structure_factor`][simkit.molecular.structure_factors.structure_factor].

    **Arguments:**

    - `distribution`: the radial distribution function of a fluid of one species.
    - `wavenumbers`: in one over the unit of length.
    - `density`: particles per volume.
    - `window`: `"lorch"`, or `"none"`.
    """
    matrix = fourier_matrix(distribution.coordinate, wavenumbers, density, window=window)
    return Curve(
        "S",
        "1",
        "q",
        power_of_unit(distribution.coordinate_unit, -1),
        np.asarray(wavenumbers, float),
        1 + matrix @ (distribution.value - 1),
        np.sqrt(matrix**2 @ distribution.standard_error**2),
    )


def windowed_structure_factor(
    wavenumbers: Float[ArrayLike, " wavenumbers"],
    values: Float[ArrayLike, " wavenumbers"],
    radius: float,
    *,
    window: Window = "lorch",
    density: float = 1.0,
    points: int = 2000,
) -> Float[np.ndarray, " wavenumbers"]:
    r"""A measured structure factor as if its $g(r)$ were known up to a radius only.

    A simulation in a small box ends at a radius; transformed forth and back with the same
    window, the measurement can be compared with it without error from the end. Between
    zero and the first wavenumber the first value holds; beyond the last one, 1.

    **Arguments:**

    - `wavenumbers`, `values`: the measured curve, increasing wavenumbers.
    - `radius`, `window`: those of the simulation.
    - `density`: any; it drops out.
    - `points`: of the distances in between.

    Raises `ValueError` for curves of different length, or wavenumbers that do not increase.
    """
    q, s = np.asarray(wavenumbers, float), np.asarray(values, float)
    if q.shape != s.shape or q.ndim != 1:
        raise ValueError(
            f"The wavenumbers have shape {q.shape} and the values {s.shape}, expected the same."
        )
    if not (q[0] >= 0 and np.all(np.diff(q) > 0)):
        raise ValueError("The wavenumbers are expected to increase from zero or above.")
    distances = (np.arange(points) + 0.5) * (radius / points)
    fine = np.linspace(0.0, q[-1], 4 * len(q))
    excess = np.interp(fine, q, s - 1)
    step = fine[1] - fine[0]
    weight = np.full(len(fine), step)
    weight[[0, -1]] = step / 2
    # The inverse transform: g - 1 = 1 / (2 pi^2 rho) * integral of (S - 1) sin(qr)/(qr) q^2.
    kernel = np.sinc(np.outer(distances, fine) / np.pi)
    correlation = kernel @ (excess * fine**2 * weight) / (2 * np.pi**2 * density)
    return 1 + fourier_matrix(distances, q, density, window=window) @ correlation


class StructureFactor(eqx.Module):
    """The structure factor of one frame at wave vectors of the box, by wavenumber.

    Differentiable with respect to positions.

    - `numbers`: the wave vectors in units of the reciprocal box vectors, whole numbers of
      shape `(vectors, 3)`.
    - `shells`: to which shell each belongs, shape `(vectors,)`.
    - `wavenumbers`: mean wavenumber of each shell, shape `(shells,)`.
    """

    numbers: np.ndarray
    shells: np.ndarray
    wavenumbers: np.ndarray

    def __call__(
        self, positions: Float[Array, "particles 3"], box: AbstractBox
    ) -> Float[Array, " shells"]:
        """The mean over the wave vectors of each shell."""
        fractions = 2 * jnp.pi * box.fractional(positions)
        count = len(self.numbers)
        rows = max(1, min(count, _PHASES_AT_ONCE // len(positions)))
        blocks = -(-count // rows)
        surplus = blocks * rows - count
        numbers = jnp.pad(jnp.asarray(self.numbers, positions.dtype), ((0, surplus), (0, 0)))

        def block(vectors: Array) -> Array:
            phases = vectors @ fractions.T
            real, imaginary = jnp.sum(jnp.cos(phases), 1), jnp.sum(jnp.sin(phases), 1)
            return (real**2 + imaginary**2) / len(positions)

        found = jax.lax.map(block, numbers.reshape(blocks, rows, 3)).ravel()[:count]
        shells, size = jnp.asarray(self.shells), len(self.wavenumbers)
        sums = jax.ops.segment_sum(found, shells, size)
        return sums / jax.ops.segment_sum(jnp.ones_like(found), shells, size)


def wave_vectors(
    vectors: Float[ArrayLike, "3 3"],
    largest: float,
    *,
    width: float,
    per_shell: int = 60,
    seed: int = 0,
) -> StructureFactor:
    """Wave vectors of a box up to a wavenumber, in shells of equal width.

    **Arguments:**

    - `vectors`: of the box, as rows.
    - `largest`: the largest wavenumber, in one over the unit of length.
    - `width`: of a shell of wavenumbers. Shells without a wave vector are left out.
    - `per_shell`: how many vectors of a shell at most; of more, some are drawn.
    - `seed`: of that draw.

    Raises `ValueError` if no wave vector is short enough.
    """
    matrix = np.asarray(vectors, float)
    reciprocal = 2 * np.pi * np.linalg.inv(matrix).T
    edges = np.linalg.norm(matrix, axis=1)
    reach = np.floor(largest * edges / (2 * np.pi)).astype(int)
    generator = np.random.default_rng(seed)
    # Half of all vectors: the other half has the same modulus.
    y, z = np.meshgrid(
        np.arange(-reach[1], reach[1] + 1), np.arange(-reach[2], reach[2] + 1), indexing="ij"
    )
    numbers, lengths = [], []
    for x in range(reach[0] + 1):
        plane = np.stack([np.full(y.size, x), y.ravel(), z.ravel()], axis=1)
        length = np.linalg.norm(plane @ reciprocal, axis=1)
        half = (x > 0) | (plane[:, 1] > 0) | ((plane[:, 1] == 0) & (plane[:, 2] > 0))
        kept = (length <= largest) & half
        numbers.append(plane[kept])
        lengths.append(length[kept])
    number, length = np.concatenate(numbers), np.concatenate(lengths)
    if not len(number):
        raise ValueError(
            f"The box has no wave vector up to {largest:.6g}; the shortest has "
            f"{np.linalg.norm(reciprocal, axis=1).min():.6g}."
        )
    order = generator.permutation(len(number))
    number, length = number[order], length[order]
    shell = np.minimum((length / width).astype(int), int(largest / width))
    chosen = np.concatenate(
        [np.flatnonzero(shell == one)[:per_shell] for one in np.unique(shell)]
    )
    _, shells = np.unique(shell[chosen], return_inverse=True)
    sums = np.bincount(shells, length[chosen])
    return StructureFactor(
        numbers=number[chosen].astype(np.int32),
        shells=shells.astype(np.int32),
        wavenumbers=sums / np.bincount(shells),
    )


def structure_factor(
    positions: Float[ArrayLike, "frames particles 3"],
    box: Boxes,
    *,
    largest: float,
    width: float | None = None,
    per_shell: int = 60,
    seed: int = 0,
    length_unit: str = "1",
) -> Curve:
    """The structure factor of a trajectory at wave vectors of its box, with its error.

    **Arguments:**

    - `positions`: shape `(frames, particles, 3)`, wrapped or not.
    - `box`: the box, or the box vectors of each frame; periodic. Wave vectors are whole
      numbers of reciprocal vectors; their wavenumbers are those of the first box.
    - `largest`: the largest wavenumber.
    - `width`: of a shell; left out, that of the shortest wave vector, so that the shells
      are as many as the box can tell apart.
    - `per_shell`, `seed`, `length_unit`: see
      [`wave_vectors`][simkit.molecular.structure_factors.wave_vectors] and
      [`Curve`][simkit.molecular.values.Curve].

    Raises `ValueError` for an open box, one without a wave vector that short, and positions
    of a wrong shape or not finite.
    """
    values = checked_positions(positions)
    vectors = _first_vectors(box)
    if width is None:
        width = 2 * np.pi * float(np.linalg.norm(np.linalg.inv(vectors), axis=0).min())
    one = wave_vectors(vectors, largest, width=width, per_shell=per_shell, seed=seed)
    mean, error = block_average(over_frames(one, values, box))
    return Curve("S", "1", "q", power_of_unit(length_unit, -1), one.wavenumbers, mean, error)


def _first_vectors(box: Boxes) -> np.ndarray:
    """The box vectors of the first frame."""
    if box is None or (isinstance(box, AbstractBox) and not box.periodic):
        raise ValueError(
            "The structure factor needs a periodic box: an open one has no wave vectors."
        )
    vectors = np.asarray(box.vectors() if isinstance(box, AbstractBox) else box, float)
    return vectors if vectors.ndim == 2 else vectors[0]
