"""Terms that take the nearest image only: boxes must be wide enough for them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from systems.molecular.boxes import AbstractBox, known
from systems.molecular.pair_sums import Evaluation


def check_width(
    box: AbstractBox, cutoff: float | None, owner: str
) -> Callable[[Evaluation], Evaluation]:
    """What to do with an evaluation by nearest images in this box.

    Nothing where the box is wide enough. Raises `ValueError` where it is narrower than
    twice the cut-off; where its size is traced, everything is not a number then.
    """
    if cutoff is None or not box.periodic:
        return _unchanged
    if all(known(leaf) is not None for leaf in jax.tree.leaves(box)):
        with jax.ensure_compile_time_eval():
            width = float(np.min(box.heights()))
        if width < 2 * cutoff:
            raise ValueError(
                f"{owner}: the box is {width:g} wide, less than twice the cut-off {cutoff:g}; "
                "this potential takes the nearest image only, so use a larger box."
            )
        return _unchanged
    wide = jnp.min(box.heights()) >= 2 * cutoff
    return lambda found: jax.tree.map(lambda value: jnp.where(wide, value, jnp.nan), found)


def _unchanged(found: Evaluation) -> Evaluation:
    return found
