"""Broken cases and broken data: each is refused with one sentence, and nothing is written."""

# The tables of broken cases are read best with one case on a line.
# ruff: noqa: E501

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner

from simkit.cli.application import cli


CASE = """\
schema = 1
title = "A drug in two subjects"

[system]
type = "OneCompartmentOral"
parameters = { absorption_rate = 1.5, volume = 0.5 }
initial_state = { concentration = 0.0 }

[times]
start = 0.0
stop = 25.0
save_every = 0.5
unit = "h"

[method]
type = "Tsit5"
rtol = 1e-8

[data]
file = "data.csv"
time = "hour"
group = "subject"
inputs = { dose = "dose" }

[data.observables.level]
column = "plasma"
state = "concentration"
noise = "log_normal"

[fit]
starts = 4

[fit.parameters.absorption_rate]
lower = 0.1
upper = 10.0
scale = "log"
prior = { type = "log_normal", median = 1.0, sd = 0.5 }
start = [0.5, 5.0]
each = true

[fit.noise.level]
start = [0.1, 1.0]

[uncertainty.laplace]
level = 0.9

[output]
formats = ["png"]
"""

DATA = """\
# two subjects
subject,hour,plasma,dose
1,0.5,2.5,4.0
1,1.0,,4.0
1,2.0,3.5,4.0
2,0.5,2.0,5.0
2,24.0,1.0,5.0
"""


@dataclasses.dataclass(frozen=True)
class Broken:
    """One way to break the case: what is replaced, and what the sentence has to say."""

    name: str
    old: str
    new: str
    key: str
    came: str
    expected: str
    in_data: bool = False


def _in_data(name: str, old: str, new: str, key: str, came: str, expected: str) -> Broken:
    return Broken(name, old, new, key, came, expected, in_data=True)


