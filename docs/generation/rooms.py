"""The map of the rooms in CONTRIBUTING.md: each file with the first line of its docstring."""

import ast
from pathlib import Path

from generation.docstrings import cell, table


ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("systems", "solvers", "simkit")


def rooms() -> list[str]:
    """The lines of a table for each folder. Raises `ValueError` for a file without words."""
    lines = []
    for package in PACKAGES:
        for folder in sorted({file.parent for file in (ROOT / package).rglob("*.py")}):
            files = [file for file in sorted(folder.glob("*.py")) if _has_content(file)]
            rows = [[f"`{file.name}`", cell(_first_line(file))] for file in files]
            lines += [f"### {folder.relative_to(ROOT).as_posix()}/", ""]
            lines += table(["file", "what it does"], rows)
    return lines


def _has_content(file: Path) -> bool:
    # A face that holds a docstring alone says what its folder is.
    return bool(file.read_text(encoding="utf-8").strip())


def _first_line(file: Path) -> str:
    words = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not words:
        raise ValueError(f"{file} has no docstring for the map of the rooms")
    return " ".join(words.split("\n\n")[0].split())
