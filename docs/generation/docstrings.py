"""Docstrings as Markdown: formulae in plain text, references as links."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from generation.formulae import plain


Places = Mapping[str, str]
"""Where names are described: from a dotted name to a page with its anchor."""


def markdown(text: str, places: Places) -> str:
    """A docstring as Markdown.

    **Arguments:**

    - `text`: as `inspect.getdoc` gives it, or as it stands in the catalogue.
    - `places`: what references like `[solve][solvers.solve.solve]` may lead to.

    Raises `ValueError` for a formula that cannot be put into plain text.
    """
    text = re.sub(r"(?m)^( *)\$\$(.+?)\$\$", _display, text, flags=re.DOTALL)
    text = re.sub(r"\$([^$]+)\$", lambda found: _inline(found[1]), text)
    return re.sub(
        r"\[(`[^`]+`)\]\[([\w.]+)\]", lambda found: _reference(found[1], found[2], places), text
    )


def docstring(thing: Any, places: Places) -> str:
    """The docstring of a live object as Markdown, `""` if it only points elsewhere."""
    own = inspect.getdoc(thing) or ""
    return "" if own.startswith("See the class") else markdown(own, places)


def summary(text: str) -> str:
    """The first paragraph of a docstring on one line, for a cell of a table."""
    return cell(" ".join(markdown(text, {}).split("\n\n")[0].split()))


def cell(text: str) -> str:
    """Text that may stand in a cell of a table."""
    return text.replace("|", "\\|")


def table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a Markdown table, with an empty line after it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _display(found: re.Match[str]) -> str:
    indent = found[1]
    lines = ["```text", *plain(found[2]).splitlines(), "```"]
    return "\n".join(indent + line for line in lines)


def _inline(tex: str) -> str:
    return f"*{plain(tex).replace(chr(10), ', ')}*"


def _reference(name: str, target: str, places: Places) -> str:
    # A method is described with its class.
    while target and target not in places:
        target = target.rpartition(".")[0]
    return f"[{name}]({places[target]})" if target else name
