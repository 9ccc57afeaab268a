"""Where a result comes from."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from simkit.provenance import PACKAGES, collect, device, git_state, versions


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    answer = subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return answer.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


def commit(folder: Path) -> str:
    (folder / "model.py").write_text("rate = 1\n")
    git(folder, "add", "model.py")
    git(folder, "commit", "-q", "-m", "first")
    return git(folder, "rev-parse", "HEAD")


def test_the_commit_is_named(repository: Path):
    name = commit(repository)
    assert git_state(repository) == name
    (repository / "result.h5").write_text("not tracked")
    assert git_state(repository) == name
    (repository / "inside").mkdir()
    assert git_state(repository / "inside") == name


def test_changes_are_told(repository: Path):
    name = commit(repository)
    (repository / "model.py").write_text("rate = 2\n")
    assert git_state(repository) == f"{name} (changed)"
    git(repository, "add", "model.py")
    assert git_state(repository) == f"{name} (changed)"


def test_no_commit_no_state(repository: Path):
    assert git_state(repository) == ""


def test_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) == ""


def test_without_git(repository: Path, monkeypatch: pytest.MonkeyPatch):
    commit(repository)
    monkeypatch.setenv("PATH", str(repository))
    assert git_state(repository) == ""


def test_a_foreign_repository_starts_no_program(repository: Path):
    commit(repository)
    program = repository / "monitor.sh"
    program.write_text("#!/bin/sh\ntouch started\n")
    program.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(program))
    assert git_state(repository) != ""
    assert not (repository / "started").exists()


def test_every_version_is_there():
    found = versions()
    assert set(found) == {"python", *PACKAGES}
    assert "not installed" not in found.values()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("simkit.provenance.PACKAGES", ("numpy", "no-such-package"))
    assert versions()["no-such-package"] == "not installed"


def test_the_devices_are_named():
    import jax

    assert device() == f"cpu, cpu, {jax.device_count()} devices"


def test_no_jax_no_device():
    program = (
        "import sys, simkit.provenance as p; print(repr(p.device()), 'jax' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert answer.stdout.split() == ["''", "False"]


def test_a_whole_record(repository: Path, monkeypatch: pytest.MonkeyPatch):
    name = commit(repository)
    monkeypatch.chdir(repository)
    started = datetime.now(UTC)
    record = collect("simkit fit case.toml", "schema = 1\n", '{"schema": 1}', 7, started)
    assert record.command == "simkit fit case.toml"
    assert record.case_text == "schema = 1\n"
    assert record.configuration == '{"schema": 1}'
    assert record.seed == 7
    assert record.git_state == name
    assert json.loads(record.versions) == versions()
    assert record.device == device()
    assert datetime.fromisoformat(record.started) == started.replace(microsecond=0)
    assert datetime.fromisoformat(record.stopped) >= started.replace(microsecond=0)
    assert str(repository) not in repr(record)


def test_a_time_needs_its_zone():
    with pytest.raises(ValueError, match="a time with its zone"):
        collect("", "", "{}", 0, datetime(2026, 1, 2))
