"""Which engine solves an ensemble, and why."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from solvers.ensemble.folding import folded
from solvers.ensemble.law import Answer, EngineRefusal
from solvers.ensemble.sensitivities import Engine


ENGINES = ("auto", "diffrax", "lanes", "native")
"""What can be asked for."""


class Chosen(NamedTuple):
    """What was computed, by what, and why by that.

    - `answer`: `None` if it is left to diffrax.
    """

    answer: Answer | None
    engine: str
    reason: str


def check_engine(engine: str) -> None:
    """Raise `ValueError` for an engine that there is not."""
    if engine not in ENGINES:
        names = ", ".join(repr(name) for name in ENGINES)
        raise ValueError(f"`engine` is {engine!r}, expected one of {names}.")


def compute(
    engine: str, ask: Callable[[Engine], Answer], obstacle: str | None, *, many: bool = True
) -> Chosen:
    """Ask the engine of that name, or for `auto` the fastest that can serve.

    **Arguments:**

    - `ask`: gives the answer of an engine, or raises `EngineRefusal`.
    - `obstacle`: why none but diffrax can serve, in a sentence; `None` if nothing does.
    - `many`: whether there are many members. For few `auto` does not take lanes, which XLA
      compiles longer than diffrax's loop: 19 against 10 s for the sensitivities of eight
      Lotka-Volterra systems, which then also take longer.

    **Raises:** `EngineRefusal` if an engine asked for by name cannot serve.
    """
    if engine == "diffrax":
        return Chosen(None, "diffrax", "It was asked for.")
    if obstacle is not None:
        if engine != "auto":
            raise EngineRefusal(f"engine='{engine}' cannot serve: {obstacle}")
        return Chosen(None, "diffrax", obstacle)
    if engine != "auto":
        try:
            return Chosen(ask(_engine(engine)), engine, "It was asked for.")
        except EngineRefusal as refusal:
            raise EngineRefusal(f"engine='{engine}' cannot serve: {refusal}") from refusal
    refusals: list[str] = []
    for name, praise in _BY_SPEED:
        if name == "lanes" and not many:
            refusals.append("Not lanes: they are for many members.")
            continue
        try:
            return Chosen(ask(_engine(name)), name, " ".join([*refusals, praise]))
        except EngineRefusal as refusal:
            refusals.append(f"Not {name}: {refusal}")
    return Chosen(None, "diffrax", " ".join(refusals))


_BY_SPEED = (
    ("native", "The law became a compiled kernel, which is the fastest."),
    ("lanes", "Lanes that take one member after another serve the method."),
)


def _engine(name: str) -> Engine:
    """The function of an engine; what it needs is imported only where it is used."""
    run: Any
    if name == "native":
        from solvers.ensemble.native.call import run
    else:
        from solvers.ensemble.lanes.engine import run as run_lanes

        run = functools.partial(folded, run_lanes)
    return run
