"""Bounds and names as the checks of a case compare and say them."""

from collections.abc import Iterator, Mapping
from typing import Any

from simkit.config.errors import KeyPath, Mistake, choice, described, number, shown
from simkit.config.schema import Distribution, Exponential, Gamma, LogNormal, Normal, Uniform


def within(value: float, lower: float | None, upper: float | None) -> bool:
    """Whether a number lies in the closed range; `None` is no bound."""
    return (lower is None or value >= lower) and (upper is None or value <= upper)


def inside(value: float, lower: float | None, upper: float | None) -> bool:
    """Whether a number lies in the open range; `None` is no bound."""
    return (lower is None or value > lower) and (upper is None or value < upper)


def interval(lower: float | None, upper: float | None) -> str:
    """A closed range in words, `from 0 to 1` or `of at least 0`."""
    if lower is not None and upper is not None:
        return f"from {number(lower)} to {number(upper)}"
    if lower is not None:
        return f"of at least {number(lower)}"
    return f"of at most {number(upper)}" if upper is not None else "of any size"


def open_interval(lower: float | None, upper: float | None) -> str:
    """An open range in words, `between 0 and 1` or `above 0`."""
    if lower is not None and upper is not None:
        return f"between {number(lower)} and {number(upper)} (both excluded)"
    if lower is not None:
        return f"above {number(lower)}"
    return f"below {number(upper)}" if upper is not None else "of any size"


def find_name_mistakes(
    given: Mapping[str, Any], known: Mapping[str, Any], path: KeyPath, what: str
) -> Iterator[Mistake]:
    """The names that are not known, each with the nearest one that is.

    `what` says what they should name, such as `parameter of SIR`.
    """
    article = "an" if what[0] in "aeio" else "a"
    for name, value in given.items():
        if name not in known:
            yield Mistake(
                (*path, name),
                f"is not {article} {what} (its value: {shown(value)})",
                choice(name, [*known]) if known else f"no entry, for there is no {what}",
            )


def find_distribution_mistakes(
    distribution: Distribution,
    lower: float | None,
    upper: float | None,
    path: KeyPath,
) -> Iterator[Mistake]:
    """A density that lies outside the bounds of its quantity, or is none at all.

    A normal or log-normal density is truncated to the bounds, so only its centre has to
    lie within; a uniform one must not reach beyond, for it could mean either range.
    """
    match distribution:
        case Uniform() if distribution.lower >= distribution.upper:
            yield Mistake(
                (*path, "lower"),
                f"is {described(distribution.lower)}",
                f"a number below {_dotted_end(path, 'upper')} = {number(distribution.upper)}",
            )
        case Uniform():
            for end in ("lower", "upper"):
                if not within(value := getattr(distribution, end), lower, upper):
                    yield _outside(value, lower, upper, (*path, end))
        case Normal() if not within(distribution.mean, lower, upper):
            yield _outside(distribution.mean, lower, upper, (*path, "mean"))
        case LogNormal() if not within(distribution.median, lower, upper):
            yield _outside(distribution.median, lower, upper, (*path, "median"))
        case Exponential() | Gamma() if upper is not None and upper <= 0:
            yield Mistake(path, "is a density of positive numbers", interval(lower, upper))


def _outside(value: float, lower: float | None, upper: float | None, path: KeyPath) -> Mistake:
    return Mistake(
        path, f"is {described(value)}", f"a number {interval(lower, upper)} (the bounds)"
    )


def _dotted_end(path: KeyPath, name: str) -> str:
    return f"{path[-1]}.{name}"