STRUCTURE = [
    Broken("unknown key", "starts = 4", "strts = 4", "fit.strts", "4", 'nearest is "starts"'),
    Broken("unknown table", "[uncertainty.laplace]", "[uncertanty]", "uncertanty", "not a known key", 'nearest is "uncertainty"'),
    Broken("text for a count", "starts = 4", 'starts = "four"', "fit.starts", '"four" (text)', "a whole number from 1"),
    Broken("fraction for a count", "starts = 4", "starts = 4.5", "fit.starts", "4.5 (a number)", "a whole number from 1"),
    Broken("zero starts", "starts = 4", "starts = 0", "fit.starts", "0 (a whole number)", "a whole number from 1"),
    Broken("huge count", "starts = 4", "starts = 99999999999999999999", "fit.starts", "99999999999999999999", "2147483647"),
    Broken("negative seed", "starts = 4", "seed = -1", "fit.seed", "-1", "from 0 to 9223372036854775807"),
    Broken("truth value for a number", "start = 0.0", "start = true", "times.start", "true (a truth value)", "a finite number"),
    Broken("truth value for a count", "starts = 4", "starts = true", "fit.starts", "true (a truth value)", "a whole number"),
    Broken("number for a truth value", "each = true", "each = 1", "fit.parameters.absorption_rate.each", "1 (a whole number)", "true or false"),
    Broken("number for text", '"h"', "3", "times.unit", "3 (a whole number)", "text in quotes"),
    Broken("date for a number", "stop = 25.0", "stop = 2020-01-01", "times.stop", "2020-01-01 (a date or time)", "a finite number"),
    Broken("not a number", "stop = 25.0", "stop = nan", "times.stop", "nan (a number)", "a finite number"),
    Broken("infinity", "stop = 25.0", "stop = inf", "times.stop", "inf (a number)", "a finite number"),
    Broken("integer beyond floats", "stop = 25.0", f"stop = 1{'0' * 400}", "times.stop", "more than 30 digits", "a finite number"),
    Broken("unreadable integer", "stop = 25.0", f"stop = 1{'0' * 5000}", "case.toml", "thousands of digits", "finite numbers"),
    Broken("negative tolerance", "rtol = 1e-8", "rtol = -1e-8", "method.rtol", "-1e-08", "a finite number above 0"),
    Broken("negative scale deep down", "sd = 0.5", "sd = -0.5", "fit.parameters.absorption_rate.prior.sd", "-0.5", "above 0"),
    Broken("level above one", "level = 0.9", "level = 90", "uncertainty.laplace.level", "90", "between 0 and 1"),
    Broken("unknown prior", '"log_normal", median', '"lognormal", median', "fit.parameters.absorption_rate.prior.type", '"lognormal"', 'nearest is "log_normal"'),
    Broken("prior without type", 'type = "log_normal", median', "median", "fit.parameters.absorption_rate.prior.type", "is missing", "log_normal"),
    Broken("prior with a missing number", "median = 1.0, ", "", "fit.parameters.absorption_rate.prior.median", "is missing", "a finite number above 0"),
    Broken("unknown noise", 'noise = "log_normal"', 'noise = "gaussian"', "data.observables.level.noise", '"gaussian"', "student_t"),
    Broken("unknown engine", "starts = 4", 'engine = "lane"', "fit.engine", '"lane" (text)', 'nearest is "lanes"'),
    Broken("unknown format", '["png"]', '["png", "gif"]', "output.formats[1]", '"gif"', "pdf"),
    Broken("number for a table", "[uncertainty.laplace]\nlevel = 0.9", "[uncertainty]\nlaplace = 3", "uncertainty.laplace", "3 (a whole number)", "a table"),
    Broken("three ends of a range", "[0.5, 5.0]", "[0.5, 5.0, 6.0]", "fit.parameters.absorption_rate.start", "a list of 3 values", "a list of 2 numbers"),
    Broken("number for a list", "start = [0.5, 5.0]", "start = 0.5", "fit.parameters.absorption_rate.start", "0.5 (a number)", "a list of 2 numbers"),
    Broken("line break in a title", '"A drug in two subjects"', '"A\\ndrug"', "title", '"A\\ndrug"', "on one line"),
    Broken("missing title", 'title = "A drug in two subjects"\n', "", "title", "is missing", "text in quotes"),
    Broken("missing system", '[system]\ntype = "OneCompartmentOral"\nparameters = { absorption_rate = 1.5, volume = 0.5 }\ninitial_state = { concentration = 0.0 }', "", "system", "is missing", "a table"),
    Broken("other schema", "schema = 1", "schema = 2", "schema", "2", "expected 1"),
    Broken("no observables", '[data.observables.level]\ncolumn = "plasma"\nstate = "concentration"\nnoise = "log_normal"', "[data.observables]", "data.observables", "an empty table", "at least one entry"),
    Broken("syntax", "starts = 4", "starts = = 4", "line 31, column 10", '"starts = = 4"', "valid TOML"),
    Broken("key given twice", "starts = 4", "starts = 4\nstarts = 5", "line 32", '"starts = 5" (the key stands here for the second time)', "each key stands once"),
    Broken("nested too deeply", "starts = 4", f"starts = {'[' * 3000}", "nests", "too deeply", "a few levels"),
]  # fmt: skip

