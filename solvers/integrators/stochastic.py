"""Methods for stochastic differential equations, with the calculus of each."""

from typing import Any, ClassVar

import diffrax

from solvers.integrators.base import AbstractStochasticMethod, Calculus


class EulerMaruyama(AbstractStochasticMethod):
    """Euler-Maruyama: Ito, any noise, strong order 1/2 (1 for additive noise).

    Reference: G. Maruyama, Rend. Circ. Mat. Palermo 4, 48 (1955).
    """

    order: ClassVar[float] = 0.5
    calculus: ClassVar[Calculus] = Calculus.ITO
    levy_area: ClassVar[Any] = diffrax.BrownianIncrement

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.Euler()


class Milstein(AbstractStochasticMethod):
    """Milstein: Ito, diagonal noise, strong order 1.

    Reference: G. N. Milstein, Theory Probab. Appl. 19, 557 (1974).
    """

    order: ClassVar[float] = 1
    calculus: ClassVar[Calculus] = Calculus.ITO
    levy_area: ClassVar[Any] = diffrax.BrownianIncrement

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.ItoMilstein()


class StratonovichMilstein(AbstractStochasticMethod):
    """Milstein for the Stratonovich calculus, diagonal noise, strong order 1.

    Reference: P. E. Kloeden and E. Platen, *Numerical Solution of Stochastic
    Differential Equations* (1992), section 10.3.
    """

    order: ClassVar[float] = 1
    calculus: ClassVar[Calculus] = Calculus.STRATONOVICH
    levy_area: ClassVar[Any] = diffrax.BrownianIncrement

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.StratonovichMilstein()


class StratonovichHeun(AbstractStochasticMethod):
    """Heun: Stratonovich, any noise, strong order 1/2 (1 for diagonal noise).

    Reference: W. Ruemelin, SIAM J. Numer. Anal. 19, 604 (1982).
    """

    order: ClassVar[float] = 0.5
    calculus: ClassVar[Calculus] = Calculus.STRATONOVICH
    levy_area: ClassVar[Any] = diffrax.BrownianIncrement

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.Heun()


class ShARK(AbstractStochasticMethod):
    """Shifted additive-noise Runge-Kutta: additive noise only, strong order 3/2.

    Reference: J. Foster, G. dos Reis and C. Strange, arXiv:2210.17543 (2022).
    """

    order: ClassVar[float] = 1.5
    calculus: ClassVar[Calculus] = Calculus.ADDITIVE
    levy_area: ClassVar[Any] = diffrax.SpaceTimeLevyArea

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return diffrax.ShARK()
