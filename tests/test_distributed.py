"""Several processes give the results of one, and none of them waits for one that is dead."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from solvers.distributed import check_arguments, find_launcher, gather, global_rows, initialise
from solvers.process_watch import Watch
from solvers.sharding import make_mesh, row_map

from .helpers_distributed import assert_equal_results, on_one_device, read_report


ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def run_processes(kind: str, rooms: str, devices: int) -> list[tuple[int, str, str, float]]:
    """Exit code, stdout, stderr and time of the end of two processes on the loopback."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "tests.helpers_distributed", kind, rooms]
    port = free_port()
    running = [
        subprocess.Popen(
            [*command, str(port), str(index), "2"],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    ended = []
    for process in running:
        try:
            out, err = process.communicate(timeout=300)
        finally:
            process.kill()
        ended.append((process.returncode, out, err, time.monotonic()))
    return ended


@pytest.mark.slow
def test_two_processes_of_four_devices_give_the_results_of_one():
    """Gradient, Gauss-Newton, products, Hessian, chains, whole fits; a gradient of solves."""
    rooms = "gradient,curves"
    ended = run_processes("processes", rooms, 4)
    assert [code for code, *_ in ended] == [0, 0], ended[0][2] + ended[1][2]
    reports = [read_report(out) for _, out, _, _ in ended]
    assert reports[0] == reports[1]
    for room in rooms.split(","):
        assert_equal_results(reports[0][room], on_one_device(room))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["killed", "killed_asleep"])
def test_a_process_that_is_killed_ends_the_other_with_one_sentence(kind):
    """Whether the other is in a collective, which never ends, or elsewhere."""
    (code, out, err, ended), (killed, last, *_) = run_processes(kind, "none", 1)
    assert killed == -9
    assert read_report(out)["sum"] == 12.0
    assert code == 1, err
    assert "error: Process 1 of 2 died or failed, so process 0 stops." in err
    assert "Traceback" not in err
    assert ended - read_report(last)["end"] < 30


@pytest.mark.slow
def test_a_process_that_fails_ends_the_other_and_itself():
    (first, last, err, _), (second, _, other, ended) = run_processes("failed", "none", 1)
    assert first == 1 and "ValueError: this process alone cannot go on" in err
    assert second == 1 and "Process 0 of 2 died or failed, so process 1 stops." in other
    assert ended - read_report(last)["end"] < 30


def watches(losses):
    """Two watches of one process, connected."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    one, two = (Watch(index, 2, losses.append) for index in range(2))
    two.connect("127.0.0.1", port, "token")
    one.accept(listener, "token")
    return one, two


def test_a_watch_lets_go_who_leaves_in_good_order():
    losses: list[str] = []
    one, two = watches(losses)
    thread = threading.Thread(target=two.finish)
    thread.start()
    one.finish()
    thread.join(timeout=10)
    assert not thread.is_alive() and losses == []


def test_a_watch_hears_of_a_loss_once():
    losses: list[str] = []
    one, two = watches(losses)
    two.fail(wait=False)
    deadline = time.monotonic() + 10
    while not losses and time.monotonic() < deadline:
        time.sleep(0.01)
    assert losses == ["Process 1 of 2 died or failed, so process 0 stops."]
    one.fail(wait=False)
    assert len(losses) == 1


def test_an_error_after_a_loss_waits_until_the_loss_is_told():
    """Else the traceback of a broken collective would come in place of the sentence."""
    losses = Slow()
    one, two = watches(losses)
    two.fail(wait=False)
    one.fail(wait=True)
    assert losses == ["Process 1 of 2 died or failed, so process 0 stops."]


class Slow(list[str]):
    """What takes its time to be told."""

    def append(self, sentence: str) -> None:
        time.sleep(1.0)
        super().append(sentence)


def test_a_stranger_is_no_process():
    listener = socket.create_server(("127.0.0.1", 0))
    watch = Watch(0, 2, print)
    with socket.create_connection(listener.getsockname()) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\n")
        with pytest.raises(RuntimeError, match="Process 1 of 2 did not connect"):
            watch.accept(listener, "token", timeout=0.5)


def test_one_process_alone_needs_nothing(monkeypatch):
    for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with initialise() as processes:
        assert (processes.index, processes.count, processes.is_first) == (0, 1, True)
    with initialise(processes=1) as processes:
        assert processes.count == 1
    mesh = make_mesh()
    found = row_map(lambda p, row: p * row, mesh)(2.0, global_rows(np.arange(3.0), mesh))
    np.testing.assert_array_equal(gather(found), [0, 2, 4, 0])


LAUNCHERS = [
    ({}, None),
    ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "n[1-2]"}, "SLURM"),
    ({"SLURM_NTASKS": "4"}, None),
    ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n1"}, None),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, "Kubernetes"),
]


@pytest.mark.parametrize(("environment", "launcher"), LAUNCHERS)
def test_launchers_are_found(environment, launcher):
    assert find_launcher(environment) == launcher


BAD = {
    "incomplete": (
        ("host:1234", None, 2, None),
        "without process_id only SLURM, Open MPI or Kubernetes could tell",
    ),
    "no processes": (("host:1234", 0, 0, None), "`processes` is 0, expected 1 or more"),
    "a process too many": (("host:1234", 2, 2, None), "`process_id` is 2, expected 0 to 1"),
    "no port": (("host", 0, 2, None), "`coordinator` is 'host', expected HOST:PORT"),
    "no client": ((None, None, None, "Kubernetes"), "package `kubernetes` finds the other"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_told_in_a_sentence(case):
    arguments, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        check_arguments(*arguments)


def test_joining_too_late_is_told_in_a_sentence():
    make_mesh()
    with (
        pytest.raises(RuntimeError, match="jax computes already, so this process cannot join"),
        initialise(f"127.0.0.1:{free_port()}", 0, 2),
    ):
        pass


def test_a_taken_port_is_told_in_a_sentence():
    with (
        socket.create_server(("", 0)) as server,
        pytest.raises(RuntimeError, match="cannot listen at port"),
        initialise(f"127.0.0.1:{server.getsockname()[1]}", 0, 2),
    ):
        pass


@pytest.mark.slow
def test_others_that_do_not_come_are_waited_for_so_long():
    code = (
        "from solvers.distributed import initialise\n"
        f"with initialise('127.0.0.1:{free_port()}', 1, 2, timeout=3): pass"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "error: The processes did not come together within 3 s" in done.stderr
