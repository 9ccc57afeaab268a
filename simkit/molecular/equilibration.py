"""Where a run has reached equilibrium: frames before that count for no average.

The start is chosen so that the most independent frames are left: with the first frames
left out the autocorrelation time shrinks, until only frames are lost.

Source: J. D. Chodera, J. Chem. Theory Comput. 12, 1799 (2016).
"""

import numpy as np
from jaxtyping import ArrayLike, Float

from simkit.molecular.block_errors import autocorrelation_time


_CANDIDATES = 40
_FEWEST = 16


def equilibrated_from(*series: Float[ArrayLike, " frames"]) -> int:
    """How many frames at the start of a run belong to its way to equilibrium.

    **Arguments:**

    - `series`: one or more quantities of each frame, such as energy and volume; the one
      that takes longest counts.

    **Returns:** a number of frames, at most half of them; zero for fewer than 16.

    Raises `ValueError` for numbers that are not finite.
    """
    return max((_of_one(np.asarray(values, float)) for values in series), default=0)


def _of_one(values: np.ndarray) -> int:
    frames = len(values)
    if frames < _FEWEST or np.ptp(values) == 0:
        return 0
    starts = np.unique(np.linspace(0, frames // 2, _CANDIDATES).astype(int))
    independent = [
        (frames - start) / (2 * float(autocorrelation_time(values[start:]))) for start in starts
    ]
    return int(starts[int(np.argmax(independent))])
