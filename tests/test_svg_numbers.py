"""Figures agree with the file: numbers are read back from the SVG and compared with HDF5.

Positions in the drawing become numbers by the ticks of the axes and what is written at them.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest

from simkit import plots
from simkit.results import Fit, Trajectory
from simkit.store.reader import load
from simkit.store.writer import save

from .samples import sample_ensemble, sample_fit, sample_trajectory


SVG = "{http://www.w3.org/2000/svg}"
# Half the last digit of a position in the file, in points, and as much for the ticks.
CLOSE = 2e-4


def scale(panel: ElementTree.Element, axis: str) -> np.ndarray:
    """Coefficients of the line from a position to a number, by the ticks of an axis."""
    places, numbers = [], []
    for tick in panel.iter(f"{SVG}g"):
        if not re.fullmatch(rf"{axis}tick_\d+", tick.get("id", "")):
            continue
        label = next(item for item in tick.iter() if item.tag is ElementTree.Comment)
        number = re.search(r"-?\d+(\.\d+)?", str(label.text).replace("\u2212", "-"))
        assert number is not None
        # The line of the grid comes first; the mark at its end has the place.
        place = next(use.get(axis) for use in tick.iter(f"{SVG}use"))
        places.append(float(place or ""))
        numbers.append(float(number[0]))
    assert len(places) >= 2
    line = np.polyfit(places, numbers, 1)
    np.testing.assert_allclose(np.polyval(line, places), numbers, atol=1e-3 * abs(line[0]))
    return line


class Panel:
    """One panel of a figure in a file, with its curves and points in numbers of the data."""

    def __init__(self, group: ElementTree.Element, lowest: ElementTree.Element) -> None:
        self.group = group
        # Panels above each other share the axis of the lowest.
        self._x = scale(lowest, "x")
        self._y = scale(group, "y")

    def to_data(self, positions: np.ndarray) -> np.ndarray:
        columns = [
            np.polyval(line, positions[:, i]) for i, line in enumerate((self._x, self._y))
        ]
        return np.stack(columns, axis=1)

    @property
    def resolution(self) -> np.ndarray:
        """What the digits of the file leave open, in numbers of the data."""
        return CLOSE * np.abs([self._x[0], self._y[0]])

    def curves(self) -> list[np.ndarray]:
        """The points of each curve that is clipped to the panel, shape `(point, 2)`."""
        found = []
        for path in self.group.iter(f"{SVG}path"):
            corners = re.findall(r"[ML] (\S+) (\S+)", path.get("d", ""))
            if path.get("clip-path") and corners and "z" not in path.get("d", ""):
                found.append(self.to_data(np.array(corners, dtype=float)))
        return found

    def points(self) -> list[np.ndarray]:
        """The places of each row of markers in the panel."""
        found = []
        for group in self.group.iter(f"{SVG}g"):
            if not group.get("clip-path"):
                continue
            uses = [(use.get("x"), use.get("y")) for use in group.findall(f"{SVG}use")]
            found.append(self.to_data(np.array(uses, dtype=float)))
        return found

    def holds(self, drawn: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> bool:
        wanted = np.stack([x, y], axis=1)
        return any(
            points.shape == wanted.shape
            and bool(np.all(np.abs(points - wanted) <= self.resolution + 1e-9 * np.abs(wanted)))
            for points in drawn
        )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file as any program sees it."""
    with h5py.File(path) as file:
        yield file


def panels(path: Path) -> list[Panel]:
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    root = ElementTree.parse(path, parser).getroot()
    axes = [g for g in root.iter(f"{SVG}g") if re.fullmatch(r"axes_\d+", g.get("id", ""))]
    return [Panel(group, axes[-1]) for group in axes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Result files of three kinds, and the figures that were drawn from each."""
    folder = tmp_path_factory.mktemp("figures")
    samples: dict[str, Trajectory | Fit] = {
        "solve": sample_trajectory(), "ensemble": sample_ensemble(40), "fit": sample_fit()
    }  # fmt: skip
    for name, result in samples.items():
        save(result, folder / f"{name}.h5")
        plots.save_figures(load(folder / f"{name}.h5"), folder / name, ["svg"])
    return folder


def test_the_states_of_a_solve(folder: Path) -> None:
    (panel,) = panels(folder / "solve/trajectory.svg")
    with opened(folder / "solve.h5") as file:
        for name in ("prey", "predator"):
            values = file[f"states/{name}"][:]
            assert panel.holds(panel.curves(), file["time"][:], values)
            apart = values + 0.01
            assert not panel.holds(panel.curves(), file["time"][:], apart)


def test_the_phase_portrait_of_a_solve(folder: Path) -> None:
    (panel,) = panels(folder / "solve/phase.svg")
    with opened(folder / "solve.h5") as file:
        prey, predator = (file[f"states/{name}"][:] for name in ("prey", "predator"))
    assert panel.holds(panel.curves(), prey, predator)
    assert panel.holds(panel.points(), prey[:1], predator[:1])
    assert panel.holds(panel.points(), prey[-1:], predator[-1:])


def test_the_median_and_single_members_of_an_ensemble(folder: Path) -> None:
    drawn = panels(folder / "ensemble/trajectory.svg")
    with opened(folder / "ensemble.h5") as file:
        good = file["status"].asstr()[:] == "successful"
        times = file["time"][:]
        for panel, name in zip(drawn, ("prey", "predator"), strict=True):
            values = file[f"states/{name}"][:][good]
            curves = panel.curves()
            assert panel.holds(curves, times, np.median(values, axis=0))
            assert sum(panel.holds(curves, times, member) for member in values) == 5


def test_measurements_and_the_curve_of_a_fit(folder: Path) -> None:
    drawn = panels(folder / "fit/fit.svg")
    with opened(folder / "fit.h5") as file:
        observable = file["observations/observable"].asstr()[:]
        for panel, name in zip(drawn, ("prey", "predator"), strict=True):
            mine = observable == name
            time, measured = (
                file[f"observations/{each}"][:][mine] for each in ("time", "measured")
            )
            assert panel.holds(panel.points(), time, measured)
            curve = file[f"uncertainty/curves/fitted/{name}"][0]
            assert panel.holds(panel.curves(), file["uncertainty/curves/time"][0], curve)
