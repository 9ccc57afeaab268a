"""Arguments and options that several commands share."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


TRACEBACK = "simkit.traceback"
"""Where the context keeps whether errors show their traceback."""

Command = Callable[..., Any]

_UNITS = "kMGTP"
_SIZE = re.compile(rf"(\d+(?:\.\d+)?)\s*([{_UNITS}]?)", re.IGNORECASE)


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


class Size(click.ParamType):
    """A number of bytes: `500M`, `20G`; each letter is 1024 times the one before."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The number of bytes."""
        found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            self.fail(f"{value!r} is no size, expected one such as 500M or 20G.", param, ctx)
        power = _UNITS.lower().index(found[2].lower()) + 1 if found[2] else 0
        size = float(found[1]) * 1024**power
        if not 1 <= size < 2**63:
            self.fail(f"{value!r} is no size of a file, expected 1 to 8000P.", param, ctx)
        return int(size)


def max_bytes_option(command: Command) -> Command:
    """`--max-bytes`, for the commands that read a result file."""
    return click.option(
        "--max-bytes",
        type=Size(),
        metavar="SIZE",
        help="Read a file whose arrays take so much memory, such as 20G; 2G if left out, and "
        "less of a file of a few kilobytes.",
    )(command)


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
        click.option(
            "--profile",
            type=click.Path(file_okay=False, path_type=Path),
            metavar="DIR",
            help="Tell where the time went, and write a trace for Perfetto or TensorBoard.",
        ),
        traceback_option,
    ]
    for option in reversed(options):
        command = option(command)
    return case_argument(command)
