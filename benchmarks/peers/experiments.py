"""The ensembles of the benchmark, as simkit, plain laws and C++ know them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax.numpy as jnp
import numpy as np

from solvers.integrators.base import AbstractMethod
from solvers.integrators.deterministic import Tsit5
from solvers.integrators.rosenbrock import Rodas5P
from solvers.problem import InitialValueProblem
from systems.base import AbstractODE, State, parameter
from systems.chaos import Lorenz63
from systems.oscillators import VanDerPol


class Robertson(AbstractODE):
    """Robertson's chemical reactions, the classic stiff problem."""

    slow: Any = parameter(0.04)
    fast: Any = parameter(3e7)
    middle: Any = parameter(1e4)
    states = (State("a", 1.0), State("b", 0.0), State("c", 0.0))

    def vector_field(self, t: Any, y: Any, inputs: Any) -> Any:
        """Three reactions."""
        del t, inputs
        first, second, third = (
            self.slow * y[0],
            self.fast * y[1] ** 2,
            self.middle * y[1] * y[2],
        )
        return jnp.stack([third - first, first - third - second, second])


class Hires(AbstractODE):
    """High irradiance responses of plants, eight states (E. Hairer and G. Wanner)."""

    rate: Any = parameter(0.035)
    states = tuple(
        State(f"y{i}", value) for i, value in enumerate((1.0, 0, 0, 0, 0, 0, 0, 0.0057), 1)
    )

    def vector_field(self, t: Any, y: Any, inputs: Any) -> Any:
        """Eight reactions."""
        del t, inputs
        exchange = 280.0 * y[5] * y[7]
        slopes = [
            -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
            1.71 * y[0] - 8.75 * y[1],
            -10.03 * y[2] + 0.43 * y[3] + self.rate * y[4],
            8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
            -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
            -exchange + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
            exchange - 1.81 * y[6],
            -exchange + 1.81 * y[6],
        ]
        return jnp.stack(slopes)


class Experiment(NamedTuple):
    """An ensemble that is timed.

    - `law`: its name among the plain laws.
    - `limit`: the function of `limit.cpp`, if there is one.
    - `share`: of the members, what diffrax is given, but at least 200; its time is per member.
    """

    title: str
    law: str
    problem: InitialValueProblem
    parameters: dict[str, np.ndarray]
    method: Callable[..., AbstractMethod]
    peer: Callable[[], Any]
    tolerances: tuple[float, ...]
    saves: int
    limit: str | None
    share: float

    @property
    def table(self) -> np.ndarray:
        """The parameters that vary, a row for each member."""
        return np.stack(list(self.parameters.values()), 1)

    @property
    def initial(self) -> np.ndarray:
        """The initial states, a row for each member."""
        return np.tile(np.asarray(self.problem.initial_state), (len(self.table), 1))

    @property
    def span(self) -> tuple[float, float]:
        """Start and stop."""
        return float(self.problem.start), float(self.problem.stop)

    @property
    def times(self) -> np.ndarray:
        """The saved times, those after the start."""
        return np.linspace(*self.span, self.saves + 1)[1:] if self.saves else np.zeros(0)


def experiments(members: int) -> list[Experiment]:
    """All ensembles, with parameters in a random order."""
    draws = np.random.default_rng(0)
    mix = draws.permutation
    rates = 1 + 0.2 * draws.uniform(-1, 1, (3, members))
    lorenz = Experiment(
        "Lorenz",
        "lorenz",
        InitialValueProblem(Lorenz63(), 0.0, 10.0, [1.0, 0.0, 0.0]),
        {"rho": mix(np.linspace(0, 28, members))},
        Tsit5,
        diffrax.Tsit5,
        (1e-6, 1e-8),
        0,
        "lorenz_tsit5",
        1.0,
    )
    named = zip(("slow", "fast", "middle"), (0.04, 3e7, 1e4), rates, strict=True)
    return [
        lorenz,
        lorenz._replace(title="Lorenz, 100 saved times", tolerances=(1e-6,), saves=100),
        Experiment(
            "van der Pol, damping 1 to 1000",
            "van_der_pol",
            InitialValueProblem(VanDerPol(), 0.0, 100.0, [2.0, 0.0]),
            {"damping": mix(np.geomspace(1, 1000, members))},
            Rodas5P,
            diffrax.Kvaerno5,
            (1e-6,),
            0,
            "van_der_pol_rodas5p",
            0.01,
        ),
        Experiment(
            "Robertson, rates within 20 %",
            "robertson",
            InitialValueProblem(Robertson(), 0.0, 1e4),
            {name: base * rate for name, base, rate in named},
            Rodas5P,
            diffrax.Kvaerno5,
            (1e-6,),
            0,
            "robertson_rodas5p",
            0.1,
        ),
        Experiment(
            "HIRES, one rate within 20 %",
            "hires",
            InitialValueProblem(Hires(), 0.0, 321.8122),
            {"rate": 0.035 * rates[0]},
            Rodas5P,
            diffrax.Kvaerno5,
            (1e-6,),
            0,
            None,
            0.02,
        ),
    ]
