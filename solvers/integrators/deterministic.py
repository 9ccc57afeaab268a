"""Explicit Runge-Kutta methods for equations that are not stiff."""

from typing import ClassVar

import diffrax

from solvers.integrators.base import AbstractDeterministicMethod


class Euler(AbstractDeterministicMethod):
    """Explicit Euler, order 1, constant steps: for teaching and for tests."""

    order: ClassVar[float] = 1
    step: float | None = 0.01

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.Euler()


class Midpoint(AbstractDeterministicMethod):
    """Explicit midpoint rule, order 2 with embedded Euler."""

    order: ClassVar[float] = 2

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.Midpoint()


class Bosh3(AbstractDeterministicMethod):
    """Bogacki-Shampine 3/2: cheap steps for low accuracy (`rtol` above about 1e-4).

    Reference: P. Bogacki and L. F. Shampine, Appl. Math. Lett. 2, 321 (1989).
    """

    order: ClassVar[float] = 3

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.Bosh3()


class Tsit5(AbstractDeterministicMethod):
    """Tsitouras 5/4: the method to begin with for equations that are not stiff.

    Reference: Ch. Tsitouras, Comput. Math. Appl. 62, 770 (2011).
    """

    order: ClassVar[float] = 5

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.Tsit5()


class Dopri5(AbstractDeterministicMethod):
    """Dormand-Prince 5/4, the method of SciPy's `RK45` and MATLAB's `ode45`.

    Reference: J. R. Dormand and P. J. Prince, J. Comput. Appl. Math. 6, 19 (1980).
    """

    order: ClassVar[float] = 5

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.Dopri5()


class Dopri8(AbstractDeterministicMethod):
    """Dormand-Prince 8/7: few, dear steps for high accuracy (`rtol` below about 1e-8).

    Reference: P. J. Prince and J. R. Dormand, J. Comput. Appl. Math. 7, 67 (1981).
    """

    order: ClassVar[float] = 8
    steps_on_saves: ClassVar[bool] = True

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.Dopri8()
