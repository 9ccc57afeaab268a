"""The documentation: what it shows runs, what it says of the code is so."""

import contextlib
import dataclasses
import doctest
import importlib
import importlib.util
import io
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from simkit.cli.application import cli
from simkit.config.reader import parse_case


ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$(\s*)", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it stands for, and where it is."""

    page: Path
    language: str
    title: str
    text: str
    line: int
    start: int
    end: int

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}, line {self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', fence[2])
        line = text.count("\n", 0, fence.start()) + 1
        name = title[1] if title else ""
        found.append(Block(page, fence[1], name, fence[3], line, fence.start(), fence.end()))
    return found


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_language(language: str) -> list[Path]:
    return [page for page in PAGES if any(b.language == language for b in blocks_of(page))]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with the data of the repository, from which modules are imported."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", with_language("python"), ids=named)
def test_python_blocks_run_and_print_what_is_shown(page: Path, workplace: Path) -> None:
    """Blocks of a page run in order; one with a title is written to a file of that name.

    Where a block of text follows with nothing between, it is what the code prints.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    blocks = blocks_of(page)
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block.title:
            (workplace / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            printed = io.StringIO()
            # Empty lines in front, so that a traceback names the line of the page.
            code = compile("\n" * block.line + block.text, str(page), "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
            if after is not None and after.language == "text" and after.start == block.end:
                assert printed.getvalue() == after.text, block.where


@pytest.mark.parametrize("page", with_language("toml"), ids=named)
def test_cases_are_free_of_mistakes(page: Path, workplace: Path) -> None:
    for block in blocks_of(page):
        if block.language == "toml" and "schema = 1" in block.text:
            parse_case(block.text, workplace / (block.title or "case.toml"))


@pytest.mark.parametrize("page", with_language("console"), ids=named)
def test_commands_exist_with_their_options(page: Path) -> None:
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in blocks_of(page):
        if block.language != "console":
            continue
        for line in block.text.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["make"]:
                for target in [word for word in words[1:] if "=" not in word]:
                    assert f"\n{target}:" in targets, f"{block.where}: make {target}"
            elif words[:1] == ["simkit"] and not words[1].startswith("-"):
                command = cli.commands[words[1]]
                known = {name for item in command.params for name in item.opts} | {"--help"}
                options = {word for word in words[2:] if word.startswith("-")}
                assert options <= known, block.where


def test_generated_parts_are_those_of_the_code() -> None:
    """In a process of its own: commands that ran in this one leave traces in click's help."""
    done = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_page_that_is_behind_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    pages = importlib.import_module("generation.pages")
    page = tmp_path / "choosing.md"
    page.write_text("A\n<!-- generated: methods_for_odes -->\nold\n<!-- end -->\nB\n")
    text = pages.stale_pages(tmp_path)[page]
    assert "Tsit5" in text
    assert text.startswith("A\n")
    assert text.endswith("<!-- end -->\nB\n")
    page.write_text(text)
    assert page not in pages.stale_pages(tmp_path)


def test_no_tex_reaches_a_page() -> None:
    for page in PAGES:
        assert not re.search(r"\$\$|\\(frac|dot|qquad)", page.read_text("utf-8")), named(page)


def test_statuses_of_starts_are_those_of_the_code() -> None:
    """The table of statuses in the page about fitting has each one, in its words."""
    source = (ROOT / "simkit" / "fitting" / "tables.py").read_text(encoding="utf-8")
    body = source[source.index("def _status(") :]
    body = body[: body.index("\n\n\n")]
    told = (DOCS / "fitting.md").read_text(encoding="utf-8")
    statuses = re.findall(r'return "([^"]+)"', body)
    assert len(statuses) >= 5
    for status in statuses:
        assert f"| `{status}` |" in told


def test_the_citation_is_whole_and_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == "simkit"
    assert citation["authors"] == [{"name": "The simkit developers"}]
    assert citation["message"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{project['version']}]" in changelog


def links_of(page: Path) -> list[str]:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent == ROOT], ids=named)
def test_links_between_files_resolve(page: Path) -> None:
    """Those of the pages of the site are checked by its strict build."""
    for link in links_of(page):
        if "://" not in link and not link.startswith("#"):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_the_site_is_built_without_warnings_and_loads_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.rglob("*.py"))
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="([^"]+)"', text)
        assert loaded
        assert not [address for address in loaded if "://" in address], page.name


def modules_with_examples() -> list[ModuleType]:
    found = []
    for name in ("simkit", "solvers", "systems"):
        package = importlib.import_module(name)
        for item in pkgutil.walk_packages(package.__path__, f"{name}."):
            spec = importlib.util.find_spec(item.name)
            origin = Path(spec.origin) if spec and spec.origin else None
            if origin and origin.suffix == ".py" and ">>> " in origin.read_text("utf-8"):
                found.append(importlib.import_module(item.name))
    return found


@pytest.mark.parametrize("module", modules_with_examples(), ids=lambda m: m.__name__)
def test_examples_in_docstrings(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_examples_of_formulae(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    formulae = importlib.import_module("generation.formulae")
    assert doctest.testmod(formulae).failed == 0
    with pytest.raises(ValueError, match="hbar"):
        formulae.plain(r"\hbar \omega")
