"""Case files: what is read, how keys are overridden, and the catalogue behind the checks."""

import json
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import solvers
import systems
from simkit.catalogue import (
    CATALOGUE_FILE,
    build_catalogue,
    catalogue,
    describe_system,
    encode_catalogue,
)
from simkit.config.errors import CaseError, dotted, nearest
from simkit.config.molecular_reader import is_molecular
from simkit.config.overrides import parse_override
from simkit.config.reader import (
    check_case,
    check_system,
    find_case_errors,
    parse_case,
    read_case,
    resolved_json,
)
from simkit.config.schema import (
    Case,
    EnsembleTable,
    FitTable,
    MethodTable,
    Normal,
    SystemTable,
    TimesTable,
)
from simkit.config.structure import convert, find_structural_mistakes
from simkit.config.table import read_measurements


ROOT = Path(__file__).parent.parent
CASES = sorted(path for path in (ROOT / "data").glob("*/*.toml") if not is_molecular(path))

SMALL = """\
schema = 1
title = "Predator and prey"
system.type = "LotkaVolterra"
times.stop = 20
"""


@pytest.mark.parametrize("path", CASES, ids=[str(path.parent.name) for path in CASES])
def test_every_case_of_the_repository_is_well(path: Path) -> None:
    assert find_case_errors(path) == []
    loaded = read_case(path)
    assert loaded.text == path.read_text()
    assert loaded.folder == path.parent
    if loaded.case.data is not None:
        assert len(read_measurements(loaded)) > 0


def test_defaults_are_filled_in_and_whole_numbers_become_floats() -> None:
    case = parse_case(SMALL, "case.toml").case
    assert case.times.stop == 20.0
    assert isinstance(case.times.stop, float)
    assert case.method.type == "Tsit5"
    assert case.fit is None


def test_the_resolved_case_is_canonical_and_whole() -> None:
    text = resolved_json(parse_case(SMALL, "case.toml").case)
    values = json.loads(text)
    assert values["method"] == {
        "type": "Tsit5", "rtol": None, "atol": None, "step": None, "max_steps": None,
        "path_resolution": None,
    }  # fmt: skip
    assert text == json.dumps(values, sort_keys=True, separators=(",", ":"))
    reordered = "\n".join(reversed(SMALL.splitlines()))
    assert resolved_json(parse_case(reordered, "other.toml").case) == text


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "case.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert read_case(path).text == SMALL


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("fit.starts=64", ("fit", "starts"), 64),
        ("method.type=Dopri8", ("method", "type"), "Dopri8"),
        ('title="a = b"', ("title",), "a = b"),
        ("title=a = b", ("title",), "a = b"),
        ("times.save_at=[1, 2.5]", ("times", "save_at"), [1, 2.5]),
        ("fit.parameters.'a b'.each=true", ("fit", "parameters", "a b", "each"), True),
        ("system.inputs={dose = 1}", ("system", "inputs"), {"dose": 1}),
        ("title=1\nschema=2", ("title",), "1\nschema=2"),
        ("title=", ("title",), ""),
    ],
)
def test_overrides(override: str, path: tuple[str, ...], value: object) -> None:
    assert parse_override(override) == (path, value)


def test_overrides_make_tables_and_the_last_one_wins() -> None:
    overrides = ["ensemble.members=3", "ensemble.members=5", "ensemble.seed=7"]
    loaded = parse_case(SMALL, "case.toml", overrides)
    assert loaded.case.ensemble is not None
    assert loaded.case.ensemble.members == 5
    assert loaded.case.ensemble.seed == 7
    assert loaded.text == SMALL
    assert loaded.overrides == tuple(overrides)


def test_errors_keep_their_parts() -> None:
    with pytest.raises(CaseError) as caught:
        parse_case(SMALL, "folder/case.toml", ["times.stop=-1"])
    error = caught.value
    assert error.source == 'folder/case.toml with --set "times.stop=-1"'
    assert error.key == "times.stop"
    assert error.came == "is -1 (a number)"
    assert error.expected == "a number above times.start = 0"
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)


def test_keys_are_written_as_toml_writes_them() -> None:
    assert dotted(("fit", "parameters", "a b", "start", 1)) == 'fit.parameters."a b".start[1]'
    assert dotted(("a-b", "c_d")) == "a-b.c_d"


def test_the_nearest_name_ignores_case() -> None:
    assert nearest("sir", ["SIR", "VanDerPol"]) == "SIR"
    assert nearest("lorenz", ["Lorenz63", "SIR"]) == "Lorenz63"
    assert nearest("xyz", ["SIR"]) is None


