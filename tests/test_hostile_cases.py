"""Case files and data changed at random: success, or one sentence, in no time.

What is behind `simkit check --static` is called: the trial of a case that is free of mistakes
has a time limit of its own, and starts jax, which alone takes seconds. A case file has no
formulae: what comes nearest is the name of a system, and a name that could import code is tried
too.
"""

import copy
import json
import os
import time
import tomllib
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from click.testing import CliRunner

from simkit.cli.application import cli
from simkit.config.errors import CaseError
from simkit.config.molecular_reader import is_molecular, parse_molecular_case
from simkit.config.reader import parse_case
from simkit.config.table import read_measurements


ROOT = Path(__file__).parent.parent
CASES = sorted((ROOT / "data").glob("*/case.toml"))
MOLECULAR = {path for path in CASES if is_molecular(path)}
EXAMPLES = int(os.environ.get("SIMKIT_MUTATIONS", "100"))
MOST_SECONDS = 2.0
SETTINGS = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=EXAMPLES == 100,
)

AWKWARD_TEXTS = [
    "",
    " ",
    "\n",
    "\x00",
    "\x7f\x1b[31m",
    "\u202e\u2066",
    "é" * 3,
    "🧪",
    "__class__",
    "__import__('os').system('touch pwned')",
    "{0.__class__}",
    "%s%n%p",
    "$(touch pwned)",
    "../../../../etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/mem",
    ".",
    "os:system",
    "nowhere.at.all:System",
    ":",
    "a" * 100_000,
    "LotkaVolterra",
    "prey",
    "type",
    "normal",
]
AWKWARD_NUMBERS = [
    *(0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.0, -0.0, 5e-324, 1e-300, 1e308),
    *(1.7976931348623157e308, -1e308, float("inf"), float("-inf"), float("nan"), 0.5),
]
SCALARS = st.one_of(
    st.sampled_from(AWKWARD_TEXTS),
    st.text(max_size=20),
    st.sampled_from(AWKWARD_NUMBERS),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.datetimes(),
    st.dates(),
    st.times(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(AWKWARD_TEXTS), inner, max_size=4
        )
    ),
    max_leaves=8,
)


def _as_toml(value: Any) -> str:
    """Any plain value as a TOML value, tables inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {_as_toml(item)}" for key, item in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_as_toml, value)) + "]"
    if isinstance(value, str):
        return _text_as_toml(value)
    if isinstance(value, int | float):
        return repr(value)
    return value.isoformat()


def _text_as_toml(text: str) -> str:
    return '"' + "".join(_escaped(letter) for letter in text) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return letter if letter.isprintable() else f"\\U{ord(letter):08X}"


def _document(values: dict[str, Any]) -> str:
    lines = (f"{_text_as_toml(key)} = {_as_toml(item)}" for key, item in values.items())
    return "\n".join(lines) + "\n"


@st.composite
def changed_cases(draw: st.DrawFn, cases: list[Path] = CASES) -> tuple[Path, str]:
    """A committed case with one to three changes, and its text."""
    path = draw(st.sampled_from(cases))
    values = tomllib.loads(path.read_text())
    for _ in range(draw(st.integers(1, 3))):
        _change(draw, values)
    text = _document(values)
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(text)))
        text = (
            text[:place] + draw(st.text(max_size=5)) + text[place + draw(st.integers(0, 9)) :]
        )
    return path, text


def _change(draw: st.DrawFn, values: dict[str, Any]) -> None:
    """Another value, another key, a key less or more, or a table elsewhere."""
    tables = list(_tables(values))
    table = draw(st.sampled_from(tables))
    key = draw(st.sampled_from(sorted(table))) if table else "key"
    name = draw(st.sampled_from(AWKWARD_TEXTS) | st.text(max_size=6))
    match draw(st.integers(0, 9)):
        case 0 | 1:
            table[key] = draw(VALUES)
        case 7 | 8 | 9:
            # A value of the same type, which the checks of structure let pass.
            table[key] = draw(_like(table.get(key)))
        case 3:
            table[name] = table.pop(key, 0)
        case 4:
            table.pop(key, None)
        case 5:
            table[name] = draw(VALUES)
        case _:
            table[key] = copy.deepcopy(draw(st.sampled_from(tables)))


def _like(value: Any) -> st.SearchStrategy[Any]:
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int | float):
        return st.sampled_from(AWKWARD_NUMBERS) | st.integers(0, 100) | st.floats(0, 100)
    if isinstance(value, str):
        return st.sampled_from(AWKWARD_TEXTS) | st.text(max_size=8)
    if isinstance(value, list):
        return st.lists(st.sampled_from(AWKWARD_NUMBERS) | st.floats(), max_size=3)
    return VALUES


def _tables(value: Any) -> Any:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _tables(item)


def _check(text: str, path: Path) -> list[str]:
    """What is wrong, as `simkit check` finds it without making a system of the user's own."""
    began = time.process_time()
    try:
        if path in MOLECULAR:
            parse_molecular_case(text, path)
        else:
            loaded = parse_case(text, path)
            if loaded.case.data is not None:
                read_measurements(loaded)
        found = []
    except CaseError as error:
        found = [str(error)]
    assert time.process_time() - began < MOST_SECONDS
    for sentence in found:
        assert sentence.isprintable()
        assert sentence.endswith(".")
        assert len(sentence) < 2000
    return found


