"""The analysis that fits a result."""

from collections.abc import Sequence

import numpy as np

from simkit.analysis.base import Analysis
from simkit.analysis.ensembles import analyse_ensemble, analyse_solve
from simkit.analysis.fits import analyse_fit
from simkit.member_statistics import LEVELS
from simkit.progress import Progress, silent
from simkit.results import Fit, Trajectory


__all__ = ["Analysis", "analyse"]


def analyse(
    result: Trajectory | Fit,
    levels: Sequence[float] = LEVELS,
    progress: Progress = silent,
) -> Analysis:
    """Statistics of an ensemble over its members, or what a solve or a fit comes to.

    **Arguments:**

    - `result`: a result; a large ensemble may stay in its file, as from
      [`open_result`][simkit.store.reader.open_result], and is read once.
    - `levels`: probabilities of the quantiles of an ensemble.
    - `progress`: told how far the reading is.

    **Raises:** `ValueError` for a level that is not from 0 to 1; `StoreError` for a file that
    proves to be damaged.
    """
    # Numbers near the largest overflow in sums, and what comes out says so.
    with np.errstate(over="ignore", invalid="ignore"):
        if isinstance(result, Fit):
            return analyse_fit(result)
        if result.is_ensemble:
            return analyse_ensemble(result, levels, progress)
        return analyse_solve(result)
