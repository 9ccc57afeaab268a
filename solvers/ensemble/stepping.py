"""What the engines know of steps, in one place, so that all of them take the same.

The numbers are those of diffrax's `PIDController`.
"""

import diffrax


SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
"""A step is this much shorter than its error asks for, and the next one at least and at most
so many times as long."""

FIRST_LENGTH = 0.01
"""Of the first step. Diffrax 0.7.2 has a rule for it, which it does not apply: it looks
for a term that it has wrapped before."""


def error_order(stepper: diffrax.AbstractSolver) -> float:
    """The order of a diffrax solver's estimate of the error."""
    term = diffrax.ODETerm(lambda t, y, args: y)
    return float(stepper.error_order(term))  # pyright: ignore[reportArgumentType]
