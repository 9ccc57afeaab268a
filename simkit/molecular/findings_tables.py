"""A molecular trajectory in numbers as plain values and flat tables, for files and `--json`."""

from typing import Any

import numpy as np

from simkit.analysis.base import Analysis
from simkit.molecular.findings import MolecularFindings
from simkit.molecular.series import frame_series
from simkit.molecular.values import Curve
from simkit.store.h5md_frames import FrameFile
from simkit.tabular import Column, FlatTable


def analysis_of(findings: MolecularFindings) -> Analysis:
    """Findings as `simkit analyse` prints and writes them."""
    values = {
        "kind": "molecules",
        "title": findings.title,
        "status": findings.status,
        "particles": findings.particles,
        "frames": findings.frames,
        "skipped": findings.skipped,
        "times": times_of(findings.times, findings.time_unit),
        "averages": {
            item.name: {
                "unit": item.unit,
                "mean": float(item.value),
                "standard_error": float(item.standard_error),
            }
            for item in findings.averages
        },
        "curves": {curve.name: _curve_values(curve) for curve in findings.curves},
        "notes": list(findings.notes),
    }
    tables = [_averages_table(findings), _series_table(findings)]
    tables += [_curve_table(curve) for curve in findings.curves]
    return Analysis(values, tuple(tables))


def times_of(times: np.ndarray, unit: str) -> dict[str, Any]:
    """The first and the last time; not a number where the file has none."""
    return {
        "start": float(times[0]) if len(times) else None,
        "stop": float(times[-1]) if len(times) else None,
        "number": len(times),
        "unit": unit,
    }


def frame_tables(file: FrameFile) -> tuple[FlatTable, ...]:
    """What a file has for each frame, but for its particles: quantities, and the box."""
    columns = [
        Column("step", file.steps, "", "step of the run"),
        Column("time", file.times, file.units.get("time", ""), "time of the frame"),
    ]
    columns += [
        Column(name, item.values, _unit(item.unit), name.replace("_", " "))
        for name, item in frame_series(file).items()
    ]
    if file.box_vectors is not None:
        unit = file.units.get("length", "")
        for row, vector in enumerate("abc"):
            for place, axis in enumerate("xyz"):
                columns.append(
                    Column(
                        f"box_{vector}{axis}",
                        file.box_vectors[:, row, place],
                        unit,
                        f"component {axis} of the vector {vector} of the box",
                    )
                )
    return (FlatTable("frames", (_frames(file.frames),), tuple(columns)),)


def file_texts(file: FrameFile) -> dict[str, dict[str, Any]]:
    """What a file says about its run, by table and name."""
    known = ("title", "system", "method", "status", "message", "units", "species")
    texts: dict[str, Any] = {name: file.facts[name] for name in known if name in file.facts}
    texts |= {"particles": file.particles, "command": file.provenance.command}
    return {"": texts}


def _unit(unit: str) -> str:
    return "" if unit == "1" else unit


def _frames(count: int) -> Column:
    return Column("frame", np.arange(count), "", "number of the frame, from 0")


def _curve_values(curve: Curve) -> dict[str, Any]:
    return {
        "unit": curve.unit,
        "coordinate": {
            "name": curve.coordinate_name,
            "unit": curve.coordinate_unit,
            "values": curve.coordinate.tolist(),
        },
        "values": curve.value.tolist(),
        "standard_errors": curve.standard_error.tolist(),
    }


def _averages_table(findings: MolecularFindings) -> FlatTable:
    items = findings.averages
    names = np.asarray([item.name for item in items], dtype=str)
    columns = (
        Column("average", np.asarray([float(i.value) for i in items]), "", "over the frames"),
        Column(
            "standard_error",
            np.asarray([float(item.standard_error) for item in items]),
            "",
            "of the average, by blocks of frames",
        ),
        Column("unit", np.asarray([_unit(i.unit) for i in items], dtype=str), "", "its unit"),
    )
    return FlatTable("averages", (Column("quantity", names, "", "what it is"),), columns)


def _series_table(findings: MolecularFindings) -> FlatTable:
    columns = [Column("time", findings.times, _unit(findings.time_unit), "time of the frame")]
    columns += [
        Column(name, item.values, _unit(item.unit), name.replace("_", " "))
        for name, item in findings.series.items()
    ]
    return FlatTable("frames", (_frames(findings.frames),), tuple(columns))


def _curve_table(curve: Curve) -> FlatTable:
    axis = Column(
        curve.coordinate_name, curve.coordinate, _unit(curve.coordinate_unit), "coordinate"
    )
    columns = (
        Column("value", curve.value, _unit(curve.unit), curve.name),
        Column("standard_error", curve.standard_error, _unit(curve.unit), "of the value"),
    )
    return FlatTable(_file_name(curve.name), (axis,), columns)


def _file_name(name: str) -> str:
    """Fit to be the name of a file."""
    return "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in name)