@SETTINGS
@hypothesis.given(changed=changed_cases())
def test_changed_cases_give_a_sentence_or_are_well(changed: tuple[Path, str]) -> None:
    path, text = changed
    _check(text, path)


@SETTINGS
@hypothesis.given(changed=changed_cases(sorted(MOLECULAR)))
def test_changed_molecular_cases_give_a_sentence_or_are_well(changed: tuple[Path, str]) -> None:
    path, text = changed
    _check(text, path)


def _checked_by_command(folder: Path, text: str) -> str:
    """What `simkit check` says on stderr of a case that is broken."""
    path = folder / "case.toml"
    path.write_text(text, encoding="utf-8")
    before, began = sorted(os.listdir(folder)), time.process_time()
    answer = CliRunner().invoke(cli, ["check", str(path)], env={"SIMKIT_CACHE": "off"})
    assert time.process_time() - began < MOST_SECONDS
    assert answer.exit_code == 2, answer.output
    assert answer.stdout == ""
    for line in answer.stderr.splitlines():
        assert line.startswith("Error: ")
        assert line.isprintable()
    assert sorted(os.listdir(folder)) == before, "nothing is written"
    return answer.stderr


START = 'schema = 1\ntitle = "A case"\n'
DEEP = {
    "lists": "x = " + "[" * 100_000,
    "tables": "x = " + "{a = " * 20_000,
    # Python's reader would take ten minutes for each of these.
    "a dotted key": ".".join(["a"] * 200_000) + " = 1",
    "a dotted key in quotes": " . ".join(['"a"'] * 200_000) + " = 1",
    "a dotted key within a table": "x = {" + ".".join(["a-1"] * 200_000) + " = 1}",
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_nesting(name: str, tmp_path: Path) -> None:
    said = _checked_by_command(tmp_path, START + DEEP[name])
    assert "nests tables or lists too deeply, expected a few levels at most." in said


@pytest.mark.parametrize(
    "text",
    ["a" * 10**6, '"' * 10**5, "a." * 49 + "a = " + "1", "x = '" + "a" * 10**6, "'a'b" * 10**5],
    ids=["a long word", "quotes", "a key of fifty parts", "a long text", "quoted words"],
)
def test_looking_for_deep_keys_is_quick(text: str, tmp_path: Path) -> None:
    assert "too deeply" not in _checked_by_command(tmp_path, START + text)


SIZES = {
    "digits": "x = " + "9" * 5000,
    "many keys": "\n".join(f"key_{index} = 1" for index in range(5_000)),
    "a long key": "k" * 10**6 + " = 1",
    "a long text": f'system.type = "{"S" * 10**6}"',
    "NUL": 'system.type = "a\x00b"',
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str, tmp_path: Path) -> None:
    for line in _checked_by_command(tmp_path, START + SIZES[name]).splitlines():
        assert len(line) < 1500


ATTACKS = [
    "os:system",
    "subprocess:Popen",
    "builtins:exec",
    "os:getcwd().__class__",
    "__import__('os').system('touch pwned')",
    "os; open('pwned', 'w'):System",
    "../../secret:System",
    "{0.__class__.__mro__}:System",
    "%(system)s",
    "systems.base:AbstractSystem.__init__",
    "json:decoder",
]


@pytest.mark.parametrize("name", ATTACKS)
def test_the_name_of_a_system_calls_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is looked up and must be that of a system; nothing else of it is ever called."""
    monkeypatch.chdir(tmp_path)
    text = START + f"times.stop = 1.0\n[system]\ntype = {_text_as_toml(name)}\n"
    assert "system.type is " in _checked_by_command(tmp_path, text)


@pytest.mark.parametrize("file", ["/dev/zero", "/dev/stdin", ".", "/proc/self/mem", "a" * 300])
def test_data_from_where_no_data_is(file: str, tmp_path: Path) -> None:
    text = (ROOT / "data" / "lynx_hare" / "case.toml").read_text()
    said = _checked_by_command(tmp_path, text.replace("pelts.csv", file))
    assert "data.file" in said or "line 1" in said


def test_a_case_that_never_ends() -> None:
    answer = CliRunner().invoke(cli, ["check", "/dev/zero"])
    assert answer.exit_code == 2
    assert answer.stderr == (
        "Error: /dev/zero has more than 67108864 bytes, "
        "expected a case file of a few thousand.\n"
    )


def test_data_with_a_hundred_thousand_columns(tmp_path: Path) -> None:
    text = (ROOT / "data" / "lynx_hare" / "case.toml").read_text()
    names = ",".join(f"column_{index}" for index in range(100_000))
    (tmp_path / "pelts.csv").write_text(f"{names}\n")
    assert "expected a column of" in _checked_by_command(tmp_path, text)
    (tmp_path / "pelts.csv").write_text("y" * 100_000 + ",year,hare\n")
    said = _checked_by_command(tmp_path, text.replace('"lynx"', f'"{"y" * 99_000}x"'))
    assert len(said) < 1500
