"""Arguments and options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


TRACEBACK = "simkit.traceback"
"""Where the context keeps whether errors show their traceback."""

Command = Callable[..., Any]


def _remember_traceback(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    ctx.meta[TRACEBACK] = value


def case_argument(command: Command) -> Command:
    """The case file."""
    # Whether it exists is told by the reader, like all else that is wrong with it.
    return click.argument("case", type=click.Path(path_type=Path))(command)


def result_argument(command: Command) -> Command:
    """A result file that is there."""
    kind = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
    return click.argument("file", type=kind)(command)


def override_option(command: Command) -> Command:
    """`--set`, which changes single keys of the case."""
    return click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Give a key of the case another value, such as fit.starts=64; repeatable.",
    )(command)


def overwrite_option(command: Command) -> Command:
    """`--overwrite`."""
    return click.option("--overwrite", is_flag=True, help="Replace files that are there.")(
        command
    )


def json_option(command: Command) -> Command:
    """`--json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object instead of tables."
    )(command)


def traceback_option(command: Command) -> Command:
    """`--traceback`, which the group of commands reads."""
    return click.option(
        "--traceback",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_remember_traceback,
        help="Show where in the code an error arose.",
    )(command)


def _parallel_options() -> list[Callable[[Command], Command]]:
    """On how many devices, and with which other processes."""
    return [
        click.option(
            "--devices",
            type=click.IntRange(min=1),
            metavar="N",
            help="Devices of this process; on a CPU any number, of which one per core is best.",
        ),
        click.option(
            "--coordinator",
            metavar="HOST:PORT",
            help="Where process 0 of several listens. Under SLURM, Open MPI and Kubernetes "
            "the processes find each other without these three.",
        ),
        click.option(
            "--process-id",
            type=click.IntRange(min=0),
            metavar="I",
            help="Which of the processes this is.",
        ),
        click.option(
            "--processes", type=click.IntRange(min=1), metavar="N", help="How many there are."
        ),
    ]


def run_options(command: Command) -> Command:
    """All options of a command that computes."""
    options = [
        click.option(
            "-o",
            "--output",
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder of the results; results/NAME, after that of the case, if left out.",
        ),
        override_option,
        click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of all draws."),
        json_option,
        click.option("--quiet", is_flag=True, help="No progress on the terminal."),
        overwrite_option,
        click.option(
            "--resume",
            is_flag=True,
            help="Go on from the segments of a run that was stopped; on a finished or a new "
            "run it does no harm.",
        ),
        click.option(
            "--time-limit",
            type=click.FloatRange(min=0.0, min_open=True),
            metavar="SECONDS",
            help="Stop, with exit code 4, before a segment that would end later.",
        ),
        *_parallel_options(),
        traceback_option,
    ]
    for option in reversed(options):
        command = option(command)
    return case_argument(command)
