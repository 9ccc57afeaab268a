"""Implicit Runge-Kutta methods for stiff equations.

An equation is stiff where explicit methods need tiny steps although the solution is
smooth: fast reactions beside slow ones, van der Pol with a large damping.
"""

from typing import ClassVar

import diffrax

from solvers.integrators.base import AbstractDeterministicMethod
from solvers.integrators.chord import PatientChord


class ImplicitEuler(AbstractDeterministicMethod):
    """Implicit Euler, order 1 with an embedded second-order estimate, L-stable."""

    order: ClassVar[float] = 1

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.ImplicitEuler(root_finder=_root_finder(self))


class Kvaerno3(AbstractDeterministicMethod):
    """Kvaerno 3/2, L-stable and stiffly accurate: for stiff equations at low accuracy.

    Reference: A. Kvaerno, BIT Numer. Math. 44, 489 (2004).
    """

    order: ClassVar[float] = 3

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.Kvaerno3(root_finder=_root_finder(self))


class Kvaerno4(AbstractDeterministicMethod):
    """Kvaerno 4/3, L-stable and stiffly accurate: keeps closest to its tolerance.

    Reference: A. Kvaerno, BIT Numer. Math. 44, 489 (2004).
    """

    order: ClassVar[float] = 4
    steps_on_saves: ClassVar[bool] = True

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.Kvaerno4(root_finder=_root_finder(self))


class Kvaerno5(AbstractDeterministicMethod):
    """Kvaerno 5/4, L-stable and stiffly accurate: the method to begin with if stiff.

    Reference: A. Kvaerno, BIT Numer. Math. 44, 489 (2004).
    """

    order: ClassVar[float] = 5
    steps_on_saves: ClassVar[bool] = True

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.Kvaerno5(root_finder=_root_finder(self))


def _root_finder(method: AbstractDeterministicMethod) -> PatientChord:
    """Solves the stage equations to a hundredth (`kappa`) of the tolerance of the step."""
    import optimistix

    return PatientChord(  # pyright: ignore[reportCallIssue]
        chord=diffrax.VeryChord(rtol=method.rtol, atol=method.atol, norm=optimistix.rms_norm)
    )
