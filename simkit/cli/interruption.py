"""Signals and the time limit of a command: what has been computed is safe before it ends."""

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from simkit.cli.outcomes import INTERRUPTED, STOPPED, error_json


GRACE = 10.0
"""Seconds in which a segment may come to its end after a signal. Then the run ends without
it: schedulers send SIGKILL after some tens of seconds, which leaves no exit code."""

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class Interrupted(KeyboardInterrupt):
    """A signal, whichever, came where nothing has to be finished first."""


class Stopping:
    """Who asks a run to stop: signals, and the clock.

    - `signal`: the first that came, or `None`.
    - `describe`: says in a sentence where the run is, for an end at once.
    - `grace`: see `GRACE`; `None`: a segment is waited for as long as it takes.
    - `as_json`: whether an end at once is told as JSON too.
    """

    def __init__(self, time_limit: float | None = None, as_json: bool = False):
        self.as_json = as_json
        self.signal: signal.Signals | None = None
        self.describe: Callable[[], str] = lambda: self.reason
        self.grace: float | None = GRACE
        self._limit = time_limit
        self._started = time.monotonic()
        self._longest: float | None = None
        self._guarded = False

    @property
    def reason(self) -> str:
        """Why the run stops."""
        if self.signal is not None:
            interrupted = self.signal is signal.SIGINT
            return "interrupted" if interrupted else f"stopped by {self.signal.name}"
        if self._limit is None:
            return "stopped with another process"
        return f"stopped for the time limit of {self._limit:g} s"

    @property
    def exit_code(self) -> int:
        """How the process ends."""
        return INTERRUPTED if self.signal is signal.SIGINT else STOPPED

    def asked(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    def late(self) -> bool:
        """Whether another segment, as long as the longest, would pass the time limit.

        One segment is computed in any case, so that a run that is started again and again
        gets to its end.
        """
        if self._limit is None or self._longest is None:
            return False
        return time.monotonic() - self._started + self._longest > self._limit

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Within, a signal does not end the run at once."""
        began, self._guarded = time.monotonic(), True
        try:
            yield
        finally:
            self._guarded = False
            self._longest = max(self._longest or 0.0, time.monotonic() - began)

    def handle(self, number: int, frame: Any) -> None:
        """What Python calls for a signal, in the main thread."""
        del frame
        self.signal = self.signal or signal.Signals(number)
        if not self._guarded:
            raise Interrupted

    def watch(self, wakeup: socket.socket) -> None:
        """Read the numbers of signals, also while the main thread is in compiled code.

        The second ends the process at once, and so does the end of the grace.
        """
        count, deadline = 0, None
        with wakeup, selectors.DefaultSelector() as selector:
            selector.register(wakeup, selectors.EVENT_READ)
            while count < 2:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not selector.select(left):
                    break
                received = wakeup.recv(64)
                if not received:
                    return
                came = [number for number in received if number in _numbers()]
                if came and self.signal is None:
                    self.signal = signal.Signals(came[0])
                if came and count == 0 and self.grace is not None:
                    deadline = time.monotonic() + self.grace
                count += len(came)
        end_at_once(self.describe(), self.exit_code, self.as_json)


@contextlib.contextmanager
def stopping(time_limit: float | None, as_json: bool = False) -> Iterator[Stopping]:
    """Catch the signals that ask a process to end, for the length of a `with` block.

    Outside the main thread, where Python allows no handlers, only the clock counts.
    """
    stop = Stopping(time_limit, as_json)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    wakeup, writer = socket.socketpair()
    writer.setblocking(False)
    before = {number: signal.signal(number, stop.handle) for number in _numbers()}
    former = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=stop.watch, args=(wakeup,), name="signals", daemon=True).start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(former)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()


def _numbers() -> list[int]:
    return [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]


def end_at_once(sentence: str, code: int, as_json: bool = False) -> None:
    """End the process from any thread: all files are whole at any time."""
    # The progress bar hides the cursor.
    shown = "\x1b[?25h\n" if sys.stderr.isatty() else ""
    with contextlib.suppress(OSError):
        os.write(2, f"{shown}Error: {sentence}\n".encode(errors="replace"))
    if as_json:
        with contextlib.suppress(OSError, ValueError):
            os.write(
                sys.stdout.fileno(), f"{error_json(sentence, code)}\n".encode(errors="replace")
            )
    os._exit(code)
