"""Several processes and devices share a run of the command line, and give the same result."""

import os
import signal
import socket
import time

import pytest

from .helpers_runs import (
    CASES,
    Run,
    Server,
    differences,
    kept_segments,
    result_of,
    serving,
    wait_for_segments,
    write_case,
)


SMALL = {"ode": "21", "sde": "21", "fit": "6"}
"""Members or starts: these tests are about who computes what, not about how much."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("cache")) as server:
        yield server


def start_two(server: Server, *words: object) -> list[Run]:
    """Two processes on the loopback with two devices each."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    together = ("--devices", 2, "--coordinator", f"127.0.0.1:{port}", "--processes", 2)
    return [server.start(*words, *together, "--process-id", index) for index in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_two_processes_of_two_devices_give_the_result_of_one(kind, server: Server, tmp_path):
    """To 1e-12, with the same reasons to stop; and only the first one says so."""
    key = "starts" if kind == "fit" else "members"
    case = write_case(tmp_path, kind, **{key: SMALL[kind]})
    command = CASES[kind][0]
    server.run(command, case, "-o", tmp_path / "alone")
    both = start_two(server, command, case, "-o", tmp_path / "both")
    codes = [run.wait() for run in both]
    assert codes == [0, 0], both[0].errors + both[1].errors
    assert "result.h5" in both[0].stdout.read_text()
    assert both[0].errors == ""
    assert both[1].stdout.read_text() + both[1].errors == ""
    one, other = (result_of(tmp_path / name) for name in ("alone", "both"))
    assert not differences(one, other, tolerance=1e-12)
    if kind == "ode":  # each process alone has more devices than the other run
        server.run(command, case, "-o", tmp_path / "devices", "--devices", 3)
        assert not differences(one, result_of(tmp_path / "devices"), tolerance=1e-12)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other_and_the_run_goes_on(server: Server, tmp_path):
    """With one process, from the segments of both."""
    case = write_case(tmp_path, "ode")
    output = tmp_path / "out"
    first, second = start_two(server, "simulate", case, "-o", output)
    wait_for_segments(output, 4)
    second.signal(signal.SIGKILL)
    assert second.wait() == -signal.SIGKILL
    assert first.wait(60) == 1
    assert first.errors.endswith(
        "Error: Process 1 of 2 died or failed, so process 0 stops; the same command with "
        "--resume goes on from there.\n"
    )
    kept = kept_segments(output)
    assert len(kept) >= 4
    times = {i: (output / ".run" / f"segment_{i:05d}.h5").stat().st_mtime_ns for i in kept}
    run = server.start("simulate", case, "-o", output, "--resume", "--devices", 2)
    wait_for_segments(output, len(kept) + 1)
    for index, written in times.items():  # they are not computed again
        path = output / ".run" / f"segment_{index:05d}.h5"
        assert not path.exists() or path.stat().st_mtime_ns == written
    assert run.wait() == 0, run.errors
    server.run("simulate", case, "-o", tmp_path / "alone")
    one, other = (result_of(tmp_path / name) for name in ("out", "alone"))
    assert not differences(one, other, tolerance=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_process_stops_all_and_the_run_goes_on(asked, server: Server, tmp_path):
    case = write_case(tmp_path, "ode")
    words = ("simulate", case, "-o", tmp_path / "out", "--resume")
    both = start_two(server, *words)
    wait_for_segments(tmp_path / "out", 4)
    both[asked].signal(signal.SIGTERM)
    codes = [run.wait(60) for run in both]
    assert codes == [4, 4], both[0].errors + both[1].errors
    kept = kept_segments(tmp_path / "out")
    assert f"with {len(kept)} segments done; the same command" in both[0].errors
    assert both[0].errors.count("\n") == 1 and both[1].errors == ""


@pytest.mark.slow
def test_a_run_that_may_not_begin_is_refused_by_all_processes(server: Server, tmp_path):
    """By the one that holds the folder, for the others too."""
    case = write_case(tmp_path, "ode")
    words = ("simulate", case, "-o", tmp_path / "out")
    alone = server.start(*words)
    wait_for_segments(tmp_path / "out", 1)
    alone.signal(signal.SIGSTOP)
    began = time.monotonic()
    both = start_two(server, *words, "--resume")
    assert [run.wait(60) for run in both] == [2, 2]
    assert f"another run of simkit (process {alone.pid} on" in both[0].errors
    assert both[1].errors == ""
    assert time.monotonic() - began < 60
    os.kill(alone.pid, signal.SIGKILL)
    alone.wait()


@pytest.mark.slow
def test_bad_arguments_are_a_sentence(server: Server, tmp_path):
    case = write_case(tmp_path, "ode", members="8")
    for words, sentence in {
        ("--processes", 2): "Several processes need coordinator, process_id and processes",
        ("--coordinator", "host", "--process-id", 0, "--processes", 2): "expected HOST:PORT",
        ("--devices", 0): "Invalid value for '--devices'",
    }.items():
        run = server.run("simulate", case, "-o", tmp_path / "out", *words, code=2)
        assert sentence in run.errors
        assert "Traceback" not in run.errors
    assert not (tmp_path / "out" / ".run").exists()
