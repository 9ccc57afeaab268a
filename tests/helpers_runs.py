"""The command line in processes of its own, which start quickly.

As a program, `python -m tests.helpers_runs`, it imports once what a run needs and then forks
for each run that it is asked for; jax starts in the fork, so each is a whole process like any
other, and can be killed. Requests come as lines of JSON, and so go the answers.
"""

import contextlib
import dataclasses
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from simkit.results import Fit, Provenance, Trajectory
from simkit.store.reader import load
from simkit.store.segments import read_segment, segment_indices


ROOT = Path(__file__).resolve().parent.parent
FLAGS = "--xla_cpu_collective_call_terminate_timeout_seconds=1000000"
"""Devices of a busy machine may meet late, for which XLA would end the process."""

DECAY = """\
from systems.base import AbstractODE, State, parameter


class Decay(AbstractODE):
    rate: float = parameter(1.0, positive=True)
    states = (State("amount", 1.0),)

    def vector_field(self, t, y, inputs):
        return -self.rate * y
"""
_HEAD = """\
schema = 1
title = "A run that is stopped"
output = { plots = false, report = false }
"""
ODE = f"""{_HEAD}
system.type = "own_decay:Decay"
times = {{ stop = 2, save_every = 0.2 }}
[ensemble]
members = 598
segment = 4
seed = 7
parameters = {{ rate = {{ type = "uniform", lower = 0.5, upper = 2 }} }}
"""
SDE = f"""{_HEAD}
system.type = "OrnsteinUhlenbeck"
times = {{ stop = 1, save_every = 0.2 }}
method = {{ type = "EulerMaruyama", step = 0.05 }}
[ensemble]
members = 598
segment = 4
seed = 3
"""
FIT = f"""{_HEAD}
system.type = "own_decay:Decay"
[data]
file = "seen.csv"
time = "time"
observables = {{ amount = {{ column = "amount", state = "amount", sd = 0.02 }} }}
[fit]
method = "lbfgsb"
starts = 120
segment = 2
parameters = {{ rate = {{ start = [0.2, 3.0] }} }}
"""
CASES = {"ode": ("simulate", ODE), "sde": ("simulate", SDE), "fit": ("fit", FIT)}


def write_case(folder: Path, kind: str, **replaced: str) -> Path:
    """A case of `CASES`; `replaced` gives other values to keys that stand on their own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own_decay.py").write_text(DECAY)
    times = np.linspace(0.1, 2.0, 8)
    seen = np.exp(-1.3 * times) + 0.02 * np.sin(7 * times)
    rows = [f"{t:.4f},{x:.6f}" for t, x in zip(times, seen, strict=True)]
    (folder / "seen.csv").write_text("\n".join(["time,amount", *rows]) + "\n")
    lines = CASES[kind][1].splitlines()
    for name, value in replaced.items():
        places = [i for i, line in enumerate(lines) if line.startswith(f"{name} = ")]
        assert len(places) == 1
        lines[places[0]] = f"{name} = {value}"
    (folder / "case.toml").write_text("\n".join(lines) + "\n")
    return folder / "case.toml"


@dataclasses.dataclass
class Run:
    """A process of the command line."""

    server: "Server"
    pid: int
    stdout: Path
    stderr: Path

    def wait(self, timeout: float = 900.0) -> int:
        """Its exit code, negative for a signal that killed it."""
        return self.server.wait(self.pid, timeout)

    def signal(self, number: int) -> None:
        """Send a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def errors(self) -> str:
        """What it wrote to stderr."""
        return self.stderr.read_text()