MEANING = [
    Broken("unknown system", '"OneCompartmentOral"', '"OneCompartmntOral"', "system.type", '"OneCompartmntOral"', 'nearest is "OneCompartmentOral"'),
    Broken("system for Python only", '"OneCompartmentOral"', '"NeuralVectorField"', "system.type", "for Python only", "OneCompartmentOral"),
    Broken("own system without a class", '"OneCompartmentOral"', '"my.module:"', "system.type", '"my.module:"', "package.module:Class"),
    Broken("blank title", '"A drug in two subjects"', '" "', "title", '" "', "one line for people"),
    Broken("unknown parameter", "volume = 0.5", "volum = 0.5", "system.parameters.volum", "0.5", 'nearest is "volume"'),
    Broken("parameter outside its bounds", "volume = 0.5", "volume = -0.5", "system.parameters.volume", "-0.5", "of at least 0 (in L/kg)"),
    Broken("unknown state", "concentration = 0.0", "concentraton = 0.0", "system.initial_state.concentraton", "not a state", 'nearest is "concentration"'),
    Broken("unknown input", "initial_state = {", "inputs = { dos = 1.0 }\ninitial_state = {", "system.inputs.dos", "not an input", "expected dose"),
    Broken("stop before start", "stop = 25.0", "stop = -1.0", "times.stop", "-1", "above times.start = 0"),
    Broken("step beyond the span", "save_every = 0.5", "save_every = 30.0", "times.save_every", "30", "at most the simulated time, 25"),
    Broken("too many saved times", "save_every = 0.5", "save_every = 1e-7", "times.save_every", "2.5e+08 saved times", "at most 10000000"),
    Broken("both ways to save", "save_every = 0.5", "save_every = 0.5\nsave_at = [1.0]", "times.save_at", "times.save_every", "only one of the two"),
    Broken("saved times that fall", "save_every = 0.5", "save_at = [1.0, 3.0, 2.0]", "times.save_at[2]", "2 (a number) after 3", "times that increase"),
    Broken("saved times that repeat", "save_every = 0.5", "save_at = [1.0, 1.0]", "times.save_at[1]", "1 (a number) after 1", "times that increase"),
    Broken("saved times beyond the end", "save_every = 0.5", "save_at = [1.0, 30.0]", "times.save_at[1]", "30", "to times.stop = 25"),
    Broken("no saved time", "save_every = 0.5", "save_at = []", "times.save_at", "an empty list", "at least one time"),
    Broken("unknown method", '"Tsit5"', '"RK45"', "method.type", '"RK45"', "Tsit5"),
    Broken("method for noise", '"Tsit5"', '"EulerMaruyama"', "method.type", "stochastic differential equations (Ito)", "a method for OneCompartmentOral (ODE)"),
    Broken("method for Hamiltonians", '"Tsit5"', '"StormerVerlet"', "method.type", "see `simkit methods StormerVerlet`", "a method for OneCompartmentOral (ODE)"),
    Broken("option of another method", 'type = "Tsit5"\nrtol', 'type = "Milstein"\nrtol', "method.type", "stochastic", "Tsit5"),
    Broken("too many steps", "rtol = 1e-8", "step = 1e-4", "method.step", "2.5e+05 steps", "method.max_steps above 10000"),
    Broken("observed state that is none", 'state = "concentration"', 'state = "concentrations"', "data.observables.level.state", '"concentrations"', 'nearest is "concentration"'),
    Broken("input from a column that is none", "inputs = { dose", "inputs = { doses", "data.inputs.doses", "not an input", "expected dose"),
    Broken("input given twice", "initial_state = {", "inputs = { dose = 1.0 }\ninitial_state = {", "data.inputs.dose", "system.inputs.dose", "only one of the two"),
    Broken("column of times observed", 'column = "plasma"', 'column = "hour"', "data.observables.level.column", "the column of data.time", "another column"),
    Broken("times as groups", 'group = "subject"', 'group = "hour"', "data.group", "the column of data.time", "another column"),
    Broken("scale of counts", 'noise = "log_normal"', 'noise = "poisson"\nsd = 1.0', "data.observables.level.sd", "1 (a number)", "poisson noise has no scale"),
    Broken("degrees of freedom of a normal", 'noise = "log_normal"', "degrees_of_freedom = 3.0", "data.observables.level.degrees_of_freedom", "3 (a number) with normal noise", "only with student_t"),
    Broken("fit of an unknown parameter", "[fit.parameters.absorption_rate]", "[fit.parameters.absorption]", "fit.parameters.absorption", "(its value: a table)", 'nearest is "absorption_rate"'),
    Broken("fit of an unknown state", "[fit.noise.level]", "[fit.initial_state.blood]", "fit.initial_state.blood", "not a state", "gut or concentration"),
    Broken("noise of no observable", "[fit.noise.level]", "[fit.noise.levels]", "fit.noise.levels", "not an observable", "expected level"),
    Broken("noise that is given", 'noise = "log_normal"', 'noise = "log_normal"\nsd = 0.1', "fit.noise.level", "data.observables.level.sd = 0.1", "only one of the two"),
    Broken("noise of counts", 'noise = "log_normal"', 'noise = "poisson"', "fit.noise.level", "poisson", "another noise model"),
    Broken("least squares of counts", "starts = 4", 'starts = 4\nmethod = "least_squares"\n[fit.initial_state.gut]\nprior = { type = "gamma", shape = 2, rate = 1 }', "fit.method", "the prior of gut", '"minimise"'),
    Broken("unknown optimiser", "starts = 4", 'starts = 4\nmethod = "newton"', "fit.method", '"newton"', 'nearest is "newton_cg"'),
    Broken("trust region on squares of counts", "starts = 4", 'starts = 4\nmethod = "levenberg_marquardt"\n[fit.initial_state.gut]\nprior = { type = "gamma", shape = 2, rate = 1 }', "fit.method", 'is "levenberg_marquardt", and the prior of gut', '"trust_region_newton"'),
    Broken("unknown option of an optimiser", "starts = 4", 'starts = 4\nmethod = "newton_cg"\noptions = { rtoll = 1e-6 }', "fit.options.rtoll", "not an option of newton_cg (its value: 1e-06)", 'rtol, atol, noise or products (nearest is "rtol")'),
    Broken("option of another optimiser", "starts = 4", 'starts = 4\nmethod = "newton_cg"\noptions = { learning_rate = 0.1 }', "fit.options.learning_rate", "not an option of newton_cg", "rtol, atol, noise or products"),
    Broken("text for an option", "starts = 4", 'starts = 4\nmethod = "newton_cg"\noptions = { rtol = "tight" }', "fit.options.rtol", '"tight" (text)', "a finite number"),
    Broken("fraction for a whole option", "starts = 4", 'starts = 4\nmethod = "lbfgsb"\noptions = { memory = 2.5 }', "fit.options.memory", "2.5 (a number)", "a whole number of at least 1"),
    Broken("negative option", "starts = 4", 'starts = 4\nmethod = "cubic_newton"\noptions = { rtol = -1e-6 }', "fit.options.rtol", "-1e-06 (a number)", "a finite number of at least 0"),
    Broken("options of auto", "starts = 4", "starts = 4\noptions = { rtol = 1e-6 }", "fit.options", 'the method "auto", which takes no options', "trust_region_newton"),
    Broken("bounds crossed", "lower = 0.1", "lower = 11.0", "fit.parameters.absorption_rate.lower", "11", "below 10"),
    Broken("bound outside what is declared", "lower = 0.1", "lower = -0.1", "fit.parameters.absorption_rate.lower", "-0.1", "of at least 0"),
    Broken("uniform prior crossed", 'type = "log_normal", median = 1.0, sd = 0.5', 'type = "uniform", lower = 3, upper = 2', "fit.parameters.absorption_rate.prior.lower", "3", "below prior.upper = 2"),
    Broken("uniform prior beyond the bounds", 'type = "log_normal", median = 1.0, sd = 0.5', 'type = "uniform", lower = 1, upper = 20', "fit.parameters.absorption_rate.prior.upper", "20", "from 0.1 to 10"),
    Broken("prior beyond the bounds", "median = 1.0", "median = 50.0", "fit.parameters.absorption_rate.prior.median", "50", "from 0.1 to 10"),
    Broken("start beyond the bounds", "[0.5, 5.0]", "[0.5, 50.0]", "fit.parameters.absorption_rate.start[1]", "50", "between 0.1 and 10"),
    Broken("start on a bound", "[0.5, 5.0]", "[0.1, 5.0]", "fit.parameters.absorption_rate.start[0]", "0.1", "between 0.1 and 10"),
    Broken("start crossed", "[0.5, 5.0]", "[5.0, 0.5]", "fit.parameters.absorption_rate.start[0]", "5", "below 0.5"),
    Broken("value beyond the bounds", "absorption_rate = 1.5", "absorption_rate = 15.0", "system.parameters.absorption_rate", "15", "as fit.parameters.absorption_rate says"),
    Broken("logarithm of negative numbers", "[fit.noise.level]\nstart = [0.1, 1.0]", '[fit.initial_state.gut]\nscale = "log"\nlower = -1.0', "fit.initial_state.gut.lower", "-1", "at least 0"),
    Broken("logit without a bound", "upper = 10.0\nscale = \"log\"", 'scale = "logit"', "fit.parameters.absorption_rate.scale", "without the bound upper", "both bounds"),
    Broken("a value for each of no groups", 'group = "subject"\n', "", "fit.parameters.absorption_rate.each", "without data.group", "data.group"),
    Broken("no format", '["png"]', "[]", "output.formats", "is empty", "at least one of png"),
]  # fmt: skip

