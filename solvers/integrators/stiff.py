"""Implicit Runge-Kutta methods for stiff equations.

An equation is stiff where explicit methods need tiny steps although the solution is
smooth: fast reactions beside slow ones, van der Pol with a large damping.
"""

from typing import ClassVar

import diffrax

from solvers.integrators.base import AbstractDeterministicMethod


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


class Kvaerno5(AbstractDeterministicMethod):
    """Kvaerno 5/4, L-stable and stiffly accurate: the method to begin with if stiff.

    Reference: A. Kvaerno, BIT Numer. Math. 44, 489 (2004).
    """

    order: ClassVar[float] = 5

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.Kvaerno5(root_finder=_root_finder(self))


class KenCarp4(AbstractDeterministicMethod):
    """Kennedy-Carpenter 4/3, L-stable; its explicit half serves additive splittings.

    Reference: C. A. Kennedy and M. H. Carpenter, Appl. Numer. Math. 44, 139 (2003).
    """

    order: ClassVar[float] = 4

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.KenCarp4(root_finder=_root_finder(self))


def _root_finder(method: AbstractDeterministicMethod) -> diffrax.VeryChord:
    """Solves the stage equations to the tolerance of the step."""
    import optimistix

    return diffrax.VeryChord(rtol=method.rtol, atol=method.atol, norm=optimistix.rms_norm)
