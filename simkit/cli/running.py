"""How a command carries out a run: its folder, its devices, the processes that share it."""

import contextlib
import dataclasses
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simkit.cli.interruption import Interrupted, Stopping, end_at_once
from simkit.cli.outcomes import FAULT, Failure, bad_input
from simkit.cli.outputs import OutputFiles


if TYPE_CHECKING:
    from jax.sharding import Mesh

    from simkit.config.reader import LoadedCase
    from simkit.progress import Progress
    from simkit.results import Fit, Trajectory
    from simkit.segments import Checkpoint
    from simkit.store.run_folder import RunFolder
    from solvers.distributed import Processes


GO_ON = "the same command with --resume goes on from there"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MESSAGE = 2048
"""Bytes in which process 0 says to the others whether the run may begin."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a command was asked to do.

    - `command`, `loaded`, `files`: which computation, of which case, written where.
    - `is_new`: whether the folder of the files was not there before.
    - the others: the options of that name.
    """

    command: str
    loaded: "LoadedCase"
    files: OutputFiles
    is_new: bool = False
    overwrite: bool = False
    resume: bool = False
    time_limit: float | None = None
    devices: int | None = None
    coordinator: str | None = None
    process_id: int | None = None
    processes: int | None = None
    profile: Path | None = None
    as_json: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether other processes may take part."""
        given = (self.coordinator, self.process_id, self.processes)
        launched = ("SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE", "JOB_COMPLETION_INDEX")
        return given != (None, None, None) or any(name in os.environ for name in launched)

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, as far as is known before the others are."""
        given = [str(self.process_id)] if self.process_id is not None else []
        names = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JOB_COMPLETION_INDEX")
        given += [os.environ[name] for name in names if name in os.environ]
        return not self.is_shared or not given or given[0] == "0"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has begun.

    - `checkpoint`: where its segments are kept.
    - `mesh`: the devices of this process, `None` for one alone.
    """

    checkpoint: "Checkpoint"
    mesh: "Mesh | None"

    @property
    def may_replace(self) -> bool:
        """Whether a result that is there is an older one of this run."""
        return self.checkpoint.folder.went_on


def finished_result(plan: Plan) -> "Fit | Trajectory | None":
    """The result of a run that is finished already, with `--resume`.

    Ends with exit code 2 if it is that of another case and may not be replaced.
    """
    from simkit.identity import case_tables, result_facts
    from simkit.store.reader import open_result
    from simkit.store.run_folder import first_difference, is_unfinished
    from simkit.store.schema import StoreError

    path = plan.files.result
    if not plan.resume or not path.exists() or is_unfinished(plan.files.run):
        return None
    kinds = {"simulate": "Trajectory", "fit": "Fit"}
    try:
        result = click.get_current_context().with_resource(open_result(path, max_bytes=2**62))
        there = {"result": type(result).__name__, **_tables(result, result_facts)}
        here = {"result": kinds[plan.command], **case_tables(plan.loaded)}
        difference = first_difference(there, here)
    except StoreError as error:
        difference = str(error).rstrip(".")
    else:
        if difference is None:
            _clear_remains(plan)
            return result
    if plan.overwrite:
        return None
    raise bad_input(
        f"{path} is no result of this run ({difference}), expected one to go on from; "
        "--overwrite replaces it."
    )


def _clear_remains(plan: Plan) -> None:
    """Take away what a run left that was killed while it took its folder away."""
    from simkit.store.run_folder import RunRefused, begin

    if plan.is_first and plan.files.run.is_dir():
        with contextlib.suppress(RunRefused):  # it is just doing that itself
            begin(plan.files.run, {}, resume=False, overwrite=True).remove()


def _tables(result: Any, reader: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    with contextlib.suppress(json.JSONDecodeError):
        return reader(result.provenance.configuration)
    return {}


def carry_out(
    plan: Plan, stop: Stopping, progress: "Progress", body: Callable[[Run], Any]
) -> Any:
    """Begin or go on with a run, call `body` in it, and clear up.

    **Returns:** what `body` returned. Ends the command where the run was stopped, in all
    processes but the first, and where it may not begin.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(_leave_no_trace, plan)
        folder = None if plan.is_shared else _held(_begin(plan), stack)
        try:
            result, end = _together(plan, stop, progress, folder, body, stack)
        except ValueError as error:
            from simkit.store.run_folder import RunRefused

            if isinstance(error, RunRefused):
                raise bad_input(str(error)) from None
            raise
        except Interrupted as error:  # before anything had begun
            result, end = None, error
    if end is None:
        return result
    raise _translated(end, plan, stop)


def _together(
    plan: Plan,
    stop: Stopping,
    progress: "Progress",
    folder: "RunFolder | None",
    body: Callable[[Run], Any],
    stack: contextlib.ExitStack,
) -> tuple[Any, BaseException | None]:
    """The result, or how the run ended; the processes leave in good order either way."""
    progress(0, 0, "starting jax")
    with _processes(plan) as processes:
        from simkit.segments import Checkpoint, PartDone, Stopped

        if processes.count > 1:
            stop.grace = None
        try:
            if folder is None:
                folder = _held(_shared(plan, processes), stack)
            stop.describe = lambda: _where_it_is(plan, stop)
            checkpoint = Checkpoint(folder, processes, stop, stays=True, notify=_notify)
            result = body(Run(checkpoint, _mesh(plan)))
            if processes.is_first:
                folder.remove()
        except (Stopped, PartDone, Interrupted, Failure) as end:
            if isinstance(end, Interrupted):
                processes.ask_to_stop()
            return None, end
        except OSError as error:
            if error.errno not in _FULL:
                raise
            where = error.filename or plan.files.folder
            raise Failure(
                f"{where} cannot be written ({error.strerror}); what is done is kept, and "
                f"with more room {GO_ON}.",
                FAULT,
            ) from error
    return result, None


