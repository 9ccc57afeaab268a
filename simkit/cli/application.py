"""The command `simkit`: its subcommands, and how errors become exit codes.

Exit codes: 0 well; 1 a fault of simkit; 2 bad input or usage; 3 a solve or a fit failed
(the result is written, with its status); 4 stopped by a signal or a time limit, and can be
resumed; 130 interrupted.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from simkit.cli.commands.analyse import analyse
from simkit.cli.commands.checking import check
from simkit.cli.commands.diagnosis import doctor
from simkit.cli.commands.export import export
from simkit.cli.commands.files import plot, report, show
from simkit.cli.commands.listings import methods, systems
from simkit.cli.commands.runs import fit, simulate
from simkit.cli.options import TRACEBACK
from simkit.cli.outcomes import (
    BAD_INPUT,
    FAULT,
    INTERRUPTED,
    SCHEMA_FILE,
    Failure,
    error_json,
)
from simkit.config.errors import CaseError, one_line


class _Application(click.Group):
    """A group that turns every error into one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        # Looked for here, as the words of a command may be what is wrong.
        words = [*ctx._protected_args, *ctx.args]
        as_json = "--json" in (words[: words.index("--")] if "--" in words else words)
        try:
            return self._invoke(ctx)
        except click.ClickException as error:
            if as_json:
                mistake = error.__cause__ if isinstance(error.__cause__, CaseError) else None
                sentence = error.format_message()
                click.echo(error_json(sentence, error.exit_code, mistake))
            raise

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            raise Failure("interrupted", INTERRUPTED) from None
        except CaseError as error:
            _show_traceback(ctx)
            raise Failure(str(error), BAD_INPUT) from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of a pipe went away; click knows what to do
            _show_traceback(ctx)
            raise _fault(ctx, error) from None


def _show_traceback(ctx: click.Context) -> None:
    if ctx.meta.get(TRACEBACK):
        import traceback

        traceback.print_exc()


def _fault(ctx: click.Context, error: Exception) -> Failure:
    reason = one_line(f"{type(error).__name__}: {error}")
    if len(reason) > 300:
        reason = reason[:297] + "..."
    advice = "" if ctx.meta.get(TRACEBACK) else " (--traceback shows where)"
    return Failure(f"a fault of simkit, {reason}{advice}", FAULT)


def _print_schema(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value and not ctx.resilient_parsing:
        click.echo(SCHEMA_FILE.read_text(encoding="utf-8"), nl=False)
        ctx.exit()


@click.group(
    cls=_Application,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
    epilog=(
        'Completion: put `eval "$(_SIMKIT_COMPLETE=bash_source simkit)"` into ~/.bashrc, '
        "or the same with zsh_source or fish_source."
    ),
)
@click.version_option(package_name="simkit-jax", message="simkit %(version)s")
@click.option(
    "--json-schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON Schema of what --json prints, and exit.",
)
def cli() -> None:
    """Simulate and fit differential equations; a case file says what is to be done."""


for _command in (
    simulate,
    fit,
    check,
    show,
    analyse,
    plot,
    report,
    export,
    systems,
    methods,
    doctor,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code.

    **Arguments:**

    - `arguments`: the words after `simkit`; those of the process if left out.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a unit's Greek letter must not end a run.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    if arguments is not None:
        cli.main(args=list(arguments), prog_name="simkit")
    try:
        cli.main(prog_name="simkit")
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))


def _leave(code: int) -> None:
    """End the process at once: taking jax apart in good order lasts a second.

    All files are closed by then. Without jax there is nothing to save.
    """
    if "jax" not in sys.modules:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
