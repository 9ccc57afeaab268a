"""The engine of lanes: `run(law, method, question)`, to be called under `jit`."""

from typing import Any

import diffrax
import jax.numpy as jnp
from jaxtyping import Array

from solvers.ensemble.lanes.control import Tolerance
from solvers.ensemble.lanes.explicit import explicit_rule
from solvers.ensemble.lanes.loop import Loop, Results
from solvers.ensemble.lanes.members import Plan, prepare
from solvers.ensemble.lanes.rosenbrock import rosenbrock_rule
from solvers.ensemble.lanes.rule import Rule
from solvers.ensemble.lanes.stochastic import stochastic_rule
from solvers.ensemble.law import Answer, EngineRefusal, Law, Question
from solvers.integrators.base import AbstractDeterministicMethod, AbstractStochasticMethod
from solvers.integrators.rosenbrock import RODAS5P, Rodas5P
from solvers.solution import status_names


WIDTH = 256
"""Lanes: their states and slopes fit the nearest cache."""

WIDTH_WITH_NOISE = 1024
"""Lanes of stochastic equations, whose steps are short, so that calls weigh more."""

STEPS = 16
"""Steps of all lanes between two looks for lanes that are done."""

MOST_SAVED = 2**31 - 1
"""Members times saved times, and room for the lanes behind them."""

MULTIPLE = 8
"""Lanes come in whole vectors, so that all go through the same instructions."""


def run(law: Law, method: Any, question: Question, *, lanes: int | None = None) -> Answer:
    """Solve all members in lanes, each of which takes one member after another.

    The steps of a member are those of diffrax's integral control with the method's
    tolerances and guards, but for one case: where the error of a step is not a number,
    the step is a fifth next time, and not for ever not a number. What becomes of a member
    does not depend on the others, on their order or on the number of lanes.

    **Arguments:**

    - `method`: an explicit Runge-Kutta method, `Rodas5P`, or a stochastic method with
      constant steps other than `ShARK`.
    - `lanes`: how many; made a multiple of eight.

    **Raises:** `EngineRefusal` for another method, or for more saved states than it counts.
    """
    _check_size(question)
    rule, plan = _rule(law, method), _plan(method)
    count = question.initial_states.shape[0]
    table, saves, bad = prepare(law, rule, plan, question)
    if lanes is None:
        lanes = WIDTH if law.diffusion is None else WIDTH_WITH_NOISE
    width = min(lanes, count)
    width = -(-width // MULTIPLE) * MULTIPLE
    loop = Loop(law, rule, plan, table, saves, tuple(question.shared), STEPS)
    return _answer(question, loop.run(width), bad)


def _check_size(question: Question) -> None:
    members, times = question.initial_states.shape[0], question.times.shape[-1]
    if members * max(times, 1) + WIDTH_WITH_NOISE > MOST_SAVED:
        raise EngineRefusal(
            f"Lanes count saved states with 32 bits: {members} members at {times} saved times "
            f"are more than {MOST_SAVED}; solve them in segments."
        )


def _rule(law: Law, method: Any) -> Rule:
    if isinstance(method, AbstractStochasticMethod):
        return stochastic_rule(law, method)
    if law.diffusion is not None:
        raise EngineRefusal(f"{type(method).__name__} is for laws without noise.")
    if isinstance(method, Rodas5P):
        return rosenbrock_rule(law, RODAS5P, method.order)
    if isinstance(method, AbstractDeterministicMethod):
        solver = method.stepper()
        if isinstance(solver, diffrax.AbstractERK):
            return explicit_rule(law, solver)
    raise EngineRefusal(
        f"Lanes have no {type(method).__name__}; they have explicit Runge-Kutta methods, "
        "Rodas5P and stochastic methods."
    )


def _plan(method: Any) -> Plan:
    constant = method.first_step()
    adaptive = constant is None
    return Plan(
        tolerance=Tolerance(method.rtol, method.atol) if adaptive else Tolerance(0.0, 0.0),
        constant=constant,
        on_saves=adaptive and method.steps_on_saves,
        most_steps=method.max_steps,
    )


def _answer(question: Question, results: Results, bad: Array) -> Answer:
    number = {name: i for i, name in enumerate(status_names())}
    start, stop = (jnp.asarray(t, results.reals.dtype) for t in (question.start, question.stop))
    sign = jnp.where(start < stop, 1.0, -1.0)
    final_time, final_state = sign * results.reals[:, 0], results.reals[:, 1:]
    accepted, rejected, stuck = (results.wholes[:, i] for i in range(3))
    unfinished = final_time != stop
    status = jnp.where(unfinished, number["max_steps_reached"], number["successful"])
    status = jnp.where(stuck == 1, number["step_size_underflow"], status)
    lost = ~jnp.all(jnp.isfinite(final_state), axis=1) & (status == number["successful"])
    status = jnp.where(lost, number["nonfinite_state"], status)
    # A parameter that is not a number may play no part: it explains a failure only.
    unknown = jnp.any(jnp.isnan(question.varied), axis=1) | jnp.any(jnp.isnan(question.shared))
    bad = bad | (unknown & (status != number["successful"]))
    status = jnp.where(bad, number["nonfinite_start"], status)
    still = (start == stop)[:, None, None]
    saved = jnp.where(still, question.initial_states[:, None], results.saved)
    return Answer(
        saved=saved,
        final_time=final_time,
        final_state=final_state,
        status=status.astype(jnp.int32),
        accepted=accepted,
        rejected=rejected,
    )
