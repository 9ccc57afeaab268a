"""The reference page of the command line, from its commands."""

import inspect
import re
from pathlib import Path
from typing import Any

import click

from generation.docstrings import cell, table
from generation.outcomes import outcome_lines
from simkit.cli.application import cli
from simkit.cli.compilation_cache import cache_folder
from simkit.cli.outcomes import (
    BAD_INPUT,
    FAILED,
    FAULT,
    INTERRUPTED,
    STOPPED,
)
from simkit.cli.outputs import OutputFiles, output_files


_HEAD = """\
# Command line

Results, or one JSON object with `--json`, go to the standard output; errors and the progress
bar go to the standard error, and there is no bar where that is no terminal. `simkit --help`,
`--version`, the lists of systems and methods, and the refusal of a broken case do not import
jax.
"""

_EXIT_CODES = {
    0: "the command did what it was asked for",
    FAULT: "a fault of simkit, or of the machine (`doctor`)",
    BAD_INPUT: "bad input or usage: a broken case, a file that is there already",
    FAILED: "the solve or the fit failed, and the result is written, with its status; or the "
    "trial of `check` did",
    STOPPED: "stopped by SIGTERM, SIGHUP, SIGUSR1 or `--time-limit`; `--resume` goes on",
    INTERRUPTED: "interrupted with Ctrl-C; `--resume` goes on",
}


def command_line_page() -> str:
    """The page as Markdown."""
    lines = [_HEAD, "## Commands", ""]
    for name, command in sorted(cli.commands.items()):
        _add_command(lines, name, command)
    lines += ["## Exit codes", ""]
    lines += table(["code", "meaning"], [[str(k), v] for k, v in _EXIT_CODES.items()])
    lines += ["## Files that a run writes", ""]
    lines += [_files(), "", "## What --json prints", ""]
    lines += [*outcome_lines(), "## Environment", ""]
    where = (inspect.getdoc(cache_folder) or "").split("\n\n", 1)[1]
    lines += [where.replace("It is", "Compiled programs are kept in", 1), ""]
    lines += ["## Completion", "", "Put" + (cli.epilog or "").removeprefix("Completion: put")]
    return "\n".join(lines).rstrip() + "\n"


def _add_command(lines: list[str], name: str, command: click.Command) -> None:
    context = click.Context(command, info_name=f"simkit {name}")
    lines += [f"### simkit {name}", "", "```text", command.get_usage(context)[7:], "```", ""]
    lines += [_paragraphs(command.help or ""), ""]
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):
            rows.append([f"`{record[0]}`", cell(_spaced(record[1]))])
    lines += table(["option", "meaning"], rows)


def _paragraphs(text: str) -> str:
    parts = [" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n")]
    # The shape of what --json prints, to be set as code.
    return "\n\n".join(re.sub(r'(?:"\w+": )?[\[{].*[\]}]', r"`\g<0>`", part) for part in parts)


def _spaced(text: str) -> str:
    return " ".join(text.split()).replace("[", "\\[")


def _files() -> str:
    files: Any = OutputFiles(Path("FOLDER"))
    where = inspect.getdoc(output_files) or ""
    rows = [
        [f"`{files.result}`", "the [result](../result_files.md)"],
        [f"`{files.figures}/`", "the figures, in the formats of `output.formats`"],
        [f"`{files.report}`", "a page with words, tables and figures that needs no network"],
        [f"`{files.run}/`", "finished segments, until the run is finished"],
    ]
    words = where.split("\n\n", 1)[1]
    return "\n".join(
        [*table(["file", "what it is"], rows), f"`FOLDER` is what `-o` names. {words}"]
    )
