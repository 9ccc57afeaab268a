"""Processes that watch each other over sockets: a lost one is noticed at once.

When a process ends, for whatever reason, the system closes its sockets, and the other end
reads that. Process 0 is connected with all the others and tells them what it sees. Who
leaves in good order says so first.
"""

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any


_MOMENT = 0.3
"""Seconds for a message to arrive and be acted on."""
_DONE = b"done\n"
_LOST = b"lost %d\n"
_STOP = b"stop\n"


class Watch:
    """The connections of one process, and a thread that reads them."""

    def __init__(self, index: int, count: int, on_loss: Callable[[str], None]):
        """A watch without connections.

        **Arguments:**

        - `index`, `count`: which of how many processes this is.
        - `on_loss`: called once with a sentence when a process is lost.
        """
        self._index = index
        self._count = count
        self._on_loss = on_loss
        self._peers: dict[int, socket.socket] = {}
        self._done: set[int] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._told = threading.Event()
        self._acted = threading.Event()
        self._stop = threading.Event()

    def accept(self, listener: socket.socket, token: str, timeout: float = 60.0) -> None:
        """Wait for all other processes; raises `RuntimeError` if they do not come."""
        listener.settimeout(timeout)
        with contextlib.closing(listener):
            while len(self._peers) < self._count - 1:
                try:
                    peer, _ = listener.accept()
                except TimeoutError as error:
                    missing = min(set(range(1, self._count)) - set(self._peers))
                    raise RuntimeError(
                        f"Process {missing} of {self._count} did not connect to process 0."
                    ) from error
                peer.settimeout(timeout)
                index = _introduce(peer, token)
                if index is None:
                    # A stranger, such as a scanner of ports.
                    peer.close()
                else:
                    self._peers[index] = peer
        self._start()

    def connect(self, host: str, port: int, token: str, timeout: float = 60.0) -> None:
        """Connect to process 0; raises `RuntimeError` if that fails."""
        try:
            peer = socket.create_connection((host, port), timeout=timeout)
            peer.sendall(f"{token} {self._index}\n".encode())
        except OSError as error:
            raise RuntimeError(
                f"Process {self._index} cannot connect to process 0 at {host}:{port} "
                f"({error}); a firewall between the machines?"
            ) from error
        self._peers[0] = peer
        self._start()

    def others_are_done(self, timeout: float) -> bool:
        """In process 0: whether all others have left in good order within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._done >= set(self._peers), timeout)

    def ask_to_stop(self, heard_from: int | None = None) -> None:
        """Ask all processes to stop when it suits them."""
        if self._stop.is_set():
            return
        self._stop.set()
        for index in self._peers:
            if index != heard_from:
                self._send(index, _STOP)

    @property
    def asked_to_stop(self) -> bool:
        """Whether any process has asked."""
        return self._stop.is_set()

    def finish(self) -> None:
        """Leave in good order: wait until all others have come as far."""
        if self._index != 0:
            self._send(0, _DONE)
        with self._changed:
            self._changed.wait_for(lambda: self._done >= set(self._peers))
        if self._index == 0:
            for index in self._peers:
                self._send(index, _DONE)
        self._close()

    def fail(self, wait: bool) -> None:
        """Leave because of an error; the others learn it from the closed connection.

        **Arguments:**

        - `wait`: wait a moment first, as the cause may be another process that is lost.
        """
        # What is done about a lost process, as a rule the end of this one, goes first.
        if wait and self._told.wait(10 * _MOMENT):
            self._acted.wait(10 * _MOMENT)
        self._close()
        time.sleep(_MOMENT)

    def _start(self) -> None:
        for peer in self._peers.values():
            peer.settimeout(None)
            _keep_alive(peer)
        threading.Thread(target=self._read, name="process watch", daemon=True).start()

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            for index, peer in self._peers.items():
                selector.register(peer, selectors.EVENT_READ, index)
            while not self._closed and selector.get_map():
                for key, _ in selector.select(timeout=1.0):
                    self._hear(selector, key.data)

    def _hear(self, selector: Any, index: int) -> None:
        peer = self._peers[index]
        try:
            line = _read_line(peer)
        except OSError:
            line = ""
        if line == _DONE.decode().strip():
            selector.unregister(peer)
            with self._changed:
                self._done.add(index)
                self._changed.notify_all()
        elif line == _STOP.decode().strip():
            self.ask_to_stop(heard_from=index)
        elif not self._closed:
            selector.unregister(peer)
            self._lose(int(line.split()[1]) if line.startswith("lost") else index)

    def _lose(self, lost: int) -> None:
        if self._told.is_set():
            return
        self._told.set()
        if self._index == 0:
            for index in self._peers:
                if index != lost:
                    self._send(index, _LOST % lost)
            # jax ends a process in its own words when process 0, which keeps its books, is
            # gone: the others need a moment to say theirs.
            time.sleep(_MOMENT)
        self._on_loss(
            f"Process {lost} of {self._count} died or failed, so process {self._index} stops."
        )
        self._acted.set()

    def _send(self, index: int, message: bytes) -> None:
        # A closed connection is noticed by the thread that reads.
        with contextlib.suppress(OSError):
            self._peers[index].sendall(message)

    def _close(self) -> None:
        self._closed = True
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()


def _introduce(peer: socket.socket, token: str) -> int | None:
    """The number of a process that knows the token, or `None`."""
    try:
        words = _read_line(peer).split()
    except OSError:
        return None
    known = len(words) == 2 and words[0] == token and words[1].isdigit()
    return int(words[1]) if known else None


def _read_line(peer: socket.socket) -> str:
    """One line; empty if the connection is closed."""
    line = b""
    while not line.endswith(b"\n") and len(line) < 128:
        byte = peer.recv(1)
        if not byte:
            return ""
        line += byte
    return line.decode(errors="replace").strip()


def _keep_alive(peer: socket.socket) -> None:
    """Let the system ask a silent peer whether it is there: a machine may be lost whole."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
