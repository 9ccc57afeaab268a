"""Commands that read result files."""

import json
from pathlib import Path

import click
import numpy as np
import pytest

from simkit.cli.application import cli
from simkit.cli.options import Size
from simkit.store.writer import save

from .helpers_cli import run
from .samples import sample_ensemble, sample_trajectory


def test_show_tells_what_is_in_a_file(tmp_path: Path) -> None:
    save(sample_ensemble(), tmp_path / "result.h5")
    answer = run("show", tmp_path / "result.h5")
    assert answer.exit_code == 0, answer.output
    assert "12 members" in answer.stdout
    assert "member 12 x time 21" in answer.stdout
    values = json.loads(run("show", tmp_path / "result.h5", "--json").stdout)
    assert values["result"]["succeeded"] == 11
    assert "/states/prey" in {item["path"] for item in values["variables"]}


def test_show_tells_what_is_in_a_foreign_file(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.arange(3)
    values = json.loads(run("show", tmp_path / "other.h5", "--json").stdout)
    assert values["result"] is None
    assert [item["path"] for item in values["variables"]] == ["/numbers"]
    for command in ("plot", "report"):
        answer = run(command, tmp_path / "other.h5")
        assert answer.exit_code == 2
        assert "not a result file of simkit" in answer.stderr
    (tmp_path / "text.h5").write_text("no HDF5")
    assert run("show", tmp_path / "text.h5").exit_code == 2


def test_plot_and_report_write_and_do_not_overwrite(tmp_path: Path) -> None:
    file = tmp_path / "result.h5"
    save(sample_trajectory(), file)
    answer = run("plot", file, "--format", "png")
    assert answer.exit_code == 0, answer.output
    written = answer.stdout.split()
    assert written == [str(path) for path in sorted((tmp_path / "figures").iterdir())[::-1]]
    assert run("plot", file, "--format", "png").exit_code == 2
    assert run("plot", file, "--format", "png", "--overwrite").exit_code == 0
    answer = run("report", file, "--json")
    assert answer.exit_code == 0, answer.output
    report = Path(json.loads(answer.stdout)["report"])
    assert report == tmp_path / "report.html"
    report.write_text("mine")
    assert run("report", file).exit_code == 2
    assert report.read_text() == "mine"


def test_every_command_that_reads_a_result_takes_max_bytes() -> None:
    readers = {
        name
        for name, command in cli.commands.items()
        if any(parameter.name == "file" for parameter in command.params)
    }
    assert {"show", "plot", "report", "export"} <= readers
    for name in readers:
        assert "max_bytes" in {parameter.name for parameter in cli.commands[name].params}


def test_a_file_larger_than_allowed_is_refused_until_more_is_allowed(tmp_path: Path) -> None:
    save(sample_trajectory(), tmp_path / "result.h5")
    for command in ("show", "report", "export"):
        answer = run(command, tmp_path / "result.h5", "--max-bytes", "100")
        assert answer.exit_code == 2, answer.output
        assert "a larger --max-bytes allows it" in answer.stderr
        assert answer.stderr.count("\n") == 1
        answer = run(command, tmp_path / "result.h5", "--max-bytes", "1M")
        assert answer.exit_code == 0, answer.output


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100", 100),
        ("20G", 20 * 1024**3),
        ("1.5k", 1536),
        ("2m", 2 * 1024**2),
        ("7P", 7 * 1024**5),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "1e9", "20 GB", "0", "9" * 400, "9000P", "0.1"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size"):
        Size().convert(text, None, None)
