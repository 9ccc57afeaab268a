"""Rosenbrock methods for stiff equations: implicit, with linear systems alone."""

import dataclasses
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from solvers.integrators.base import AbstractDeterministicMethod


@dataclasses.dataclass(frozen=True)
class RosenbrockTableau:
    r"""The numbers of a Rosenbrock method, in the form that needs no product with $J$.

    With $W = I / (\gamma h) - J$ and the derivative $f_t$ by time, the stages
    $i = 1, 2, \ldots$ are

    $$W u_i = f\big(t + c_i h, y + \sum_j a_{ij} u_j\big) + \sum_j \frac{C_{ij}}{h} u_j
      + h\, d_i f_t,$$

    the step is $y_1 = y + \sum_j b_j u_j$, its error $\sum_j e_j u_j$, and between, with
    $p_k = \sum_j H_{kj} u_j$ and $\bar\theta = 1 - \theta$,

    $$y(t + \theta h) = \bar\theta y + \theta \big(y_1 + \bar\theta
      (p_1 + \theta (p_2 + \theta p_3))\big).$$

    - `gamma`, `a`, `c`, `coupling` ($C$), `rate` ($d$): of the stages.
    - `b`, `error` ($e$): of the step.
    - `dense`: the rows of $H$.
    """

    gamma: float
    a: tuple[tuple[float, ...], ...]
    coupling: tuple[tuple[float, ...], ...]
    c: tuple[float, ...]
    rate: tuple[float, ...]
    b: tuple[float, ...]
    error: tuple[float, ...]
    dense: tuple[tuple[float, ...], ...]


_SIXTH = (
    -7.502846399306121,
    2.561846144803919,
    -11.627539656261098,
    -0.18268767659942256,
    0.030198172008377946,
)

