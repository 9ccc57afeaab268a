"""Which pages are generated, and which of them are behind the code."""

import functools
import re
from pathlib import Path

from generation import python_face
from generation.case_file import case_file_page
from generation.catalogue_pages import methods_page, methods_table, systems_page
from generation.command_line import command_line_page
from generation.rooms import rooms


_NOTE = "<!-- Made from the code by docs/generate.py; do not edit. -->\n\n"
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_PARTS = {
    "methods_for_odes": functools.partial(methods_table, "ODE"),
    "methods_for_sdes": functools.partial(methods_table, "SDE"),
    "rooms": rooms,
}


def stale_pages(docs: Path) -> dict[Path, str]:
    """The pages whose text is not what it should be, with that text.

    They are those in a folder of documentation, and CONTRIBUTING.md beside it.

    Raises `KeyError` for a part that no page can have.
    """
    wanted = {docs / "reference" / name: text for name, text in _reference().items()}
    for page in sorted([*docs.glob("*.md"), *docs.parent.glob("CONTRIBUTING.md")]):
        wanted[page] = _with_parts(page.read_text(encoding="utf-8"))
    return {
        page: text
        for page, text in wanted.items()
        if not page.is_file() or page.read_text(encoding="utf-8") != text
    }


def _reference() -> dict[str, str]:
    places = python_face.places()
    pages = {
        "case_file.md": case_file_page(),
        "command_line.md": command_line_page(),
        "systems.md": systems_page(places),
        "methods.md": methods_page(places),
        "python.md": python_face.python_page(places),
    }
    return {name: _NOTE + text for name, text in pages.items()}


def _with_parts(text: str) -> str:
    def part(found: re.Match[str]) -> str:
        lines = "\n".join(_PARTS[found[2]]()).rstrip()
        return f"{found[1]}\n{lines}\n\n{found[3]}"

    return _PART.sub(part, text)