DATA_FILE = [
    Broken("file that is not there", '"data.csv"', '"dato.csv"', "data.file", '"dato.csv"', "a CSV file"),
    Broken("folder instead of a file", '"data.csv"', '"."', "data.file", "a folder", "a CSV file"),
    Broken("missing column", 'column = "plasma"', 'column = "plasm"', "data.observables.level.column", '"plasm"', 'nearest is "plasma"'),
    Broken("missing column of times", 'time = "hour"', 'time = "day"', "data.time", '"day"', "subject, hour, plasma or dose"),
    Broken("missing column of inputs", '{ dose = "dose" }', '{ dose = "Dosis" }', "data.inputs.dose", '"Dosis"', 'nearest is "dose"'),
    Broken("time before the start", "start = 0.0", "start = 0.75", "line 3", "0.5", "at least times.start = 0.75"),
    Broken("time after the end", "stop = 25.0", "stop = 20.0", "line 7", "24", "at most times.stop = 20"),
    _in_data("text in a column of numbers", "3.5", "high", 'line 5, column "plasma"', '"high" (text)', "a number, or nothing if missing"),
    _in_data("not a number in the data", "3.5", "nan", 'line 5, column "plasma"', '"nan"', "a number"),
    _in_data("infinity in the data", "3.5", "inf", 'line 5, column "plasma"', '"inf"', "a number"),
    _in_data("underscore in a number", "3.5", "3_5", 'line 5, column "plasma"', '"3_5"', "a number"),
    _in_data("number too large", "3.5", "1e999", 'line 5, column "plasma"', '"1e999"', "a number"),
    _in_data("no time", "1,2.0", "1,", 'line 5, column "hour"', "is empty", "a time"),
    _in_data("no group", "1,2.0", ",2.0", 'line 5, column "subject"', "is empty", "the name of a group"),
    _in_data("no input", "3.5,4.0", "3.5,", 'line 5, column "dose"', "is empty", "a number for the input dose"),
    _in_data("input that changes", "3.5,4.0", "3.5,4.5", 'line 5, column "dose"', "4.5", '4 as in the other lines of group "1"'),
    _in_data("logarithm of zero", "3.5", "0", 'line 5, column "plasma"', "0 (a number)", "a positive number"),
    _in_data("short line", "2.0,3.5,4.0", "2.0,3.5", "line 5", "3 fields", "4, one for each column"),
    _in_data("long line", "2.0,3.5,4.0", "2.0,3.5,4.0,", "line 5", "5 fields", "4, one for each column"),
    _in_data("column twice", "plasma,dose", "plasma,plasma", "line 2", '"plasma" twice', "a name of its own"),
    _in_data("nothing measured", "\n1,0.5,2.5,4.0\n1,1.0,,4.0\n1,2.0,3.5,4.0\n2,0.5,2.0,5.0\n2,24.0,1.0,5.0", "\n1,1,,4", 'column "plasma"', "no measurement", "the observable level"),
    _in_data("empty file", DATA, "", "line 1", "is missing", "the column names"),
    _in_data("open quote", "3.5", '"3.5', "data.csv", "cannot be read as CSV", "a CSV file"),
    _in_data("other encoding", "two subjects", "zwei M\udce4nner", "data.csv", "not UTF-8", "a CSV file in UTF-8"),
]  # fmt: skip