def test_a_case_made_in_python_is_checked_like_a_file() -> None:
    case = Case(
        schema=1,
        title="From Python",
        system=SystemTable(type="LotkaVolterra", parameters={"prey_growth": 0.5}),
        times=TimesTable(stop=20.0),
        ensemble=EnsembleTable(members=3, parameters={"predation": Normal(mean=0.1, sd=0.1)}),
    )
    assert check_case(case).case == case
    with pytest.raises(CaseError, match=r"^case: method\.type is \"Tsit6\""):
        check_case(Case(schema=1, title="x", system=case.system, times=case.times,
                        method=MethodTable(type="Tsit6")))  # fmt: skip
    with pytest.raises(CaseError, match=r"^case: fit\.starts is \"many\" \(text\)"):
        check_case(Case(schema=1, title="x", system=case.system, times=case.times,
                        fit=FitTable(starts="many")))  # fmt: skip  # pyright: ignore


def test_own_systems_are_checked_once_they_are_known() -> None:
    text = SMALL.replace('"LotkaVolterra"', '"some.module:Own"')
    loaded = parse_case(text, "case.toml", ["system.initial_state.pray=3"])
    entry = describe_system(systems.LotkaVolterra())
    assert entry == catalogue().systems["LotkaVolterra"]
    with pytest.raises(CaseError, match=r'pray is not a state .*nearest is "prey"') as caught:
        check_system(loaded, entry)
    assert "--set" in str(caught.value)
    network = systems.NeuralVectorField.make(
        systems.LotkaVolterra().states, key=jax.random.key(0)
    )
    assert describe_system(network).parameters["network"].default is None


# The values of TOML, a little of each kind, under the keys of the schema and others.
_KEYS = st.sampled_from(
    ["schema", "title", "system", "times", "fit", "type", "parameters", "prior", "start",
     "stop", "starts", "ensemble", "members", "data", "observables", "other", "sd", "mean"]
)  # fmt: skip
_VALUES = st.recursive(
    st.one_of(
        st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.dates(),
        st.sampled_from(["normal", "LotkaVolterra", "Tsit5", 1, 2.5]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_KEYS, _VALUES, st.sampled_from(["", "fit", "ensemble", "times", "system", "data"]))
def test_what_the_structure_allows_converts_and_nothing_else(
    key: str, value: object, table: str
) -> None:
    """The walk over the values and msgspec's conversion agree on what a case is."""
    values = tomllib.loads(SMALL)
    place = values.setdefault(table, {}) if table else values
    place[key] = value
    if list(find_structural_mistakes(values)):
        return
    case = convert(values)
    assert json.loads(resolved_json(case))["schema"] == 1


def test_measurements_are_in_long_form(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(
        "# comment, with a comma and a \" quote\n\nwho,day,in bed,dose\n"
        "b,2,3,7.5\nb,1,,7.5\n\na,1,5,1e1\na,1,6,10\n"
    )  # fmt: skip
    text = """\
schema = 1
title = "x"
system.type = "OneCompartmentOral"
[data]
file = "data.csv"
time = "day"
group = "who"
inputs = { dose = "dose" }
observables.level = { column = "in bed", state = "concentration" }
"""
    table = read_measurements(parse_case(text, tmp_path / "case.toml"))
    assert table.groups == ("b", "a")
    assert table.group == ("b", "a", "a")
    assert table.time == (2.0, 1.0, 1.0)
    assert table.value == (3.0, 5.0, 6.0)
    assert table.line == (4, 7, 8)
    assert table.inputs == {"b": {"dose": 7.5}, "a": {"dose": 10.0}}
    assert table.missing == {"level": 1}
    with pytest.raises(ValueError, match="no data file"):
        read_measurements(parse_case(SMALL, "case.toml"))


def test_the_catalogue_is_up_to_date() -> None:
    assert CATALOGUE_FILE.read_bytes() == encode_catalogue(build_catalogue()), (
        "run `python -m simkit.catalogue` and commit simkit/catalogue.json"
    )


def test_the_catalogue_holds_what_the_packages_offer() -> None:
    known = catalogue()
    assert set(known.systems) <= set(systems.__all__)
    assert set(known.methods) <= set(solvers.__all__)
    keys = set(MethodTable.__struct_fields__) - {"type"}
    assert keys == set().union(*(entry.options for entry in known.methods.values()))
    assert "LotkaVolterra" in known.case_systems
    assert "NeuralVectorField" not in known.case_systems
    for name, entry in known.case_systems.items():
        system = getattr(systems, name)()
        assert list(entry.states) == [state.name for state in system.states]
        assert entry.methods, f"no method solves {name}"
        assert entry.summary.endswith(".")


def test_nothing_heavy_is_imported_to_refuse_a_case() -> None:
    code = (
        "import sys; from simkit.config.reader import parse_case; "
        "import simkit.config.table; "
        f"parse_case({SMALL!r}, 'case.toml'); "
        "print(sorted({'jax', 'numpy', 'h5py', 'matplotlib', 'rich'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == "[]"
