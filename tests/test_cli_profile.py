"""`--profile`: a trace that viewers open, and seconds that add up."""

import gzip
import json
from pathlib import Path
from typing import Any

import jax
import pytest
from jax._src import monitoring

import simkit.cli.profiling
from simkit.cli.profiling import length_of_union

from .helpers_cli import SMALL, run, write_case


ENSEMBLE = """
[ensemble]
members = 4
segment = 2
engine = "diffrax"
parameters = { mass = { type = "uniform", lower = 1, upper = 2 } }
"""


def _profiled(folder: Path, *words: str) -> Any:
    case = write_case(folder, SMALL + ENSEMBLE)
    where = ["-o", folder / "out", "--profile", folder / "profile", "--json"]
    answer = run("simulate", case, *where, *words)
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)["profile"]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Any:
    jax.clear_caches()
    return _profiled(tmp_path_factory.mktemp("profiled"))


def test_the_trace_opens_in_the_usual_viewers(profile: Any) -> None:
    """Perfetto and Chrome read JSON with `traceEvents`; TensorBoard finds planes by name."""
    files = {"".join(Path(path).suffixes): Path(path) for path in profile["files"]}
    named = {Path(path).name: Path(path) for path in profile["files"]}
    assert len(named) == 3
    events = json.loads(gzip.decompress(named["perfetto_trace.json.gz"].read_bytes()))
    spans = [event for event in events["traceEvents"] if event.get("ph") == "X"]
    assert any("compile" in event["name"].lower() for event in spans)
    assert all(event["dur"] >= 0 for event in spans)
    (planes,) = [path for suffix, path in files.items() if suffix.endswith(".xplane.pb")]
    assert planes.parent.parent.parts[-2:] == ("plugins", "profile")
    assert b"/host:CPU" in planes.read_bytes()


def test_the_seconds_say_where_the_time_went(profile: Any) -> None:
    seconds = dict(profile["seconds"])
    total = seconds.pop("total")
    assert total == pytest.approx(sum(seconds.values()))
    assert set(seconds) == {"start", "trace", "lower", "compile", "run", "write"}
    assert all(value > 0 for value in seconds.values())
    assert profile["programs"] > 0
    assert profile["from_cache"] == 0


def test_words_for_people_and_nothing_where_nothing_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = write_case(tmp_path)
    listeners = len(monitoring.get_event_duration_listeners())
    answer = run("simulate", case, "-o", tmp_path / "out", "--profile", tmp_path / "profile")
    assert answer.exit_code == 0, answer.output
    assert "Seconds: " in answer.stdout
    assert "perfetto_trace.json.gz" in answer.stdout
    assert len(monitoring.get_event_duration_listeners()) == listeners

    def never(*arguments: object) -> None:
        raise AssertionError("measured although nobody asked")

    monkeypatch.setattr(simkit.cli.profiling, "_tracing", never)
    monkeypatch.setattr(simkit.cli.profiling.Profile, "__init__", never)
    answer = run("simulate", case, "-o", tmp_path / "other")
    assert answer.exit_code == 0, answer.output
    assert "Seconds" not in answer.stdout


def test_a_trace_ends_before_it_grows_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no seconds allowed it ends at once, and the clocks go on."""
    monkeypatch.setattr(simkit.cli.profiling, "TRACED_SECONDS", 0.0)
    found = _profiled(tmp_path)
    assert len(found["files"]) == 3
    assert found["seconds"]["run"] > 0


def test_a_trace_that_cannot_be_written_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        real()
        raise OSError(28, "No space left on device")

    real = jax.profiler.stop_trace
    monkeypatch.setattr(jax.profiler, "stop_trace", fail)
    answer = run(
        "simulate", write_case(tmp_path), "-o", tmp_path / "out", "--profile", tmp_path / "p"
    )
    assert answer.exit_code == 0, answer.output
    assert "No space left" in answer.stderr
    assert answer.stderr.startswith("Warning: no trace in ")
    assert (tmp_path / "out" / "result.h5").is_file()


def test_a_folder_that_cannot_be_made_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ["simulate", write_case(tmp_path), "--profile"]
    answer = run(*words, tmp_path / "file" / "profile", "-o", tmp_path / "out")
    assert answer.exit_code == 2
    assert "cannot be made" in answer.stderr
    assert not (tmp_path / "out").exists()
    answer = run(*words, tmp_path / "profile", "-o", tmp_path / "file" / "out")
    assert answer.exit_code == 2
    assert not (tmp_path / "profile").exists()


def test_overlapping_spans_count_once() -> None:
    spans = [(3.0, 4.0), (0.0, 1.0), (0.5, 2.0), (0.6, 0.7), (9.0, 12.0)]
    assert length_of_union(spans, 0.0, 10.0) == pytest.approx(4.0)
    assert length_of_union(spans, 0.75, 3.5) == pytest.approx(1.75)
    assert length_of_union([], 0.0, 1.0) == 0.0
