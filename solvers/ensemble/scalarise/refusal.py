"""What cannot become a straight-line program, said by primitive and source line."""

from typing import Any

from jax.extend import source_info_util

from solvers.ensemble.law import EngineRefusal


class NotScalarisable(EngineRefusal):
    """A function has an operation that no straight-line program of scalars can do."""


def refusal(equation: Any, primitive: str, reason: str) -> NotScalarisable:
    """The error for an equation of a traced function."""
    return NotScalarisable(f"`{primitive}` {reason} ({_line(equation)}).")


def _line(equation: Any) -> str:
    """Where in the user's source the equation comes from."""
    try:
        place = source_info_util.summarize(equation.source_info)
    except AttributeError:  # another jax may tell its sources in another way
        place = ""
    return f"at {place}" if place else "at an unknown line"
