"""Several processes, on one machine or many, that compute one result together.

Every process runs the same program on its own devices; `make_mesh` spans them all. Each
watches the others: when one dies or fails, the rest stop with one sentence instead of
waiting for it for ever.
"""

import atexit
import contextlib
import dataclasses
import importlib.util
import math
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh
from jaxtyping import PyTree

from solvers.process_watch import Watch
from solvers.sharding import DEVICES, Rows, place_rows, row_layout, row_sharding


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which of how many processes this is.

    - `index`: from 0; the first writes what is written once.
    - `count`: how many work together.
    """

    index: int
    count: int
    _watch: Watch | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def is_first(self) -> bool:
        """Whether this is process 0."""
        return self.index == 0

    def share(self, content: bytes) -> bytes:
        """What process 0 brings, in every process; all bring as many bytes.

        All processes call it, and wait for each other.
        """
        if self.count == 1:
            return content
        own = np.frombuffer(content, dtype=np.uint8)
        with _silent_output():
            told = multihost_utils.broadcast_one_to_all(own)
        return np.asarray(told).astype(np.uint8).tobytes()

    def wait_for_others(self, timeout: float) -> bool:
        """In process 0: whether all others left their `with` block within so many seconds.

        They wait there for process 0, which may do the rest alone.
        """
        return self._watch is None or self._watch.others_are_done(timeout)

    def ask_to_stop(self) -> None:
        """Ask all processes to stop when it suits them."""
        if self._watch is not None:
            self._watch.ask_to_stop()

    def asked_to_stop(self) -> bool:
        """Whether one of the processes has asked all to stop."""
        return self._watch is not None and self._watch.asked_to_stop


ALONE = Processes(0, 1)
"""A process that works with no other."""


@contextlib.contextmanager
def initialise(
    coordinator: str | None = None,
    process_id: int | None = None,
    processes: int | None = None,
    *,
    timeout: int = 300,
    on_loss: Callable[[str], None] | None = None,
) -> Iterator[Processes]:
    """Join the other processes for the length of a `with` block.

    Enter it before jax computes anything. All processes leave it together; one that leaves
    it by an exception, or dies in it, ends the others, and its own exit code is 1 (or that
    of the `SystemExit`).

    **Arguments:**

    - `coordinator`: `HOST:PORT` of process 0, the same for all.
    - `process_id`: which process this is, from 0.
    - `processes`: how many there are. Where nothing at all is given, they are found under
      SLURM (`srun`), Open MPI (`mpirun`) and in an indexed job of Kubernetes; a process
      that is alone goes on alone.
    - `timeout`: seconds to wait for the others at the beginning; then this process ends
      with a sentence and exit code 1, as jax cannot be called back from its waiting.
    - `on_loss`: called with a sentence, from another thread, when another process is lost;
      default: print the sentence to stderr and end this process with exit code 1. The
      main thread may be inside a collective that never ends, so it cannot be asked.

    **Raises:** `ValueError` if what is given is incomplete or makes no sense;
    `RuntimeError` if jax computes already, or the port is taken.
    """
    launcher = find_launcher(os.environ)
    given = (coordinator, process_id, processes)
    if given == (None, None, None) and launcher is None:
        yield ALONE
        return
    if processes == 1 and process_id in (None, 0):
        yield ALONE
        return
    check_arguments(coordinator, process_id, processes, launcher)
    _join(coordinator, process_id, processes, launcher, timeout)
    found = Processes(jax.process_index(), jax.process_count())
    if found.count == 1:
        yield found
        return
    host = None if coordinator is None else coordinator.rsplit(":", 1)[0].strip("[]")
    with _silent_output():
        watch = _start_watch(found, host, on_loss or _stop)
    try:
        yield dataclasses.replace(found, _watch=watch)
    except BaseException as error:
        if not (isinstance(error, SystemExit) and error.code in (None, 0)):
            # A collective with a process that died fails a moment before the watch knows.
            watch.fail(wait=_is_of_a_collective(error))
            # At its end jax would wait for the others, which have gone.
            code = error.code if isinstance(error, SystemExit) else 1
            atexit.register(_leave, code if isinstance(code, int) else 1)
            raise
        watch.finish()
        raise
    watch.finish()


def find_launcher(environment: Mapping[str, str]) -> str | None:
    """What started this process as one of several: its name, or `None`."""
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_NODELIST" in environment:
        return "SLURM"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "Open MPI"
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(environment):
        return "Kubernetes"
    return None


def check_arguments(
    coordinator: str | None, process_id: int | None, processes: int | None, launcher: str | None
) -> None:
    """Raise `ValueError` if what is given for `initialise` makes no sense."""
    names = {"coordinator": coordinator, "process_id": process_id, "processes": processes}
    missing = [name for name, value in names.items() if value is None]
    if launcher is None and missing:
        raise ValueError(
            f"Several processes need coordinator, process_id and processes; without "
            f"{' and '.join(missing)} only SLURM, Open MPI or Kubernetes could tell, and none "
            "of them started this process."
        )
    if processes is not None and processes < 1:
        raise ValueError(f"`processes` is {processes}, expected 1 or more.")
    if process_id is not None and not 0 <= process_id < (processes or process_id + 1):
        raise ValueError(f"`process_id` is {process_id}, expected 0 to {(processes or 1) - 1}.")
    port = "" if coordinator is None else coordinator.rpartition(":")[2]
    if coordinator is not None and not (":" in coordinator[1:] and port.isdigit()):
        raise ValueError(f"`coordinator` is {coordinator!r}, expected HOST:PORT.")
    if launcher == "Kubernetes" and missing and not importlib.util.find_spec("kubernetes"):
        raise ValueError(
            "Under Kubernetes the package `kubernetes` finds the other processes and is not "
            "installed: install it, or give coordinator, process_id and processes."
        )


def _join(
    coordinator: str | None,
    process_id: int | None,
    processes: int | None,
    launcher: str | None,
    timeout: int,
) -> None:
    if process_id == 0 and coordinator is not None:
        _check_port(int(coordinator.rpartition(":")[2]))
    # jax would take SIGTERM for itself and let nobody know.
    with contextlib.suppress(AttributeError):
        jax.config.update("jax_enable_preemption_service", False)
    late = threading.Timer(timeout, _stop, [_late(coordinator, launcher, timeout)])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            cluster_detection_method=None if launcher else "deactivate",
            # jax would end the process in its own words; the timer is before it.
            initialization_timeout=timeout + 30,
            # The watch notices a death at once; these are for machines that fall silent.
            heartbeat_timeout_seconds=60,
            shutdown_timeout_seconds=30,
        )
    except RuntimeError as error:
        if "before" in str(error):
            raise RuntimeError(
                "jax computes already, so this process cannot join others any more: call "
                "initialise before anything is computed."
            ) from error
        raise RuntimeError(
            f"{_late(coordinator, launcher, timeout)[:-1]}: {str(error).splitlines()[0]}"
        ) from error
    finally:
        late.cancel()


def _late(coordinator: str | None, launcher: str | None, timeout: int) -> str:
    where = coordinator or f"as {launcher} says"
    return f"The processes did not come together within {timeout} s (coordinator {where})."


def _is_of_a_collective(error: BaseException) -> bool:
    # jax passes on what gloo says as one type of error or another.
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


def _check_port(port: int) -> None:
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise RuntimeError(
            f"Process 0 cannot listen at port {port} of the coordinator ({error}): choose "
            "another, for all processes."
        ) from error


def _leave(code: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _stop(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    _leave(1)


@contextlib.contextmanager
def _silent_output() -> Iterator[None]:
    """Keep from the standard output what gloo says of each connection.

    It would stand among the results, or in the middle of a JSON object.
    """
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


_ADDRESS = 512
"""Bytes in which process 0 tells where it listens."""


def _start_watch(
    processes: Processes, host: str | None, on_loss: Callable[[str], None]
) -> Watch:
    """Process 0 listens, tells all where, and all others connect."""
    text, listener = b"", None
    if processes.is_first:
        listener = socket.create_server(("", 0), backlog=processes.count)
        name = host or socket.gethostname()
        text = f"{secrets.token_hex(16)} {listener.getsockname()[1]} {name}".encode()
    message = np.frombuffer(text.ljust(_ADDRESS), dtype=np.uint8)
    told = np.asarray(multihost_utils.broadcast_one_to_all(message)).astype(np.uint8)
    token, port, name = told.tobytes().decode().split()
    watch = Watch(processes.index, processes.count, on_loss)
    if listener is not None:
        watch.accept(listener, token)
    else:
        watch.connect(name, int(port), token)
    return watch


def global_rows(local_rows: PyTree, mesh: Mesh) -> Rows:
    """Rows of which every process has its own, as one value on the whole mesh.

    **Arguments:**

    - `local_rows`: the rows of this process; their number may differ among processes.
    - `mesh`: of all processes, each with as many devices as the others.

    **Returns:** `Rows`, those of process 0 first; padded to the same number for each device.

    **Raises:** `ValueError` in every process if one has no rows, or if the mesh cannot be
    split among the processes.
    """
    count = jax.process_count()
    if count == 1:
        return place_rows(local_rows, mesh)
    leaves = jax.tree.leaves(local_rows)
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in leaves}
    own = sizes.pop() if len(sizes) == 1 else 0
    counts = np.asarray(multihost_utils.process_allgather(np.asarray(own))).ravel()
    if not counts.all():
        empty = int(np.flatnonzero(counts == 0)[0])
        raise ValueError(
            f"Process {empty} of {count} has no rows, or leaves with different numbers of "
            f"them; the numbers are {counts.tolist()}."
        )
    layout = row_layout(mesh)
    shards = layout.shards
    if shards % count:
        raise ValueError(
            f"{shards} devices along the rows cannot be split among {count} processes."
        )
    # Every device gets as many rows as those of the process with the most.
    each = math.ceil(int(counts.max()) / (shards // count)) * (shards // count)
    chosen = np.where(np.arange(each) < own, np.arange(each), 0)
    sharding = row_sharding(mesh)

    def spread(part: np.ndarray) -> jax.Array:
        shape = (each * count, *part.shape[1:])
        return jax.make_array_from_process_local_data(sharding, part, shape)

    values = jax.tree.map(lambda leaf: spread(np.asarray(leaf)[chosen]), local_rows)
    return Rows(values, spread(np.arange(each) < own))


def local_mesh(devices: int | None = None) -> Mesh:
    """A mesh of devices of this process alone.

    **Arguments:**

    - `devices`: how many; default: all of this process.

    **Raises:** `ValueError` for more devices than this process has.
    """
    there = jax.local_devices()
    count = len(there) if devices is None else devices
    if not 1 <= count <= len(there):
        raise ValueError(
            f"{count} devices are asked for, but there are {len(there)} "
            f"({there[0].platform}), expected 1 to {len(there)}."
        )
    return Mesh(np.array(there[:count]), (DEVICES,), axis_types=(AxisType.Auto,))


def gather(tree: PyTree) -> PyTree:
    """Arrays that are spread over processes, whole on each of them, as numpy arrays."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)