ALL = [*STRUCTURE, *MEANING, *DATA_FILE]


def _write(folder: Path, case: str, data: str = DATA) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.csv").write_bytes(data.encode(errors="surrogateescape"))
    (folder / "case.toml").write_text(case)
    return folder / "case.toml"


def _refusal(folder: Path, case: Path, *arguments: str, command: str = "fit") -> str:
    """The sentence with which the command line refuses a case, and nothing else."""
    output = folder / "output"
    output.mkdir()
    (output / "result.h5").write_bytes(b"an older result")
    words = [command, str(case), "-o", str(output), "--overwrite", *arguments]
    answer = CliRunner().invoke(cli, words)
    assert answer.exit_code == 2, answer.output
    assert answer.stdout == ""
    assert answer.stderr.startswith("Error: ")
    assert answer.stderr.count("\n") == 1
    assert answer.stderr.endswith(".\n")
    assert "Traceback" not in answer.stderr
    assert ", expected " in answer.stderr
    assert [path.name for path in output.iterdir()] == ["result.h5"]
    assert (output / "result.h5").read_bytes() == b"an older result"
    return answer.stderr


def test_the_unbroken_case_is_well(tmp_path: Path) -> None:
    answer = CliRunner().invoke(cli, ["check", "--static", str(_write(tmp_path, CASE))])
    assert answer.exit_code == 0, answer.output
    assert "4 measurements of 2 groups" in answer.stdout


