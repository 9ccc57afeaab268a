"""Results as tables for a terminal."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from simkit.config.errors import one_line


_WIDTH_OF_FILES = 160
"""Columns where the output is no terminal: wide enough that no row breaks."""


_STATE_COLUMNS = ("first", "last", "lowest", "highest")


def print_summary(values: dict[str, Any]) -> None:
    """Print a result, as [`simkit.cli.summaries`][] has it, on stdout."""
    if values["kind"] == "fit":
        _print_fit(values)
    else:
        _print_trajectory(values)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns whose name begins with `#` are aligned to the right."""
    from rich import box
    from rich.table import Table

    click.echo(one_line(title))
    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        right = name.startswith("#")
        table.add_column(
            name.removeprefix("#"), justify="right" if right else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(one_line(cell) for cell in row))
    _console().print(table)


def print_lines(*lines: str) -> None:
    """Print lines of text as they are, without breaking long ones."""
    for line in lines:
        click.echo(one_line(line))


def figure(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits; a dash for none."""
    return "-" if value is None else f"{value:.{digits}g}"


def _console() -> Any:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH_OF_FILES
    # Names and titles come from files: no markup of theirs is to be obeyed.
    return Console(width=width, markup=False, highlight=False, emoji=False)


def _print_fit(values: dict[str, Any]) -> None:
    print_lines("", values["title"])
    posterior = values["uncertainty"]
    columns = ["parameter", "#estimate", "#standard error"]
    if posterior:
        level = f"{100 * posterior['level']:.4g} %"
        columns += ["#posterior mean", "#sd", f"#{level} interval"]
    rows = []
    for item in values["parameters"]:
        name = item["name"] + (" (at its bound)" if item["at_bound"] else "")
        row = [name, figure(item["estimate"]), figure(item["standard_error"], 2)]
        if posterior:
            row += [figure(item["mean"]), figure(item["standard_deviation"], 2)]
            row.append(_interval(item["interval"]))
        rows.append([*row, item["unit"]])
    print_table(f"Parameters of {values['system']}", [*columns, "unit"], rows)
    if values["derived"]:
        derived = [
            (
                item["name"],
                figure(item["estimate"]),
                figure(item["standard_error"], 2),
                item["unit"],
            )
            for item in values["derived"]
        ]
        columns = ["quantity", "#estimate", "#standard error", "unit"]
        print_table("Derived quantities", columns, derived)
    print_lines(*_fit_words(values), *_closing(values))


def _fit_words(values: dict[str, Any]) -> list[str]:
    starts = values["starts"]
    lines = [
        f"{values['method']} ({values['reason']}): {values['status']}, negative log "
        f"posterior {figure(values['objective'], 6)}, largest gradient "
        f"{figure(values['gradient_norm'], 2)}.",
        f"Starts: {starts['total']}, of which {starts['counted']} count and "
        f"{starts['at_optimum']} found the best optimum.",
    ]
    lines += [f"  {count} failed: {reason}." for reason, count in starts["failed"].items()]
    lines += _engine(values)
    if values["uncertainty"]:
        lines.append(f"Uncertainty: {values['uncertainty']['method']}.")
    return lines


def _print_trajectory(values: dict[str, Any]) -> None:
    times = values["times"]
    unit = "" if times["unit"] == "1" else f" {times['unit']}"
    members = values["members"]
    print_lines(
        "",
        values["title"],
        f"{values['system']} by {values['method']}: {times['number']} times from "
        f"{figure(times['start'], 6)} to {figure(times['stop'], 6)}{unit}"
        + (f", {members} members" if members is not None else ""),
    )
    mean = " (mean)" if members is not None else ""
    rows = [
        [name, *(figure(item[key]) for key in _STATE_COLUMNS), item["unit"]]
        for name, item in values["states"].items()
    ]
    columns = ["state", f"#first{mean}", f"#last{mean}", "#lowest", "#highest", "unit"]
    print_table("States", columns, rows)
    failed = {key: count for key, count in values["status"].items() if key != "successful"}
    for reason, count in failed.items():
        print_lines(f"{count} failed: {reason}." if members is not None else f"{reason}.")
    print_lines(*_engine(values), *_closing(values))


def _engine(values: dict[str, Any]) -> list[str]:
    """What solved the equation, where that is known."""
    if values["engine"] is None:
        return []
    return [f"Solved by {values['engine']}: {values['engine_reason']}"]


def _closing(values: dict[str, Any]) -> list[str]:
    """Warnings, and where the files are."""
    lines = [f"Warning: {warning}" for warning in values.get("warnings", [])]
    files = values["files"]
    if "result" in files:
        lines += ["", f"Result:  {files['result']}"]
    if files.get("figures"):
        folders = sorted({str(path).rpartition("/")[0] for path in files["figures"]})
        lines.append(f"Figures: {', '.join(folders)}")
    if "report" in files:
        lines.append(f"Report:  {files['report']}")
    return lines


def _interval(ends: list[float] | None) -> str:
    return "-" if ends is None else f"{figure(ends[0])} to {figure(ends[1])}"
