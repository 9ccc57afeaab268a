"""A molecular trajectory in its file as plain values for `--json`, and in words."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simkit.config.errors import one_line


if TYPE_CHECKING:
    from simkit.store.h5md_frames import FrameFile

_OBSERVABLES = ("temperature", "pressure", "potential_energy", "total_energy", "density")


def molecular_summary(file: "FrameFile", path: Path) -> dict[str, Any]:
    """The object that `--json` prints for a molecular run, or for its file."""
    import numpy as np

    from simkit.molecular.findings_tables import times_of
    from simkit.molecular.series import frame_series

    facts, statistics = file.facts, file.statistics
    series = frame_series(file)
    with np.errstate(all="ignore"):  # numbers near the largest overflow in sums
        means = {name: float(item.values.mean()) for name, item in series.items()}
    box = file.box_vectors
    minimised = "minimisation_steps" in statistics
    return {
        "kind": "molecular_trajectory",
        "title": facts.get("title", ""),
        "system": facts.get("system", ""),
        "method": facts.get("method", ""),
        "status": facts.get("status", "unknown"),
        "message": facts.get("message", ""),
        "engine": facts.get("engine") or None,
        "engine_reason": facts.get("engine_reason") or None,
        "particles": file.particles,
        "steps": _last_step(file),
        "frames": file.frames,
        "times": times_of(file.times, file.units.get("time", "1")),
        "box": None
        if box is None or not file.frames
        else {
            "unit": file.units.get("length", "1"),
            "first": box[0].tolist(),
            "last": box[-1].tolist(),
        },
        "minimisation": {
            "steps": _whole(statistics["minimisation_steps"]),
            "largest_force": statistics.get("minimisation_force", float("nan")),
            "converged": bool(statistics.get("minimisation_converged")),
        }
        if minimised
        else None,
        "steps_per_second": statistics.get("steps_per_second"),
        "nanoseconds_per_day": statistics.get("nanoseconds_per_day"),
        "observables": {
            name: {
                "unit": series[name].unit,
                "mean": means[name],
                "last": float(series[name].values[-1]),
            }
            for name in _OBSERVABLES
            if name in series and file.frames
        },
        "files": {"result": str(path)},
    }


def print_molecules(values: dict[str, Any]) -> None:
    """A summary in words."""
    if values["title"]:
        click.echo(one_line(values["title"]))
    of = f" of {values['system']}" if values["system"] else ""
    by = f" by {values['method']}" if values["method"] else ""
    speed = ""
    if values["steps_per_second"]:
        speed = f", {values['steps_per_second']:,.0f} steps/s"
        if values["nanoseconds_per_day"]:
            speed += f", {values['nanoseconds_per_day']:,.4g} ns/day"
        speed += " (with compiling)"
    particles = f"{values['particles']} particles{of}{by}"
    frames = f"{values['frames']} frame{'' if values['frames'] == 1 else 's'}"
    click.echo(one_line(f"{particles}: {values['steps']} steps, {frames}{speed}."))
    if values["engine"]:
        click.echo(one_line(f"engine: {values['engine']} ({values['engine_reason']})"))
    _print_times(values["times"])
    _print_box(values["box"])
    found = values["minimisation"]
    if found is not None:
        how = "converged" if found["converged"] else "gave up"
        click.echo(
            f"minimisation: {how} after {found['steps']} steps, largest force "
            f"{found['largest_force']:.3g}"
        )
    for name, item in values["observables"].items():
        unit = _unit(item["unit"])
        mean, last = item["mean"], item["last"]
        words = f"{name.replace('_', ' ')}: mean {mean:.6g}{unit}, last {last:.6g}{unit}"
        click.echo(one_line(words))


def _print_times(times: dict[str, Any]) -> None:
    start, stop = times["start"], times["stop"]
    if stop is not None and start is not None and stop > start:
        click.echo(one_line(f"time: {start:.6g} to {stop:.6g}{_unit(times['unit'])}"))


def _print_box(box: dict[str, Any] | None) -> None:
    if box is None:
        click.echo("box: open")
        return
    first, last = (_edges(box[name]) for name in ("first", "last"))
    changed = "" if first == last else f" at the start, {last} at the end"
    click.echo(one_line(f"box: {first}{changed}{_unit(box['unit'])}"))


def _edges(vectors: list[list[float]]) -> str:
    """The lengths of the edges, with the angles if they are not right."""
    import math

    lengths = [math.hypot(*vector) for vector in vectors]
    words = " x ".join(f"{length:.6g}" for length in lengths)
    skew = any(vectors[i][j] for i in range(3) for j in range(3) if i != j)
    return f"{words} (triclinic)" if skew else words


def _unit(unit: str) -> str:
    return "" if unit == "1" else f" {unit}"


def _last_step(file: "FrameFile") -> int:
    """The step at which a run stopped, or that of the last frame."""
    if "steps" in file.statistics:
        return _whole(file.statistics["steps"])
    return _whole(float(file.steps[-1])) if file.frames else 0


def _whole(value: float) -> int:
    import math

    return max(0, int(value)) if math.isfinite(value) else 0
