"""Hairer's method of order 8, with two estimates of the error.

The numbers are those of the Fortran code DOP853 (E. Hairer and G. Wanner, under a BSD licence),
to the digits that a double has.
"""

from typing import Any, ClassVar

import diffrax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from solvers.integrators.base import AbstractDeterministicMethod


_TIMES = (
    0.05260015195876773,
    0.0789002279381516,
    0.1183503419072274,
    0.2816496580927726,
    0.3333333333333333,
    0.25,
    0.3076923076923077,
    0.6512820512820513,
    0.6,
    0.8571428571428571,
    1.0,
    1.0,
)

_ROWS = (
    (0.05260015195876773,),
    (
        0.0197250569845379,
        0.0591751709536137,
    ),
    (
        0.02958758547680685,
        0.0,
        0.08876275643042054,
    ),
    (
        0.2413651341592667,
        0.0,
        -0.8845494793282861,
        0.924834003261792,
    ),
    (
        0.037037037037037035,
        0.0,
        0.0,
        0.17082860872947386,
        0.12546768756682242,
    ),
    (
        0.037109375,
        0.0,
        0.0,
        0.17025221101954405,
        0.06021653898045596,
        -0.017578125,
    ),
    (
        0.03709200011850479,
        0.0,
        0.0,
        0.17038392571223998,
        0.10726203044637328,
        -0.015319437748624402,
        0.008273789163814023,
    ),
    (
        0.6241109587160757,
        0.0,
        0.0,
        -3.3608926294469414,
        -0.868219346841726,
        27.59209969944671,
        20.154067550477894,
        -43.48988418106996,
    ),
    (
        0.47766253643826434,
        0.0,
        0.0,
        -2.4881146199716677,
        -0.590290826836843,
        21.230051448181193,
        15.279233632882423,
        -33.28821096898486,
        -0.020331201708508627,
    ),
    (
        -0.9371424300859873,
        0.0,
        0.0,
        5.186372428844064,
        1.0914373489967295,
        -8.149787010746927,
        -18.52006565999696,
        22.739487099350505,
        2.4936055526796523,
        -3.0467644718982196,
    ),
    (
        2.273310147516538,
        0.0,
        0.0,
        -10.53449546673725,
        -2.0008720582248625,
        -17.9589318631188,
        27.94888452941996,
        -2.8589982771350235,
        -8.87285693353063,
        12.360567175794303,
        0.6433927460157636,
    ),
)

_SOLUTION = (
    0.054293734116568765,
    0.0,
    0.0,
    0.0,
    0.0,
    4.450312892752409,
    1.8915178993145003,
    -5.801203960010585,
    0.3111643669578199,
    -0.1521609496625161,
    0.20136540080403034,
    0.04471061572777259,
)

_ERROR_5 = (
    0.01312004499419488,
    0.0,
    0.0,
    0.0,
    0.0,
    -1.2251564463762044,
    -0.4957589496572502,
    1.6643771824549864,
    -0.35032884874997366,
    0.3341791187130175,
    0.08192320648511571,
    -0.022355307863886294,
    0.0,
)

_ERROR_3 = (
    -0.18980075407240762,
    0.0,
    0.0,
    0.0,
    0.0,
    4.450312892752409,
    1.8915178993145003,
    -5.801203960010585,
    -0.4226823213237919,
    -0.1521609496625161,
    0.20136540080403034,
    0.02265179219836082,
    0.0,
)

THIRD_ORDER_WEIGHT = 0.01
"""Of the square of the third-order estimate in the denominator of the error."""


class DOP853(AbstractDeterministicMethod):
    r"""Hairer's 8(5,3): high accuracy with few steps (`rtol` below about 1e-6).

    Twelve slopes for each step. The error is estimated to orders 5 and 3, and both make the
    error of each state, $e = e_5^2 / \sqrt{e_5^2 + e_3^2 / 100}$, which is at least what the
    Fortran code finds with norms over all states in the place of squares. Adaptive steps
    end on the saved times.

    Reference: E. Hairer, S. P. Norsett and G. Wanner, *Solving Ordinary Differential
    Equations I*, 2nd edition, section II.10 (Springer, 1993).
    """

    order: ClassVar[float] = 8
    steps_on_saves: ClassVar[bool] = True

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return _Dop853()


class _Dop853(diffrax.AbstractERK):
    """The steps are those of the tableau; its linear error is replaced."""

    tableau: ClassVar[diffrax.ButcherTableau] = diffrax.ButcherTableau(
        c=np.array(_TIMES),
        a_lower=tuple(np.array(row) for row in (*_ROWS, _SOLUTION)),
        b_sol=np.array((*_SOLUTION, 0.0)),
        b_error=np.array(_ERROR_5),
    )
    second_error: ClassVar[np.ndarray] = np.array(_ERROR_3)
    """Weights of the slopes in the estimate of order 3."""
    interpolation_cls: ClassVar[Any] = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms: Any) -> int:
        del terms
        return 8

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Array,
        args: Any,
        solver_state: Any,
        made_jump: Any,
    ) -> Any:
        after, error, dense, state, result = super().step(
            terms, t0, t1, y0, args, solver_state, made_jump
        )
        third = jnp.tensordot(jnp.asarray(self.second_error), dense["k"], axes=1)
        return after, combined_error(error, third), dense, state, result


def combined_error(fifth: Any, third: Any) -> Any:
    """The error of each state from its two estimates; zero where the first one is."""
    ratio = third / jnp.where(fifth == 0, 1.0, fifth)
    return fifth / jnp.sqrt(1.0 + THIRD_ORDER_WEIGHT * ratio * ratio)
