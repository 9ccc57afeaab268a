"""The doctor: known bad builds of jax, and numbers that are checked on this machine."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

import simkit.doctor
from simkit.cli.application import cli
from simkit.doctor import BAD_BUILDS, ROWS, compiled_squares, count_wrong_rows, examine


ROOT = Path(__file__).parent.parent


def test_this_machine_squares_right() -> None:
    assert count_wrong_rows(compiled_squares()) == 0


def test_wrong_rows_are_counted() -> None:
    def wrong_everywhere(rows: np.ndarray) -> np.ndarray:
        return np.sum(rows**2, axis=1) * (1 + 1e-9)

    def wrong_in_some(rows: np.ndarray) -> np.ndarray:
        found = np.sum(rows**2, axis=1)
        found[:7] += 1
        found[7:9] = np.nan
        return found

    assert count_wrong_rows(wrong_everywhere) == ROWS
    assert count_wrong_rows(wrong_in_some) == 9


def test_wrong_numbers_and_bad_builds_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simkit.doctor, "count_wrong_rows", lambda function: 1234)
    monkeypatch.setattr("jax.__version__", "0.10.2")
    answer = CliRunner().invoke(cli, ["doctor"])
    assert answer.exit_code == 1
    assert "jax 0.10.2 must not be used" in answer.stderr
    assert "1234 of 20000 rows" in answer.stderr


def test_a_sound_machine_is_well(tmp_path: Path) -> None:
    answer = CliRunner().invoke(cli, ["doctor", "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["faults"] == []
    assert len(found["passed"]) == 2
    assert {"python", "jax", "numpy", "simkit-jax"} <= set(found["versions"])
    assert any(device.startswith("cpu") for device in found["devices"])


def test_the_cache_is_described(tmp_path: Path) -> None:
    assert examine(None).cache == "off"
    assert "not made yet" in examine(tmp_path / "none").cache
    (tmp_path / "program").write_bytes(b"x" * 500_000)
    assert "1 files, 0.5 MB" in examine(tmp_path).cache


def test_bad_builds_cannot_be_installed_with_simkit() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [Requirement(text) for text in project["dependencies"]]
    specifier = next(item.specifier for item in requirements if item.name == "jax")
    assert "0.10.2" in BAD_BUILDS
    for version in BAD_BUILDS:
        assert version not in specifier
    for version in ("0.9.2", "0.12.0"):
        assert version in specifier
    locked = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()
              if line.startswith("jax==")]  # fmt: skip
    assert locked
    for item in locked:
        assert next(iter(item.specifier)).version not in BAD_BUILDS