RODAS5P = RosenbrockTableau(
    gamma=0.21193756319429014,
    a=(
        (),
        (3.0,),
        (2.849394379747939, 0.45842242204463923),
        (-6.954028509809101, 2.489845061869568, -10.358996098473584),
        (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
        _SIXTH,
        (*_SIXTH, 1.0),
        (*_SIXTH, 1.0, 1.0),
    ),
    coupling=(
        (),
        (-14.155112264123755,),
        (-17.97296035885952, -2.859693295451294),
        (147.12150275711716, -1.41221402718213, 71.68940251302358),
        (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
        (
            24.854864614690072,
            -3.0009227002832186,
            47.4931110020768,
            5.5814197821558125,
            -0.6610691825249471,
        ),
        (
            30.91273214028599,
            -3.1208243349937974,
            77.79954646070892,
            34.28646028294783,
            -19.097331116725623,
            -28.087943162872662,
        ),
        (
            37.80277123390563,
            -3.2571969029072276,
            112.26918849496327,
            66.9347231244047,
            -40.06618937091002,
            -54.66780262877968,
            -9.48861652309627,
        ),
    ),
    c=(
        0.0,
        0.6358126895828704,
        0.4095798393397535,
        0.9769306725060716,
        0.4288403609558664,
        1.0,
        1.0,
        1.0,
    ),
    rate=(
        0.21193756319429014,
        -0.42387512638858027,
        -0.3384627126235924,
        1.8046452872882734,
        2.325825639765069,
        0.0,
        0.0,
        0.0,
    ),
    b=(*_SIXTH, 1.0, 1.0, 1.0),
    error=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    dense=(
        (
            25.948786856663858,
            -2.5579724845846235,
            10.433815404888879,
            -2.3679251022685204,
            0.524948541321073,
            1.1241088310450404,
            0.4272876194431874,
            -0.17202221070155493,
        ),
        (
            -9.91568850695171,
            -0.9689944594115154,
            3.0438037242978453,
            -24.495224566215796,
            20.176138334709044,
            15.98066361424651,
            -6.789040303419874,
            -6.710236069923372,
        ),
        (
            11.419903575922262,
            2.8879645146136994,
            72.92137995996029,
            80.12511834622643,
            -52.072871366152654,
            -59.78993625266729,
            -0.15582684282751913,
            4.883087185713722,
        ),
    ),
)
"""Of G. Steinebach, BIT Numer. Math. 63, 27 (2023)."""


class Rodas5P(AbstractDeterministicMethod):
    """Rodas5P 5/4, L-stable and stiffly accurate: stiff equations of up to some 50 states.

    Each step takes one Jacobian, one factorisation and eight stages, and no iteration, so
    that steps are cheap; it is the method for ensembles of stiff equations. States between
    steps are interpolated to order 4.

    Reference: G. Steinebach, BIT Numer. Math. 63, 27 (2023).
    """

    order: ClassVar[float] = 5

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return _Rosenbrock()


class _Interpolation(diffrax.AbstractLocalInterpolation):
    """The state within a step, see `RosenbrockTableau`."""

    t0: Any
    t1: Any
    y0: Array
    y1: Array
    p: Array

    def evaluate(self, t0: Any, t1: Any | None = None, left: bool = True) -> Array:
        del left
        if t1 is not None:
            return self.evaluate(t1) - self.evaluate(t0)
        length = self.t1 - self.t0
        theta = (t0 - self.t0) / jnp.where(length == 0, 1, length)
        p1, p2, p3 = self.p
        inner = p1 + theta * (p2 + theta * p3)
        return (1 - theta) * self.y0 + theta * (self.y1 + (1 - theta) * inner)


class _Rosenbrock(diffrax.AbstractAdaptiveSolver):
    """One step on the flat state; linear systems by a factorisation with pivoting."""

    term_structure: ClassVar[Any] = diffrax.ODETerm
    interpolation_cls: ClassVar[Any] = _Interpolation
    tableau: ClassVar[RosenbrockTableau] = RODAS5P

    def order(self, terms: Any) -> int:
        del terms
        return 5

    def init(self, terms: Any, t0: Any, t1: Any, y0: Array, args: Any) -> None:
        del terms, t0, t1, y0, args

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Array,
        args: Any,
        solver_state: None,
        made_jump: Any,
    ) -> tuple[Array, Array, dict[str, Any], None, Any]:
        del solver_state, made_jump
        length, h = t1 - t0, terms.contr(t0, t1)
        tableau = self.tableau

        def field(t: Any, y: Array) -> Array:
            return terms.vf(t, y, args)

        # Of time as diffrax counts it, which runs forwards always; so `length`, not `h`.
        rate = jax.jvp(lambda t: field(t, y0), (t0,), (jnp.ones_like(t0),))[1]
        jacobian = jax.jacfwd(lambda y: field(t0, y))(y0)
        matrix = jnp.eye(y0.size, dtype=y0.dtype) / (tableau.gamma * h) - jacobian
        factors = jax.scipy.linalg.lu_factor(matrix)
        stages: list[Array] = []
        rows = zip(tableau.a, tableau.coupling, tableau.c, tableau.rate, strict=True)
        for a, coupling, c, d in rows:
            right = field(t0 + c * length, y0 + _combine(a, stages, y0))
            right = right + _combine(coupling, stages, y0) / h + d * length * rate
            stages.append(jax.scipy.linalg.lu_solve(factors, right))
        y1 = y0 + _combine(tableau.b, stages, y0)
        p = jnp.stack([_combine(row, stages, y0) for row in tableau.dense])
        error = _combine(tableau.error, stages, y0)
        return y1, error, {"y0": y0, "y1": y1, "p": p}, None, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Array, args: Any) -> Array:
        return terms.vf(t0, y0, args)


def _combine(weights: tuple[float, ...], stages: list[Array], like: Array) -> Array:
    terms = [w * u for w, u in zip(weights, stages, strict=True) if w != 0]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros_like(like)


def dense_weights(tableau: RosenbrockTableau, theta: Any) -> tuple[Any, list[Any]]:
    """Dense output as weights: of `y1 - y0`, and of each stage, at a fraction of the step."""
    bend = theta * (1 - theta)
    columns = np.array(tableau.dense).T
    return theta, [
        bend * (float(h1) + theta * (float(h2) + theta * float(h3))) for h1, h2, h3 in columns
    ]
