"""Frames of a trajectory as arrays, and functions of single frames mapped over them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from simkit.precision import use_double_precision
from systems.molecular.boxes import AbstractBox, OpenBox, OrthorhombicBox, TriclinicBox


Boxes = AbstractBox | Float[ArrayLike, "frames 3 3"] | None
"""One box for all frames; or box vectors as rows, one matrix for each; or `None`: open."""


def checked_positions(positions: Any, what: str = "positions") -> np.ndarray:
    """Positions (or velocities) of all frames as an array of shape `(frames, particles, 3)`.

    A single frame may come without its first axis. Raises `ValueError` for another shape,
    and for numbers that are not finite, naming frame and atom.
    """
    values = np.asarray(positions)
    if values.dtype.kind in "iu":
        values = values.astype(float)
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or values.shape[2] != 3 or 0 in values.shape:
        raise ValueError(
            f"The {what} have shape {np.shape(positions)}, expected (frames, particles, 3)."
        )
    bad = np.argwhere(~np.isfinite(values).all(axis=2))
    if bad.size:
        frame, atom = bad[0]
        raise ValueError(
            f"The {what} of atom {atom} in frame {frame} are {values[frame, atom].tolist()}, "
            "expected finite numbers."
        )
    return values


def boxes_of_frames(box: Boxes, frames: int) -> AbstractBox:
    """A box for each frame: its leaves have the frames as their first axis.

    Raises `ValueError` for box vectors of another shape or another number of frames.
    """
    if box is None:
        return OpenBox()
    if isinstance(box, AbstractBox):
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(jnp.asarray(leaf), (frames, *np.shape(leaf))), box
        )
    vectors = np.asarray(box, float)
    if vectors.shape == (3, 3):
        vectors = np.broadcast_to(vectors, (frames, 3, 3))
    if vectors.shape != (frames, 3, 3):
        raise ValueError(
            f"The box vectors have shape {np.shape(box)}, expected ({frames}, 3, 3): one "
            "matrix for each frame of the positions."
        )
    diagonal = np.diagonal(vectors, axis1=1, axis2=2)
    if np.all(vectors == diagonal[:, :, None] * np.eye(3)):
        return jax.vmap(OrthorhombicBox)(jnp.asarray(diagonal))
    # The check of a box looks at one matrix only.
    for matrix in vectors:
        TriclinicBox(matrix)
    return jax.vmap(TriclinicBox)(jnp.asarray(vectors))


def over_frames(
    function: Callable[[Array, AbstractBox], Any], positions: np.ndarray, box: Boxes
) -> Any:
    """A function of one frame for all of them, one after another in one program.

    **Arguments:**

    - `function`: called as `function(positions, box)`; a module or a plain function.
    - `positions`: shape `(frames, particles, 3)`.
    - `box`: see `Boxes`.

    **Returns:** what the function gives, with the frames as first axis, as numpy arrays.
    """
    use_double_precision()
    boxes = boxes_of_frames(box, len(positions))
    found = _mapped(_as_tree(function), jnp.asarray(positions, float), boxes)
    return jax.tree.map(np.asarray, found)


@eqx.filter_jit
def _mapped(function: Any, positions: Array, boxes: AbstractBox) -> Any:
    return jax.lax.map(lambda frame: function(*frame), (positions, boxes))


def _as_tree(function: Any) -> Any:
    if isinstance(function, eqx.Module | jax.tree_util.Partial):
        return function
    return jax.tree_util.Partial(function)


def shortest_height(box: Boxes, frames: int) -> float:
    """The smallest distance between opposite faces in any frame; infinite if open."""
    boxes = boxes_of_frames(box, frames)
    if not boxes.periodic:
        return float("inf")
    return float(jnp.min(jax.vmap(lambda one: one.heights())(boxes)))


def mean_volume(box: Boxes, frames: int) -> float:
    """The mean volume over frames; infinite for an open box."""
    boxes = boxes_of_frames(box, frames)
    if not boxes.periodic:
        return float("inf")
    return float(jnp.mean(jax.vmap(lambda one: one.volume())(boxes)))