@pytest.mark.parametrize("broken", ALL, ids=[broken.name for broken in ALL])
def test_a_broken_case_is_refused_in_one_sentence(tmp_path: Path, broken: Broken) -> None:
    text = DATA if broken.in_data else CASE
    assert broken.old in text
    changed = text.replace(broken.old, broken.new, 1)
    case = _write(tmp_path, *((CASE, changed) if broken.in_data else (changed,)))
    sentence = _refusal(tmp_path, case)
    assert ("data.csv" if broken.in_data else str(case.parent)) in sentence
    for part in (broken.key, broken.came, broken.expected):
        assert part in sentence


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("fit.strts=3", ["fit.strts", 'nearest is "starts"']),
        ("fit.starts=many", ["fit.starts", '"many" (text)', "a whole number"]),
        ("fit.starts.x=3", ["fit.starts", "4 (a whole number)", "a table"]),
        ("fit.starts", ["has no =", "fit.starts=64"]),
        ("fit starts=3", ["a key such as fit.starts"]),
        ("=3", ["a key such as fit.starts"]),
        ("times.stop=-3", ["times.stop", "-3", "above times.start = 0"]),
        ("data.file=none.csv", ["data.file", '"none.csv"', "a CSV file"]),
    ],
)
def test_a_broken_override_is_refused(tmp_path: Path, override: str, parts: list[str]) -> None:
    sentence = _refusal(tmp_path, _write(tmp_path, CASE), "--set", override)
    for part in [*parts, override.partition("=")[0]]:
        assert part in sentence


def test_the_blame_goes_to_the_override_only_where_it_is_due(tmp_path: Path) -> None:
    case = _write(tmp_path, CASE.replace("starts = 4", "starts = 0"))
    assert "--set" not in _refusal(tmp_path, case, "--set", "fit.seed=3")


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("[data]", "[dat]", ["dat", 'nearest is "data"']),
        ("stop = 10", "stop = 0", ["times.stop", "above times.start"]),
        ('"Milstein"', '"Tsit5"', ["method.type", "ordinary", "EulerMaruyama or Milstein"]),
        ('"Milstein"', '"StratonovichHeun"', ["method.type", "Stratonovich", "Ito SDE"]),
        ('"Milstein"', '"ShARK"', ["method.type", "additive noise", "diagonal noise"]),
        ("step = 0.1", "rtol = 1e-6", ["method.rtol", "does not take", "options of Milstein: step,"]),
        ("step = 0.1", "step = 1e-6", ["method.step", "1e+07 steps", "max_steps"]),
        ("members = 5", 'members = 5\nengine = "nativ"', ["ensemble.engine", '"nativ"', 'nearest is "native"']),
        ("members = 5", "members = -5", ["ensemble.members", "-5", "from 1"]),
        ("mean = 0.1", "mean = nan", ["ensemble.parameters.growth_rate.mean", "nan"]),
        ("growth_rate", "growth", ["ensemble.parameters.growth", 'nearest is "growth_rate"']),
        ("growth_rate", "volatility", ["ensemble.parameters.volatility.mean", "at least 0"]),
        ("stop = 10", "", ["times.stop", "is missing", "the end"]),
    ],
)  # fmt: skip
def test_a_broken_simulation_is_refused(
    tmp_path: Path, old: str, new: str, parts: list[str]
) -> None:
    text = """\
schema = 1
title = "Noise"
system.type = "GeometricBrownianMotion"
[times]
stop = 10
[method]
type = "Milstein"
step = 0.1
[ensemble]
members = 5
parameters = { growth_rate = { type = "normal", mean = 0.1, sd = 0.1 } }
"""
    if old == "[data]":
        text += "[data]\n"
    mean = ("mean = 0.1", "mean = -0.1") if new == "volatility" else ("", "")
    case = _write(tmp_path, text.replace(old, new, 1).replace(*mean))
    sentence = _refusal(tmp_path, case, command="simulate")
    for part in ["case.toml", *parts]:
        assert part in sentence


