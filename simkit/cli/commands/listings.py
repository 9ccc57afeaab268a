"""`simkit systems` and `simkit methods`: what there is, from the catalogue."""

from typing import TYPE_CHECKING, Any

import click

from simkit.cli.options import json_option, traceback_option
from simkit.cli.outcomes import bad_input
from simkit.cli.tables import figure, print_lines, print_table
from simkit.config.errors import choice


if TYPE_CHECKING:
    from simkit.catalogue import Catalogue, MethodEntry, SystemEntry


def _complete_system(ctx: Any, parameter: Any, incomplete: str) -> list[str]:
    del ctx, parameter
    return [name for name in _catalogue().systems if name.startswith(incomplete)]


def _complete_method(ctx: Any, parameter: Any, incomplete: str) -> list[str]:
    del ctx, parameter
    return [name for name in _catalogue().methods if name.startswith(incomplete)]


@click.command()
@click.argument("name", required=False, shell_complete=_complete_system)
@json_option
@traceback_option
def systems(name: str | None, as_json: bool) -> None:
    """List the systems, or describe the one of that NAME."""
    known = _catalogue().systems
    if name is not None and name not in known:
        raise bad_input(f'NAME is "{name}", expected {choice(name, [*known])}.')
    if as_json:
        _print_json(known if name is None else known[name])
    elif name is not None:
        _describe_system(known[name])
    else:
        for entry in known.values():
            print_lines(f"{entry.name:32}{entry.sort:28}{entry.summary}{_note(entry)}")


@click.command()
@click.argument("name", required=False, shell_complete=_complete_method)
@json_option
@traceback_option
def methods(name: str | None, as_json: bool) -> None:
    """List the methods, or describe the one of that NAME."""
    known = _catalogue().methods
    if name is not None and name not in known:
        raise bad_input(f'NAME is "{name}", expected {choice(name, [*known])}.')
    if as_json:
        _print_json(known if name is None else known[name])
    elif name is not None:
        _describe_method(known[name])
    else:
        for entry in known.values():
            print_lines(f"{entry.name:22}{entry.kind:5}{entry.summary}")


def _catalogue() -> "Catalogue":
    from simkit.catalogue import catalogue  # takes a fifth of the time of `--help`

    return catalogue()


def _print_json(values: Any) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(values), indent=2))


def _note(entry: "SystemEntry") -> str:
    return " (Python only)" if entry.python_only else ""


def _describe_system(entry: "SystemEntry") -> None:
    print_lines(f"{entry.name} ({entry.sort}, {entry.module})", "")
    print_lines(*entry.documentation.splitlines(), "")
    if entry.python_only:
        print_lines("It needs a network and is made in Python; a case file cannot name it.")
        return
    rows = [
        (
            name,
            figure(item.default),
            item.unit,
            _range(item.lower, item.upper),
            item.description,
        )
        for name, item in entry.parameters.items()
    ]
    columns = ["parameter", "#default", "unit", "range", "meaning"]
    print_table("Parameters", columns, rows)
    for title, quantities in (("States", entry.states), ("Inputs", entry.inputs)):
        if quantities:
            cells = [
                [name, figure(item.default), item.unit, item.description]
                for name, item in quantities.items()
            ]
            columns = [title.lower().removesuffix("s"), "#default", "unit", "meaning"]
            print_table(title, columns, cells)
    if entry.derived:
        pairs = [[name, unit] for name, unit in entry.derived.items()]
        print_table("Derived quantities", ["quantity", "unit"], pairs)
    print_lines(f"Methods: {', '.join(entry.methods)}")


def _describe_method(entry: "MethodEntry") -> None:
    calculus = f", {entry.calculus}" if entry.calculus else ""
    print_lines(f"{entry.name} (for {entry.kind}s, order {entry.order:g}{calculus})", "")
    print_lines(*entry.documentation.splitlines(), "")
    rows = [
        [name, "up to the method" if value is None else figure(value, 10)]
        for name, value in entry.options.items()
    ]
    print_table("Options, keys of [method]", ["option", "#default"], rows)


def _range(lower: float | None, upper: float | None) -> str:
    if lower is None and upper is None:
        return "any"
    if upper is None:
        return f"at least {figure(lower)}"
    return f"at most {figure(upper)}" if lower is None else f"{lower:g} to {upper:g}"