class Server:
    """Starts runs of the command line."""

    def __init__(self, folder: Path, **environment: str):
        """`folder` keeps the programs that jax compiles, and what the runs print."""
        self.folder = folder
        self._ended: dict[int, int] = {}
        self._buffer = b""
        self._number = 0
        kept = {k: v for k, v in os.environ.items() if k != "SIMKIT_CACHE"}
        # The last two are what the command line sets before it imports jax.
        flags = {"XLA_FLAGS": FLAGS, "EQX_ON_ERROR": "nan", "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers_runs"],
            cwd=ROOT,
            env={**kept, **flags, "XDG_CACHE_HOME": str(folder), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start(self, *words: object, file_limit: int | None = None) -> Run:
        """Start `simkit WORDS`; no file may grow above `file_limit` bytes."""
        self._number += 1
        out, err = (self.folder / f"{self._number}.{name}" for name in ("out", "err"))
        request = {
            "words": [str(word) for word in words],
            "out": str(out),
            "err": str(err),
            "file_limit": file_limit,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        while (answer := self._read(60.0)).get("started") is None:
            self._ended[answer["ended"]] = answer["code"]
        return Run(self, answer["started"], out, err)

    def run(self, *words: object, code: int = 0, file_limit: int | None = None) -> Run:
        """A run to its end, which must be this exit code."""
        run = self.start(*words, file_limit=file_limit)
        found = run.wait()
        assert found == code, run.errors
        return run

    def wait(self, pid: int, timeout: float) -> int:
        """The exit code of a process that was started."""
        deadline = time.monotonic() + timeout
        while pid not in self._ended:
            answer = self._read(deadline - time.monotonic())
            self._ended[answer["ended"]] = answer["code"]
        return self._ended.pop(pid)

    def close(self) -> None:
        """End the server; its runs are ended before."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self, timeout: float) -> dict[str, int]:
        stream = self._process.stdout
        assert stream is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            deadline = time.monotonic() + timeout
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"no answer within {timeout:.0f} s")
                part = os.read(stream.fileno(), 65536)
                if not part:
                    raise RuntimeError("the server of the runs has ended")
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


@contextlib.contextmanager
def serving(folder: Path, **environment: str) -> Iterator[Server]:
    """A server for the length of a `with` block."""
    server = Server(folder, **environment)
    try:
        yield server
    finally:
        server.close()


def kept_segments(output: Path) -> list[int]:
    """The segments of an unfinished run, all of which must be whole."""
    folder = output / ".run"
    found = segment_indices(folder) if folder.is_dir() else []
    for index in found:
        assert read_segment(folder, index)
    return found


def wait_for_segments(output: Path, count: int, timeout: float = 120.0) -> None:
    """Wait until so many segments are kept."""
    folder, deadline = output / ".run", time.monotonic() + timeout
    while not folder.is_dir() or len(segment_indices(folder)) < count:
        assert time.monotonic() < deadline, f"no {count} segments within {timeout:.0f} s"
        time.sleep(0.005)


def result_of(output: Path) -> Trajectory | Fit:
    """The result of a finished run, of which nothing else is left."""
    assert not (output / ".run").exists()
    assert not list(output.glob(".*"))
    return load(output / "result.h5")


def differences(one: Any, other: Any, tolerance: float = 0.0, where: str = "") -> list[str]:
    """Where two results differ; without tolerance, in which bits. Provenance may differ."""
    if isinstance(one, Provenance):
        return []
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        one, other = vars(one), vars(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        pairs = ((name, one[name], other[name]) for name in one)
        return [
            text for n, a, b in pairs for text in differences(a, b, tolerance, f"{where}.{n}")
        ]
    a, b = np.asarray(one), np.asarray(other)
    if tolerance and a.dtype.kind == "f":
        same = a.shape == b.shape and np.allclose(a, b, tolerance, tolerance, equal_nan=True)
    elif a.dtype.kind in "fiub":
        same = (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()
    else:
        same = bool(np.all(a == b))
    return [] if same else [where]


def _serve() -> None:
    """Fork for each request, and tell of each child that ended."""
    # All that a run imports; no device is started.
    import simkit.cli
    import simkit.fitting.fit
    import simkit.fitting.uncertainty
    import simkit.store.writer  # noqa: F401
    import solvers.distributed  # noqa: F401

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer.fileno())
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin.buffer, selectors.EVENT_READ)
    selector.register(reader, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is reader:
                reader.recv(4096)
                _tell_ended()
            else:
                line = sys.stdin.buffer.readline()
                if not line:
                    return
                pid = os.fork()
                if pid == 0:
                    _become(json.loads(line))
                _tell({"started": pid})


def _become(request: dict[str, Any]) -> None:
    """In the fork: the command line, which ends the process."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, mode in ((0, "r"), (1, "w"), (2, "w")):
            name = [os.devnull, request["out"], request["err"]][number]
            with open(name, mode) as file:
                os.dup2(file.fileno(), number)
        if request["file_limit"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
        sys.argv = ["simkit", *request["words"]]
        from simkit.cli import main

        main()
    finally:
        os._exit(99)


def _tell_ended() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _tell({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _tell(answer: dict[str, int]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve()