def _leave_no_trace(plan: Plan) -> None:
    """Take away the folder that the command made, if nothing was written into it."""
    if plan.is_new:
        with contextlib.suppress(OSError):  # there is something in it
            plan.files.folder.rmdir()


def _held(folder: "RunFolder", stack: contextlib.ExitStack) -> "RunFolder":
    """The folder, which is let go at the end; a run that has kept nothing leaves nothing."""

    def let_go() -> None:
        if folder.is_owned and not folder.finished():
            folder.remove()
        folder.close()

    stack.callback(let_go)
    return folder


def _translated(end: BaseException, plan: Plan, stop: Stopping) -> BaseException:
    from simkit.segments import PartDone

    if isinstance(end, Failure):
        return end if plan.is_first else click.exceptions.Exit(end.exit_code)
    if isinstance(end, PartDone):
        return click.exceptions.Exit(0)
    if not plan.is_first:
        return click.exceptions.Exit(stop.exit_code)
    return Failure(_where_it_is(plan, stop), stop.exit_code)


def _where_it_is(plan: Plan, stop: Stopping) -> str:
    """The sentence with which a run that was stopped ends."""
    from simkit.store.segments import segment_indices

    done = len(segment_indices(plan.files.run)) if plan.files.run.is_dir() else 0
    if done == 0:
        return f"{stop.reason} before a segment was done."
    return f"{stop.reason} with {done} segment{'' if done == 1 else 's'} done; {GO_ON}."


def _notify(sentence: str) -> None:
    click.echo(f"Warning: {sentence}", err=True)


def _begin(plan: Plan) -> "RunFolder":
    from simkit.identity import case_facts
    from simkit.store.run_folder import RunRefused, begin

    facts = case_facts(plan.command, plan.loaded)
    try:
        return begin(
            plan.files.run,
            facts,
            resume=plan.resume,
            overwrite=plan.overwrite,
            notify=_notify,
        )
    except RunRefused as error:
        raise bad_input(str(error)) from None


def _shared(plan: Plan, processes: "Processes") -> "RunFolder":
    """The folder of a run of several processes, which process 0 takes for all."""
    from simkit.store.run_folder import join

    folder, word = None, ""
    if processes.is_first:
        try:
            folder = _begin(plan)
            word = f"token {folder.token}"
        except Failure as error:
            word = f"refused {error.message}"
    told = processes.share(word.encode()[:_MESSAGE].ljust(_MESSAGE))
    kind, _, rest = told.decode(errors="replace").strip().partition(" ")
    if kind == "refused":
        raise bad_input(rest)
    if folder is not None:
        return folder
    return join(plan.files.run, rest)


@contextlib.contextmanager
def _processes(plan: Plan) -> Iterator["Processes"]:
    """Start jax with the devices that were asked for, and wait for the others."""
    from simkit.cli.compilation_cache import use_compilation_cache

    use_compilation_cache()
    from solvers.distributed import ALONE, initialise
    from solvers.sharding import use_cpu_devices

    def on_loss(sentence: str) -> None:
        end_at_once(f"{sentence.rstrip('.')}; {GO_ON}.", FAULT, plan.as_json)

    given = (plan.coordinator, plan.process_id, plan.processes)
    with contextlib.ExitStack() as stack:
        if plan.is_shared:
            stack.enter_context(_output_of_python_alone())
        try:
            if plan.devices is not None:
                use_cpu_devices(plan.devices)
            together = initialise(*given, on_loss=on_loss) if plan.is_shared else None
            processes = stack.enter_context(together or contextlib.nullcontext(ALONE))
        except (ValueError, RuntimeError) as error:
            raise bad_input(str(error)) from None
        yield processes
    if processes.count > 1:
        import jax

        # The process ends without jax's own farewell, which the others would wait for.
        jax.distributed.shutdown()


@contextlib.contextmanager
def _output_of_python_alone() -> Iterator[None]:
    """Keep what libraries write to the standard output from standing among the results.

    Between processes XLA's collectives are those of gloo, which tells there of each of its
    connections.
    """
    before = sys.stdout
    before.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = open(kept, "w", buffering=1, closefd=False, errors="replace")  # noqa: SIM115
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        sys.stdout = before


def _mesh(plan: Plan) -> "Mesh | None":
    if plan.devices in (None, 1):
        return None
    from solvers.distributed import local_mesh

    try:
        return local_mesh(plan.devices)
    except ValueError as error:
        raise bad_input(f"--devices is {plan.devices}: {error}") from None


def existing_files(files: OutputFiles) -> dict[str, Any]:
    """The files of a finished run, as they are told after a run."""
    written: dict[str, Any] = {"result": str(files.result)}
    if files.figures.is_dir():
        written["figures"] = [str(path) for path in sorted(files.figures.iterdir())]
    if files.report.exists():
        written["report"] = str(files.report)
    return written