@pytest.mark.parametrize(
    ("without", "key"),
    [("data", "fit"), ("fit", "uncertainty"), ("fit and uncertainty", "fit is missing")],
)
def test_tables_that_need_each_other(tmp_path: Path, without: str, key: str) -> None:
    tables = CASE.split("\n[")
    kept = [table for table in tables if table.partition(".")[0].rstrip("]\n") not in without]
    kept = [table for table in kept if not table.startswith(tuple(without.split(" and ")))]
    sentence = _refusal(tmp_path, _write(tmp_path, "\n[".join(kept)))
    assert key in sentence


def test_nothing_free(tmp_path: Path) -> None:
    start, end = CASE.index("[fit.parameters"), CASE.index("[uncertainty")
    text = (CASE[:start] + CASE[end:]).replace('"log_normal"', '"log_normal"\nsd = 0.1', 1)
    sentence = _refusal(tmp_path, _write(tmp_path, text))
    assert "fit leaves nothing free" in sentence


def test_a_fit_of_a_stochastic_system(tmp_path: Path) -> None:
    text = CASE.replace('"OneCompartmentOral"', '"GeometricBrownianMotion"')
    for gone in ("parameters = { absorption_rate = 1.5, volume = 0.5 }\n",
                 "initial_state = { concentration = 0.0 }\n",
                 'inputs = { dose = "dose" }\n', "rtol = 1e-8\n"):  # fmt: skip
        text = text.replace(gone, "")
    text = text.replace('"Tsit5"', '"Milstein"').replace('"concentration"', '"x"')
    text = text.replace("fit.parameters.absorption_rate", "fit.parameters.volatility")
    assert "which is stochastic" in _refusal(tmp_path, _write(tmp_path, text))


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_a_case_that_is_no_file_of_text(tmp_path: Path, kind: str) -> None:
    case = tmp_path / "case.toml"
    if kind == "folder":
        case.mkdir()
    if kind == "binary":
        case.write_bytes(b"\x89HDF\r\n\x1a\n\x00\xff")
    sentence = _refusal(tmp_path, case)
    assert str(case) in sentence
    assert {"missing": "does not exist", "folder": "is a folder", "binary": "is not text"}[
        kind
    ] in sentence


def test_names_cannot_break_the_sentence(tmp_path: Path) -> None:
    text = CASE.replace("starts = 4", '"st\\u001b[31m\\narts" = 4')
    assert "\x1b" not in _refusal(tmp_path, _write(tmp_path, text))


def test_check_tells_every_mistake(tmp_path: Path) -> None:
    text = CASE.replace("starts = 4", "strts = 4").replace("stop = 25.0", "stop = true")
    answer = CliRunner().invoke(cli, ["check", str(_write(tmp_path, text))])
    assert answer.exit_code == 2
    assert len(answer.stderr.splitlines()) == 2
    assert "fit.strts" in answer.stderr
    assert "times.stop" in answer.stderr
