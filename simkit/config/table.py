"""The measurements of a case: a CSV file, read strictly into long form."""

import csv
import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from simkit.config.data_checks import COUNTS
from simkit.config.errors import CaseError, choice, described, number, one_line, quoted
from simkit.config.reader import LoadedCase
from simkit.config.schema import Case, DataTable


SINGLE_GROUP = "all"
"""The name of the one group where the case names no column of groups."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class MeasurementTable:
    """Measurements in long form: one entry for each measured value.

    Entries are ordered by group (as they first appear), then observable (as the case
    lists them), then time; repeated measurements keep the order of the file.

    - `path`: the file.
    - `groups`: names of the groups, `("all",)` where the case has no column of groups.
    - `group`, `observable`, `time`, `value`, `line`: of each entry its group, the name
      of its observable, its time, the measured value, and its line in the file.
    - `inputs`: for each group the inputs that the case reads from columns.
    - `missing`: for each observable how many fields were empty.
    """

    path: Path
    groups: tuple[str, ...]
    group: tuple[str, ...]
    observable: tuple[str, ...]
    time: tuple[float, ...]
    value: tuple[float, ...]
    line: tuple[int, ...]
    inputs: dict[str, dict[str, float]]
    missing: dict[str, int]

    def __len__(self) -> int:
        return len(self.value)


@dataclasses.dataclass(frozen=True)
class _Row:
    line: int
    fields: dict[str, str]


def read_measurements(loaded: LoadedCase) -> MeasurementTable:
    """Read the data file of a case.

    The first line names the columns; lines before it that begin with `#` are comments.
    An empty field of an observable is a missing measurement.

    Raises `CaseError` with one sentence for the first mistake: file, line, column, what
    came and what was expected. Raises `ValueError` if the case has no data.
    """
    case, data = loaded.case, loaded.case.data
    if data is None:
        raise ValueError("The case has no [data], so there is no data file to read.")
    path = loaded.folder / data.file
    rows = _read_rows(path, data, loaded)
    return _long_form(path, rows, case, data)


def _read_rows(path: Path, data: DataTable, loaded: LoadedCase) -> list[_Row]:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CaseError(
                loaded.source,
                "data.file",
                f"is {described(data.file)}, a device or a pipe",
                "a CSV file",
            )
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_parse_rows(file, path, data, loaded))
    except FileNotFoundError:
        raise CaseError(
            loaded.source,
            "data.file",
            f"is {described(data.file)}, and {path} does not exist",
            "a CSV file, relative to the case file",
        ) from None
    except IsADirectoryError:
        raise CaseError(
            loaded.source, "data.file", f"is {described(data.file)}, a folder", "a CSV file"
        ) from None
    except UnicodeDecodeError as error:
        raise CaseError(
            str(path), "data.file", f"is not UTF-8 text ({error.reason})", "a CSV file in UTF-8"
        ) from None
    except csv.Error as error:
        raise CaseError(
            str(path), "data.file", f"cannot be read as CSV ({error})", "a CSV file"
        ) from None
    except OSError as error:
        raise CaseError(
            str(path), "data.file", f"cannot be read ({error.strerror})", "a CSV file"
        ) from None


def _parse_rows(
    file: TextIO, path: Path, data: DataTable, loaded: LoadedCase
) -> Iterator[_Row]:
    comments = 0
    line = file.readline()
    while line.startswith("#") or (line and not line.strip()):
        comments += 1
        line = file.readline()
    header = [name.strip() for name in next(csv.reader([line], strict=True), [])]
    if not any(header):
        raise CaseError(str(path), "line 1", "is missing", "a line with the column names")
    _check_header(header, path, comments + 1, data, loaded)
    reader = csv.reader(file, strict=True)
    for fields in reader:
        if not fields:
            continue
        position = comments + 1 + reader.line_num
        if len(fields) != len(header):
            raise CaseError(
                str(path),
                f"line {position}",
                f"has {len(fields)} field{'' if len(fields) == 1 else 's'}",
                f"{len(header)}, one for each column",
            )
        yield _Row(
            position,
            {name: field.strip() for name, field in zip(header, fields, strict=True)},
        )


def _check_header(
    header: Sequence[str], path: Path, line: int, data: DataTable, loaded: LoadedCase
) -> None:
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise CaseError(
            str(path),
            f"line {line}",
            f"names the column {quoted(repeated[0])} twice",
            "a name of its own for each column",
        )
    wanted = {"data.time": data.time}
    if data.group is not None:
        wanted["data.group"] = data.group
    for name, observable in data.observables.items():
        wanted[f"data.observables.{name}.column"] = observable.column
    for name, column in data.inputs.items():
        wanted[f"data.inputs.{name}"] = column
    for key, column in wanted.items():
        if column not in header:
            known = [name for name in header if name]
            raise CaseError(
                loaded.source,
                key,
                f"is {described(column)}",
                choice(column, known, f"a column of {path}:"),
            )


def _long_form(
    path: Path, rows: Sequence[_Row], case: Case, data: DataTable
) -> MeasurementTable:
    inputs: dict[str, dict[str, float]] = {}
    missing = dict.fromkeys(data.observables, 0)
    entries: list[tuple[str, int, float, int, float]] = []
    order = list(data.observables)
    for row in rows:
        group = _group(path, row, data)
        time = _time(path, row, case, data)
        _collect_inputs(path, row, group, data, inputs)
        for name, observable in data.observables.items():
            text = row.fields[observable.column]
            if not text:
                missing[name] += 1
                continue
            value = _number(path, row, observable.column, "a number, or nothing if missing")
            _check_support(path, row, observable.column, value, observable.noise)
            entries.append((group, order.index(name), time, row.line, value))
    _check_measured(path, entries, data, order)
    groups = list(inputs)
    rank = {name: index for index, name in enumerate(groups)}
    entries.sort(key=lambda entry: (rank[entry[0]], entry[1], entry[2]))
    return MeasurementTable(
        path=path,
        groups=tuple(groups),
        group=tuple(entry[0] for entry in entries),
        observable=tuple(order[entry[1]] for entry in entries),
        time=tuple(entry[2] for entry in entries),
        value=tuple(entry[4] for entry in entries),
        line=tuple(entry[3] for entry in entries),
        inputs=inputs,
        missing=missing,
    )


def _group(path: Path, row: _Row, data: DataTable) -> str:
    if data.group is None:
        return SINGLE_GROUP
    name = row.fields[data.group]
    if not name:
        raise _field_error(path, row, data.group, "is empty", "the name of a group")
    return one_line(name)


def _time(path: Path, row: _Row, case: Case, data: DataTable) -> float:
    time = _number(path, row, data.time, "a time, a finite number")
    start, stop = case.times.start, case.times.stop
    if time < start:
        raise _field_error(
            path,
            row,
            data.time,
            f"is {described(time)}",
            f"a time of at least times.start = {number(start)}",
        )
    if stop is not None and time > stop:
        raise _field_error(
            path,
            row,
            data.time,
            f"is {described(time)}",
            f"a time of at most times.stop = {number(stop)}",
        )
    return time


def _collect_inputs(
    path: Path, row: _Row, group: str, data: DataTable, inputs: dict[str, dict[str, float]]
) -> None:
    known = inputs.setdefault(group, {})
    for name, column in data.inputs.items():
        value = _number(path, row, column, f"a number for the input {name}")
        if known.setdefault(name, value) != value:
            raise _field_error(
                path,
                row,
                column,
                f"is {described(value)}",
                f"{number(known[name])} as in the other lines of group {quoted(group)}",
            )


def _check_support(path: Path, row: _Row, column: str, value: float, noise: str) -> None:
    if noise == "log_normal" and value <= 0:
        expected = "a positive number, for its noise is log_normal"
    elif noise in COUNTS and (value < 0 or value != int(value)):
        expected = f"a whole number from 0, for its noise is {noise}"
    else:
        return
    raise _field_error(path, row, column, f"is {described(value)}", expected)


def _check_measured(
    path: Path,
    entries: Sequence[tuple[str, int, float, int, float]],
    data: DataTable,
    order: Sequence[str],
) -> None:
    measured = {order[entry[1]] for entry in entries}
    for name, observable in data.observables.items():
        if name not in measured:
            raise CaseError(
                str(path),
                f"column {quoted(observable.column)}",
                "holds no measurement",
                f"at least one number, for the observable {name}",
            )


def _number(path: Path, row: _Row, column: str, expected: str) -> float:
    text = row.fields[column]
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if math.isfinite(value):
        return value
    came = f"is {described(text)}" if text else "is empty"
    raise _field_error(path, row, column, came, expected)


def _field_error(path: Path, row: _Row, column: str, came: str, expected: str) -> CaseError:
    return CaseError(str(path), f"line {row.line}, column {quoted(column)}", came, expected)
