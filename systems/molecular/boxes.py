"""The space that particles live in: open, or periodic with three vectors.

Vectors are rows everywhere: a box with `vectors` of shape `(3, 3)` repeats along
`vectors[0]`, `vectors[1]` and `vectors[2]`. Displacements are taken by component, each
an array of any shape, because three separate arrays are what a compiler turns into
vector code.

Source of the conventions: M. P. Allen, D. J. Tildesley, *Computer Simulation of
Liquids*, 2nd ed. (2017), section 1.6.4 and appendix B.
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


Component = Float[Any, "..."]


def _as_lengths(value: Any) -> Any:
    """A number or list as a float64 array; arrays of jax and tracers stay as they are."""
    if isinstance(value, jax.Array):
        return value
    return np.asarray(value, dtype=np.float64)


def known(value: Any) -> np.ndarray | None:
    """The numbers of an array, or `None` while it is traced."""
    if isinstance(value, jax.core.Tracer):
        return None
    return np.asarray(value)


class AbstractBox(eqx.Module):
    """Where particles live, and which of two images of a particle is near.

    Lengths are leaves, so that they may change in a compiled run, be mapped over, and
    have derivatives.
    """

    @property
    @abc.abstractmethod
    def periodic(self) -> bool:
        """Whether it repeats."""

    @abc.abstractmethod
    def displacement(
        self, dx: Component, dy: Component, dz: Component
    ) -> tuple[Component, Component, Component]:
        """The nearest image of a displacement, by components of any one shape.

        It is the nearest one for certain wherever it is shorter than half the smallest
        of the [`heights`][systems.molecular.boxes.AbstractBox.heights]; longer ones are
        an image, not always the nearest. Derivatives with respect to the box hold the
        choice of the image fixed.
        """

    @abc.abstractmethod
    def vectors(self) -> Float[Array, "3 3"]:
        """The vectors of the box as rows. Raises `ValueError` for an open one."""

    @abc.abstractmethod
    def volume(self) -> Float[Array, ""]:
        """Volume of the box; infinite for an open one."""

    @abc.abstractmethod
    def heights(self) -> Float[Array, " 3"]:
        """Distances between opposite faces; infinite for an open box."""

    @abc.abstractmethod
    def fractional(self, positions: Float[Any, "*n 3"]) -> Float[Array, "*n 3"]:
        """Positions in units of the box vectors. Raises `ValueError` for an open box."""

    @abc.abstractmethod
    def cartesian(self, fractions: Float[Any, "*n 3"]) -> Float[Array, "*n 3"]:
        """The reverse of `fractional`. Raises `ValueError` for an open box."""

    @abc.abstractmethod
    def strained(self, strain: Float[Any, "..."]) -> "AbstractBox":
        """The box after a strain, which takes a point `r` to `(1 + strain) r`.

        **Arguments:**

        - `strain`: a number (the same along all axes), three (one for each axis), or
          an upper triangular matrix of shape `(3, 3)`, with which every change of
          shape can be written up to a rotation. A matrix makes an orthorhombic box a
          triclinic one.

        Raises `ValueError` for another shape, and for a matrix that is not upper
        triangular. An open box stays as it is.
        """

    def images(self, positions: Float[Any, "*n 3"]) -> Int[Array, "*n 3"]:
        """How many box vectors each position lies away from the first cell; zeros if open."""
        if not self.periodic:
            return jnp.zeros(jnp.shape(positions), dtype=jnp.int32)
        return jnp.floor(self.fractional(positions)).astype(jnp.int32)

    def wrap(self, positions: Float[Any, "*n 3"]) -> Float[Array, "*n 3"]:
        """The image of each position within the first cell, `0 <= fraction < 1`.

        Positions in an open box stay as they are.
        """
        if not self.periodic:
            return positions
        fractions = self.fractional(positions)
        fractions = fractions - jnp.floor(fractions)
        # A tiny negative fraction rounds up to one, which is the next cell.
        return self.cartesian(jnp.where(fractions >= 1, 0.0, fractions))


class OpenBox(AbstractBox):
    """Space without end: clusters, gases, a molecule by itself."""

    @property
    def periodic(self) -> bool:
        """It does not repeat."""
        return False

    def displacement(
        self, dx: Component, dy: Component, dz: Component
    ) -> tuple[Component, Component, Component]:
        """The displacement itself."""
        return dx, dy, dz

    def vectors(self) -> Float[Array, "3 3"]:
        """Raises `ValueError`."""
        raise ValueError("An open box has no vectors.")

    def volume(self) -> Float[Array, ""]:
        """Infinite."""
        return jnp.asarray(math.inf)

    def heights(self) -> Float[Array, " 3"]:
        """Infinite."""
        return jnp.full(3, math.inf)

    def fractional(self, positions: Float[Any, "*n 3"]) -> Float[Array, "*n 3"]:
        """Raises `ValueError`."""
        raise ValueError("An open box has no fractional coordinates.")

    def cartesian(self, fractions: Float[Any, "*n 3"]) -> Float[Array, "*n 3"]:
        """Raises `ValueError`."""
        raise ValueError("An open box has no fractional coordinates.")

    def strained(self, strain: Float[Any, "..."]) -> "OpenBox":
        """The same: there is nothing to strain."""
        del strain
        return self


class OrthorhombicBox(AbstractBox):
    """A periodic box with right angles, from the origin along the axes.

    - `lengths`: its edges, three positive numbers in the unit of length.

    Raises `ValueError` if they are not three positive finite numbers.
    """

    lengths: Float[Any, " 3"] = eqx.field(converter=_as_lengths)

    def __check_init__(self) -> None:
        if np.shape(self.lengths) != (3,):
            raise ValueError(
                "OrthorhombicBox: lengths have shape "
                f"{np.shape(self.lengths)}, expected three numbers."
            )
        values = known(self.lengths)
        if values is not None and not (np.all(values > 0) and np.all(np.isfinite(values))):
            raise ValueError(
                f"OrthorhombicBox: lengths are {values.tolist()}, expected positive numbers."
            )

    @property
    def periodic(self) -> bool:
        """It repeats."""
        return True

    def displacement(
        self, dx: Component, dy: Component, dz: Component
    ) -> tuple[Component, Component, Component]:
        """Each component less a whole number of edges."""
        # A product with the inverse keeps a division out of the innermost loop; close
        # to half an edge either image is as near.
        edges = jnp.asarray(self.lengths).astype(dx.dtype)
        inverse = 1 / edges
        return (
            dx - edges[0] * jnp.round(dx * inverse[0]),
            dy - edges[1] * jnp.round(dy * inverse[1]),
            dz - edges[2] * jnp.round(dz * inverse[2]),
        )

    def vectors(self) -> Float[Array, "3 3"]:
        """A diagonal matrix."""
        return jnp.diag(jnp.asarray(self.lengths))

    def volume(self) -> Float[Array, ""]:
        """Product of the edges."""
        return jnp.prod(jnp.asarray(self.lengths))

    def heights(self) -> Float[Array, " 3"]:
        """The edges."""
        return jnp.asarray(self.lengths)

    def fractional(self, positions: Float[Any, "*n 3"]) -> Float[Array, "*n 3"]:
        """Positions over edges."""
        return positions / _as_row(self.lengths, positions)

    def cartesian(self, fractions: Float[Any, "*n 3"]) -> Float[Array, "*n 3"]:
        """Fractions times edges."""
        return fractions * _as_row(self.lengths, fractions)

    def strained(self, strain: Float[Any, "..."]) -> AbstractBox:
        """See [`AbstractBox.strained`][systems.molecular.boxes.AbstractBox.strained]."""
        strain = _check_strain(strain)
        if strain.ndim == 2:
            return TriclinicBox(_strain_vectors(self.vectors(), strain))
        return OrthorhombicBox(jnp.asarray(self.lengths) * (1 + strain))


class TriclinicBox(AbstractBox):
    r"""A periodic box of any shape, in the orientation that programs of this field share.

    - `edges`: three vectors as rows, `[[ax, 0, 0], [bx, by, 0], [cx, cy, cz]]`
      with `ax`, `by` and `cz` positive: `a` along x, `b` in the plane of x and y.
      [`from_vectors`][systems.molecular.boxes.TriclinicBox.from_vectors] turns any
      other box into that orientation.

    The nearest image is found by taking off whole vectors `c`, then `b`, then `a`; a
    distance below half the smallest height is the shortest one then, however skewed the
    box is: its z is below `cz / 2`, its y below `by / 2`, its x below `ax / 2`.

    Raises `ValueError` for another shape, a number above the diagonal, or a diagonal
    that is not positive and finite.
    """

    edges: Float[Any, "3 3"] = eqx.field(converter=_as_lengths)

    def __check_init__(self) -> None:
        if np.shape(self.edges) != (3, 3):
            raise ValueError(
                f"TriclinicBox: vectors have shape {np.shape(self.edges)}, "
                "expected three rows of three numbers."
            )
        values = known(self.edges)
        if values is None:
            return
        if not np.all(np.isfinite(values)) or np.any(np.diag(values) <= 0):
            raise ValueError(
                f"TriclinicBox: vectors are {values.tolist()}, expected finite numbers "
                "with a positive diagonal."
            )
        if np.any(np.triu(values, 1) != 0):
            raise ValueError(
                f"TriclinicBox: vectors are {values.tolist()}, expected a lower triangular "
                "matrix (a along x, b in the plane of x and y); "
                "TriclinicBox.from_vectors turns other boxes."
            )

    @classmethod
    def from_vectors(
        cls, vectors: Float[Any, "3 3"]
    ) -> tuple["TriclinicBox", Float[np.ndarray, "3 3"]]:
        """The box of any three vectors, and the rotation that takes positions into it.

        **Arguments:**

        - `vectors`: right-handed vectors as rows, known numbers.

        **Returns:** the box, and a matrix of shape `(3, 3)`: the positions in the box
        are `positions @ rotation`.

        Raises `ValueError` if the vectors are not finite, right-handed and independent.
        """
        given = np.asarray(vectors, dtype=np.float64)
        if given.shape != (3, 3) or not np.all(np.isfinite(given)):
            raise ValueError(
                f"Box vectors are {given.tolist()}, expected three rows of three numbers."
            )
        scale = np.prod(np.linalg.norm(given, axis=1))
        if not np.linalg.det(given) > 1e-12 * scale:
            raise ValueError(
                f"Box vectors are {given.tolist()}, expected three independent vectors that "
                "are right-handed (a positive determinant)."
            )
        if np.all(np.triu(given, 1) == 0) and np.all(np.diag(given) > 0):
            return cls(given), np.eye(3)
        # given = lower @ orthogonal, from the QR factors of the transpose.
        orthogonal, upper = np.linalg.qr(given.T)
        signs = np.sign(np.diag(upper))
        return cls(np.tril(upper.T * signs)), orthogonal * signs

    @classmethod
    def from_lengths_and_angles(
        cls, lengths: tuple[float, float, float], angles: tuple[float, float, float]
    ) -> "TriclinicBox":
        """The box of three edges and the angles between them.

        **Arguments:**

        - `lengths`: a, b, c in the unit of length.
        - `angles`: alpha (between b and c), beta (a and c), gamma (a and b), in degrees.

        Raises `ValueError` if no box has them.
        """
        a, b, c = lengths
        cos_alpha, cos_beta, cos_gamma = (math.cos(math.radians(angle)) for angle in angles)
        sin_gamma = math.sqrt(max(1 - cos_gamma**2, 0.0))
        if sin_gamma > 0:
            cy = (cos_alpha - cos_beta * cos_gamma) / sin_gamma
            rest = 1 - cos_beta**2 - cy**2
            if rest > 0 and min(lengths) > 0:
                return cls(
                    [
                        [a, 0, 0],
                        [b * cos_gamma, b * sin_gamma, 0],
                        [c * cos_beta, c * cy, c * math.sqrt(rest)],
                    ]
                )
        raise ValueError(
            f"There is no box with edges {lengths} and angles {angles} degrees; expected "
            "positive edges, and angles of which none exceeds the sum of the other two."
        )

    @property
    def periodic(self) -> bool:
        """It repeats."""
        return True

    def displacement(
        self, dx: Component, dy: Component, dz: Component
    ) -> tuple[Component, Component, Component]:
        """Whole vectors taken off: first `c`, then `b`, then `a`."""
        v = jnp.asarray(self.edges).astype(dx.dtype)
        along_c = jnp.round(dz * (1 / v[2, 2]))
        dz = dz - along_c * v[2, 2]
        dy = dy - along_c * v[2, 1]
        dx = dx - along_c * v[2, 0]
        along_b = jnp.round(dy * (1 / v[1, 1]))
        dy = dy - along_b * v[1, 1]
        dx = dx - along_b * v[1, 0]
        return dx - v[0, 0] * jnp.round(dx * (1 / v[0, 0])), dy, dz

    def vectors(self) -> Float[Array, "3 3"]:
        """The vectors as rows, a lower triangular matrix."""
        return jnp.asarray(self.edges)

    def volume(self) -> Float[Array, ""]:
        """Product of the diagonal."""
        return jnp.prod(jnp.diagonal(self.vectors()))

    def heights(self) -> Float[Array, " 3"]:
        """The volume over the areas of the faces."""
        a, b, c = self.vectors()
        faces = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)])
        return self.volume() / jnp.sqrt(jnp.sum(faces**2, axis=1))

    def fractional(self, positions: Float[Any, "*n 3"]) -> Float[Array, "*n 3"]:
        """Solved by back substitution, component by component."""
        v = self.vectors().astype(positions.dtype)
        z = positions[..., 2] / v[2, 2]
        y = (positions[..., 1] - z * v[2, 1]) / v[1, 1]
        x = (positions[..., 0] - z * v[2, 0] - y * v[1, 0]) / v[0, 0]
        return jnp.stack([x, y, z], axis=-1)

    def cartesian(self, fractions: Float[Any, "*n 3"]) -> Float[Array, "*n 3"]:
        """Fractions times vectors, component by component."""
        v = self.vectors().astype(fractions.dtype)
        x, y, z = fractions[..., 0], fractions[..., 1], fractions[..., 2]
        return jnp.stack(
            [
                x * v[0, 0] + y * v[1, 0] + z * v[2, 0],
                y * v[1, 1] + z * v[2, 1],
                z * v[2, 2],
            ],
            axis=-1,
        )

    def strained(self, strain: Float[Any, "..."]) -> "TriclinicBox":
        """See [`AbstractBox.strained`][systems.molecular.boxes.AbstractBox.strained]."""
        strain = _check_strain(strain)
        if strain.ndim == 2:
            return TriclinicBox(_strain_vectors(self.vectors(), strain))
        if strain.ndim == 1:
            strain = strain[None, :]
        return TriclinicBox(self.vectors() * (1 + strain))


def deform(positions: Float[Any, "*n 3"], strain: Float[Any, "..."]) -> Float[Array, "*n 3"]:
    """Positions after a strain: `(1 + strain) r`; the forms of `strain` as in a box.

    A strain of positions goes together with that of their box. Raises `ValueError` as
    [`AbstractBox.strained`][systems.molecular.boxes.AbstractBox.strained] does.
    """
    strain = _check_strain(strain)
    if strain.ndim == 2:
        return positions + jnp.stack(
            [jnp.sum(positions * _as_row(row, positions), axis=-1) for row in strain], axis=-1
        )
    return positions * (1 + (_as_row(strain, positions) if strain.ndim else strain))


def _as_row(vector: Any, like: Any) -> Float[Array, "... 3"]:
    """A vector with as many axes as an array, as promotion of ranks may be an error."""
    return jnp.asarray(vector).astype(like.dtype).reshape((1,) * (np.ndim(like) - 1) + (3,))


def _check_strain(strain: Any) -> Float[Array, "..."]:
    if np.shape(strain) not in ((), (3,), (3, 3)):
        raise ValueError(f"A strain has shape {np.shape(strain)}, expected (), (3,) or (3, 3).")
    values = known(strain)
    if values is not None and values.ndim == 2 and np.any(np.tril(values, -1) != 0):
        raise ValueError(f"A strain is {values.tolist()}, expected an upper triangular matrix.")
    # What stands below the diagonal of a traced strain is not seen by any check.
    return jnp.triu(jnp.asarray(strain)) if np.ndim(strain) == 2 else jnp.asarray(strain)


def _strain_vectors(
    vectors: Float[Array, "3 3"], strain: Float[Array, "3 3"]
) -> Float[Array, "3 3"]:
    # Rounding above the diagonal would not be zero for a traced matrix.
    return jnp.tril(vectors + jnp.sum(vectors[:, None, :] * strain[None, :, :], axis=-1))
