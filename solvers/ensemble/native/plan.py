"""What a kernel is made from: programs of the law, and the numbers of the method."""

import dataclasses

from solvers.ensemble.scalarise.program import Program


@dataclasses.dataclass(frozen=True)
class Explicit:
    """An explicit Runge-Kutta method.

    - `drift`: the law of motion; inputs are time, states, varied and shared numbers.
    - `rows`: how slopes make the stages, from the second stage on.
    - `solution`, `error`: how slopes make the step, and the estimate of its error.
    - `second_error`: of a lower order, for methods that combine two, see `DOP853`.
    - `times`: of the stages from the second on, as fractions of the step.
    - `last_is_solution`: whether the last stage is the step.
    - `reuses_last`: whether the last slope is the first of the next step.
    - `dense`: from the fraction of a step to the weights of the slopes there.
    """

    drift: Program
    rows: tuple[tuple[float, ...], ...]
    solution: tuple[float, ...]
    error: tuple[float, ...] | None
    second_error: tuple[float, ...] | None
    times: tuple[float, ...]
    last_is_solution: bool
    reuses_last: bool
    dense: Program

    @property
    def stages(self) -> int:
        """How many slopes there are."""
        return len(self.rows) + 1


@dataclasses.dataclass(frozen=True)
class Rosenbrock:
    r"""A Rosenbrock method with one Jacobian and one factorisation in each step.

    With $W = 1 / (h \gamma) - J$ the stages are, for $i = 1, 2, ...$,
    $W u_i = f(t + c_i h, y + \sum_j a_{ij} u_j) + \sum_j (C_{ij} / h) u_j + h d_i f_t$.

    - `drift`: as of `Explicit`.
    - `rate`: the derivative of the drift with respect to time, with the same inputs.
    - `factors`: from the inputs of the drift and $1 / (h \gamma)$ to what `solution` needs.
    - `solve`: from these and a right side to the solution.
    - `gamma`, `rows`, `couplings`, `times`, `rate_weights`: $\gamma$, $a$, $C$, $c$, $d$.
    - `step_weights`, `error`: how the $u$ make the step and its error.
    - `dense`: from the fraction of a step to the weights of the difference of the states
      at its ends, and of the $u$.
    """

    drift: Program
    rate: Program
    factors: Program
    solve: Program
    gamma: float
    rows: tuple[tuple[float, ...], ...]
    couplings: tuple[tuple[float, ...], ...]
    times: tuple[float, ...]
    rate_weights: tuple[float, ...]
    step_weights: tuple[float, ...]
    error: tuple[float, ...]
    dense: Program

    @property
    def stages(self) -> int:
        """How many linear systems are solved."""
        return len(self.times)


@dataclasses.dataclass(frozen=True)
class Stochastic:
    """A method for stochastic equations with constant steps.

    - `kind`: `"euler"`, `"heun"`, `"milstein"` or `"stratonovich"` (Milstein's for that
      calculus).
    - `law`: from the inputs of a drift to drift, diffusion and, for the two kinds of
      Milstein, the derivative of the diffusion along itself, one after the other.
    """

    kind: str
    law: Program


@dataclasses.dataclass(frozen=True)
class Plan:
    """A kernel to be built.

    - `states`, `varied`, `shared`, `noises`, `diagonal`, `controlled`: as of a law.
    - `adaptive`: whether the error controls the steps, else they are constant.
    - `order`: of the error estimate.
    - `on_saves`: whether adaptive steps end on saved times.
    """

    states: int
    varied: int
    shared: int
    noises: int
    diagonal: bool
    controlled: int
    method: Explicit | Rosenbrock | Stochastic
    adaptive: bool
    order: float
    on_saves: bool
