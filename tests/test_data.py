"""The data and cases of the repository: complete, with a source, and free of slips."""

import csv
import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest

import systems
from simkit.config.molecular_methods import Langevin
from simkit.config.molecular_reader import read_molecular_case
from simkit.config.molecular_terms import LennardJones
from simkit.config.schema import Case
from systems.base import parameter_declarations, state_names


DATA = Path(__file__).parent.parent / "data"
CASES = ["lynx_hare", "influenza", "theophylline"]
MOLECULES = ["argon", "kob_andersen"]
each_case = pytest.mark.parametrize("name", CASES)


def read_columns(path: Path) -> dict[str, list[float]]:
    """The columns of a CSV file of numbers."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {column: [float(row[column]) for row in rows] for column in rows[0]}


def read_tables(name: str) -> tuple[Case, Any, dict[str, list[float]]]:
    """A case, its system with the case's parameters, and the columns of its data."""
    case = msgspec.toml.decode((DATA / name / "case.toml").read_bytes(), type=Case)
    system = getattr(systems, case.system.type)(**case.system.parameters)
    assert case.data is not None
    return case, system, read_columns(DATA / name / case.data.file)


def test_every_folder_is_tested():
    assert sorted(path.name for path in DATA.iterdir() if path.is_dir()) == sorted(
        [*CASES, *MOLECULES]
    )


@each_case
def test_a_case_fits_its_system_and_its_data(name):
    case, system, columns = read_tables(name)
    assert case.data is not None
    assert case.fit is not None
    declared = {item.name: item for item in parameter_declarations(system)}
    assert set(case.system.initial_state) <= set(state_names(system))
    assert set(case.fit.parameters) <= set(declared)
    assert set(case.fit.initial_state) <= set(state_names(system))
    assert set(case.fit.noise) <= set(case.data.observables)
    assert set(case.data.inputs) <= {item.name for item in system.inputs}
    used = {case.data.time, *case.data.inputs.values()}
    used |= {case.data.group} if case.data.group else set()
    for observable in case.data.observables.values():
        assert observable.state in state_names(system)
        used.add(observable.column)
    assert used <= set(columns)
    assert min(columns[case.data.time]) >= case.times.start
    if case.times.stop is not None:
        assert max(columns[case.data.time]) == case.times.stop
    for key, free in (case.fit.parameters | case.fit.initial_state | case.fit.noise).items():
        assert free.start is not None, key
        assert 0 < free.start[0] < free.start[1], key
    for key, value in case.system.parameters.items():
        low, high = case.fit.parameters[key].start or (value, value)
        assert low <= value <= high, f"{key} lies outside the range of the starts"


@each_case
def test_every_folder_tells_its_source(name):
    text = (DATA / name / "SOURCE.txt").read_text()
    assert "Where the numbers were published" in text
    columns = read_tables(name)[2]
    assert text.splitlines()[0].endswith(": " + ", ".join(columns))


def test_pelts():
    columns = read_columns(DATA / "lynx_hare" / "pelts.csv")
    assert columns["year"] == list(range(1900, 1921))
    # Sums over the published table; the hares peak a year before the lynx.
    assert sum(columns["hare"]) == pytest.approx(715.7)
    assert sum(columns["lynx"]) == pytest.approx(423.5)
    peaks = {name: columns["year"][columns[name].index(max(columns[name]))] for name in columns}
    assert (peaks["hare"], peaks["lynx"]) == (1903, 1904)


def test_boys_in_bed():
    columns = read_columns(DATA / "influenza" / "in_bed.csv")
    assert columns["day"] == list(range(1, 15))
    assert columns["in_bed"] == [3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4]


def test_theophylline():
    columns = read_columns(DATA / "theophylline" / "theophylline.csv")
    assert len(columns["time"]) == 132
    assert set(columns["subject"]) == set(range(1, 13))
    for subject in range(1, 13):
        rows = [i for i, value in enumerate(columns["subject"]) if value == subject]
        times = [columns["time"][i] for i in rows]
        assert len(times) == 11
        assert times == sorted(times)
        assert times[0] == 0
        for constant in ("weight", "dose"):
            assert len({columns[constant][i] for i in rows}) == 1
    assert (min(columns["dose"]), max(columns["dose"])) == (3.1, 5.86)
    # Sum over the published table.
    assert sum(columns["concentration"]) == pytest.approx(654.78)


def test_the_starts_of_theophylline_exclude_exchanged_rates():
    case = read_tables("theophylline")[0]
    assert case.fit is not None
    absorption = case.fit.parameters["absorption_rate"].start
    elimination = case.fit.parameters["elimination_rate"].start
    assert absorption is not None
    assert elimination is not None
    assert elimination[1] < absorption[0]


def test_structure_factor_of_argon():
    folder = DATA / "argon"
    columns = read_columns(folder / "structure_factor.csv")
    source = (folder / "SOURCE.txt").read_text()
    assert source.startswith("structure_factor.csv: wavenumber (1/angstrom), structure_factor")
    assert list(columns) == ["wavenumber", "structure_factor"]
    q, found = columns["wavenumber"], columns["structure_factor"]
    assert len(q) == 400
    steps = [after - before for before, after in itertools.pairwise(q)]
    assert min(steps) > 0.029 and max(steps) < 0.030
    # What the paper tells of its table: the first peak, and one at large wave numbers.
    assert max(found) == pytest.approx(2.70, abs=0.01)
    assert q[found.index(max(found))] == pytest.approx(2.00, abs=0.02)
    assert sum(found[-50:]) / 50 == pytest.approx(1.0, abs=0.005)
    case = read_molecular_case(folder / "case.toml").case
    assert case.molecules.density == pytest.approx(0.02130)
    assert case.dynamics is not None
    assert isinstance(case.dynamics.method, Langevin)
    assert case.dynamics.method.temperature == pytest.approx(85.0)


def test_the_mixture_of_kob_and_andersen():
    folder = DATA / "kob_andersen"
    assert "Where the numbers were published" in (folder / "SOURCE.txt").read_text()
    case = read_molecular_case(folder / "case.toml").case
    first, second = case.molecules.species
    assert first.count is not None and second.count is not None
    assert first.count / (first.count + second.count) == pytest.approx(0.8, abs=0.001)
    assert isinstance(case.molecules.potential, LennardJones)
    assert case.molecules.potential.epsilon == ((1.0, 1.5), (1.5, 0.5))
    assert case.molecules.potential.sigma == ((1.0, 0.8), (0.8, 0.88))
    assert case.molecules.density == 1.2
