"""How a molecular run ended, as a number inside compiled programs and in words outside."""

from typing import Any

import numpy as np


SUCCESSFUL = 0
"""Every step was taken."""
OVERFLOW = 1
"""A neighbour list was too small; the door grows it and goes on, so nobody else sees it."""
NONFINITE = 2
"""A position, velocity or force is not a finite number."""
EXPLODED = 3
"""A particle moved further in one step than forces can follow."""
CONVERGED = 4
"""A minimisation has reached its tolerance."""

BAD = 5
"""A step gave numbers that must not be used; the door finds out why."""

NAMES = ("successful", "overflow", "nonfinite", "exploded", "converged")
"""Short names of the statuses, by their number."""


class MolecularError(RuntimeError):
    """A molecular run that did not reach its end.

    - `trajectory`: what was computed before, up to the last good step; `None` if nothing was.
    """

    def __init__(self, sentence: str, trajectory: Any = None):
        super().__init__(sentence)
        self.trajectory = trajectory


def describe(code: int, step: int, atom: int, speed: float = float("nan")) -> str:
    """The sentence that tells a user what happened, and what to try next.

    **Arguments:**

    - `code`: the number of the status.
    - `step`: the step that could not be taken.
    - `atom`: the particle at fault, counted from 0 in the order of the problem.
    - `speed`: how far it would have moved in that step, in the unit of length.
    """
    if code == NONFINITE:
        return (
            f"At step {step} the position, velocity or force of atom {atom} is not a finite "
            "number. Take a smaller time step, or minimise the energy before the run."
        )
    if code == EXPLODED:
        moved = f" (by {speed:.3g} in one step)" if np.isfinite(speed) else ""
        return (
            f"The run exploded at step {step}: atom {atom} moved too far{moved}. Take a "
            "smaller time step, or minimise the energy before the run."
        )
    return ""
