"""Figures show the numbers of the result, in words where numbers are missing."""

import dataclasses
import itertools
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simkit import plots
from simkit.plots import style
from simkit.plots.trajectories import ensemble_quantiles
from simkit.results import Trajectory

from .helpers_plots import (
    band_edges,
    draw,
    grouped_fit,
    has_line,
    hostile_trajectory,
    lines,
    said,
)
from .samples import sample_ensemble, sample_fit, sample_trajectory


@pytest.fixture(scope="module")
def ensemble() -> Trajectory:
    return sample_ensemble(40)


def test_one_solve_is_drawn_as_it_is() -> None:
    result = sample_trajectory()
    figure = draw(plots.trajectory(result))
    (axes,) = figure.axes
    for state in result.states.values():
        assert has_line(axes, result.times, state)
    assert axes.get_xlabel() == "time (year)"
    assert axes.get_ylabel() == "prey, predator (thousand)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["prey", "predator"]


def test_states_of_different_units_get_their_own_panels() -> None:
    result = dataclasses.replace(
        sample_trajectory(),
        state_units={"prey": "thousand", "predator": "kg"},
        status=np.array("maximum number of steps reached"),
    )
    figure = draw(plots.trajectory(result))
    assert [axes.get_ylabel() for axes in figure.axes] == ["prey (thousand)", "predator (kg)"]
    for axes, state in zip(figure.axes, result.states.values(), strict=True):
        assert has_line(axes, result.times, state)
    assert "did not reach the end: maximum number of steps reached." in said(figure)


def test_number_without_dimension_has_no_unit() -> None:
    result = dataclasses.replace(sample_trajectory(), state_units={}, time_unit="1")
    (axes,) = plots.trajectory(result, states=["prey"]).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time", "prey")


def test_median_and_bands_are_quantiles_of_the_good_members(ensemble: Trajectory) -> None:
    figure = draw(plots.trajectory(ensemble))
    good = ensemble.succeeded
    assert not good.all()
    for axes, (name, values) in zip(figure.axes, ensemble.states.items(), strict=True):
        assert axes.get_ylabel() == f"{name} (thousand)"
        assert has_line(axes, ensemble.times, np.median(values[good], axis=0))
        edges = band_edges(axes)
        assert len(edges) == 2
        for outline, level in zip(edges, (0.9, 0.5), strict=True):
            tails = np.quantile(values[good], [(1 - level) / 2, (1 + level) / 2], axis=0)
            assert {round(float(y), 9) for y in tails.ravel()} <= outline
        for points in lines(axes)[:-1]:
            assert any(np.array_equal(points[:, 1], member) for member in values[good])
    assert "1 of 40 members failed and is left out." in said(figure)


def test_quantiles_pass_over_missing_values() -> None:
    base = sample_ensemble(12)
    prey = base.states["prey"].copy()
    prey[0, 5], prey[1, 6], prey[:, 7] = np.nan, np.inf, np.nan
    result = dataclasses.replace(base, states=base.states | {"prey": prey})
    quantiles = ensemble_quantiles(result, "prey")
    good = prey[base.succeeded]
    np.testing.assert_allclose(quantiles[2, 5], np.median(good[1:, 5]))
    np.testing.assert_allclose(quantiles[2, 6], np.median(np.delete(good[:, 6], 1)))
    assert np.isnan(quantiles[:, 7]).all()
    draw(plots.trajectory(result))
    draw(plots.phase(result))


def test_ensemble_of_which_every_member_failed() -> None:
    base = sample_ensemble(5)
    states = {name: np.full_like(values, np.nan) for name, values in base.states.items()}
    result = dataclasses.replace(base, states=states, status=np.full(5, "the step shrank"))
    for name, figure in plots.all_figures(result).items():
        text = said(draw(figure))
        assert "all 5 members failed" in text, name
        assert "5 of 5 members failed" in text, name
        assert not figure.legends


def test_phase_portrait_marks_start_and_last_finite_point() -> None:
    base = sample_trajectory()
    prey = base.states["prey"].copy()
    prey[15:] = np.nan
    result = dataclasses.replace(
        base, states=base.states | {"prey": prey}, status=np.array("the step shrank")
    )
    figure = draw(plots.phase(result))
    (axes,) = figure.axes
    path, start, end = lines(axes)
    np.testing.assert_array_equal(path, np.stack([prey, base.states["predator"]], axis=1))
    np.testing.assert_array_equal(start[0], path[0])
    np.testing.assert_array_equal(end[0], path[14])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prey (thousand)", "predator (thousand)")
    assert "did not reach the end: the step shrank." in said(figure)


def test_phase_portrait_of_other_states_and_of_an_ensemble(ensemble: Trajectory) -> None:
    (axes,) = plots.phase(ensemble, x="predator", y="prey").axes
    assert axes.get_xlabel() == "predator (thousand)"
    assert len(axes.lines) == 30 + 2
    assert "30 of 39 members drawn. 1 of 40 members failed" in said(plots.phase(ensemble))


def test_unknown_state_is_named() -> None:
    with pytest.raises(ValueError, match="got 'wolf', expected one of prey, predator"):
        plots.phase(sample_trajectory(), x="wolf")
    with pytest.raises(ValueError, match="got 'wolf', expected one of prey, predator"):
        plots.trajectory(sample_trajectory(), states=["wolf"])


def test_names_too_long_for_an_axis_stand_above_the_panel() -> None:
    base = sample_trajectory()
    names = [f"concentration_of_the_phosphorylated_receptor_{index}" for index in range(2)]
    states = dict(zip(names, base.states.values(), strict=True))
    units = dict(zip(names, ("mol/L", "1"), strict=True))
    figure = draw(plots.trajectory(dataclasses.replace(base, states=states, state_units=units)))
    assert [axes.get_ylabel() for axes in figure.axes] == ["mol/L", "value"]
    assert [axes.get_title("left")[-3:] for axes in figure.axes] == ["r_0", "r_1"]


def test_single_saved_time_is_a_point() -> None:
    base = sample_trajectory()
    states = {name: values[:1] for name, values in base.states.items()}
    (axes,) = draw(
        plots.trajectory(dataclasses.replace(base, times=base.times[:1], states=states))
    ).axes
    assert [line.get_marker() for line in axes.lines] == ["o", "o"]


def test_many_states_are_limited_and_that_is_said() -> None:
    base = sample_trajectory()
    states = {f"cell_{index}": base.states["prey"] + index for index in range(30)}
    figure = plots.trajectory(dataclasses.replace(base, states=states, state_units={}))
    assert len(figure.axes) == 24
    assert "24 of 30 states drawn." in said(figure)


def test_long_trajectories_become_pixels_in_vector_files() -> None:
    times = np.linspace(0.0, 100.0, 20_001)
    values = np.random.default_rng(0).standard_normal(times.size)
    result = dataclasses.replace(
        sample_trajectory(), times=times, states={"prey": values, "predator": values[::-1]}
    )
    for figure in plots.all_figures(result).values():
        assert len(style.render(figure, "svg")) < 1_000_000


@pytest.fixture(scope="module")
def every_figure() -> list[tuple[str, Figure, Any]]:
    """Names and drawn figures of several results, with what measures their text."""
    answer = []
    for result in (sample_trajectory(), sample_ensemble(), sample_fit(), grouped_fit(3)):
        for name, figure in plots.all_figures(result).items():
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            answer.append((name, figure, canvas.get_renderer()))
    return answer


def test_every_axis_is_labelled(every_figure: list[tuple[str, Figure, Any]]) -> None:
    for name, figure, _ in every_figure:
        text = said(figure)
        if name == "correlations":
            assert figure.axes[-1].get_ylabel() == "correlation"
            continue
        assert any(axes.get_xlabel() for axes in figure.axes), name
        assert any(axes.get_ylabel() for axes in figure.axes), name
        if name != "waterfall":
            assert "(year)" in text or "(thousand)" in text, name


def test_legends_hide_no_data(every_figure: list[tuple[str, Figure, Any]]) -> None:
    for name, figure, renderer in every_figure:
        for drawn in figure.legends:
            box = drawn.get_window_extent(renderer)
            for axes in figure.axes:
                assert not box.overlaps(axes.get_window_extent(renderer)), name
            assert box.x0 >= 0, name
            assert box.x1 <= figure.bbox.x1, name


def test_tick_labels_do_not_overlap(every_figure: list[tuple[str, Figure, Any]]) -> None:
    for name, figure, renderer in every_figure:
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                boxes = [
                    label.get_window_extent(renderer)
                    for label in axis.get_ticklabels()
                    if label.get_visible() and label.get_text()
                ]
                for first, second in itertools.pairwise(boxes):
                    assert not first.overlaps(second), name


@pytest.mark.parametrize("text", ["$\\frac{", "_hidden", "a\x00b\nc", "<b>&amp;", "x" * 300])
def test_text_of_any_kind_is_drawn_as_it_is(text: str) -> None:
    result = hostile_trajectory(text)
    for figure in plots.all_figures(result).values():
        draw(figure)
        assert style.render(figure, "svg")
    (axes,) = plots.trajectory(result).axes
    assert len(axes.get_ylabel()) < 150


def test_same_result_gives_same_bytes(tmp_path: Path) -> None:
    # The SVG must not depend on the PNG that was saved before it.
    first = plots.save_figures(sample_fit(), tmp_path / "first", ("png", "svg"))
    second = plots.save_figures(sample_fit(), tmp_path / "second", ("svg",))
    names = ["fit", "residuals", "waterfall", "correlations"]
    assert [path.name for path in first] == [f"{n}.{s}" for n in names for s in ("png", "svg")]
    for one, other in zip(first[1::2], second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert {path.name for path in (tmp_path / "first").iterdir()} == {p.name for p in first}
    result, formats = sample_trajectory(), ("png", "pdf")
    once = plots.save_figures(result, tmp_path / "once", formats)
    twice = plots.save_figures(result, tmp_path / "twice", formats)
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in twice]


def test_files_are_what_their_names_say(tmp_path: Path) -> None:
    png, svg, pdf = plots.save_figures(
        dataclasses.replace(sample_trajectory(), states={"prey": np.ones(21)}),
        tmp_path,
        ("png", "svg", "pdf"),
    )
    head = png.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    assert struct.unpack(">II", head[16:])[0] == 1300
    text = svg.read_text()
    assert "<dc:date>" not in text
    assert "CreationDate" not in pdf.read_bytes().decode("latin-1")


def test_unknown_format_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 'gif', expected one of png, svg, pdf"):
        plots.save_figures(sample_trajectory(), tmp_path / "new", ("png", "gif"))
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="got '', expected one of"):
        plots.save(plots.trajectory(sample_trajectory()), tmp_path / "nosuffix")


def test_other_things_are_refused() -> None:
    thing: Any = {"states": 1}
    with pytest.raises(TypeError, match="got dict, expected a Trajectory or a Fit"):
        plots.all_figures(thing)


def test_global_settings_stay_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    for figure in plots.all_figures(sample_trajectory()).values():
        style.render(figure, "svg")
    assert dict(matplotlib.rcParams) == before


def test_neither_pyplot_nor_jax_is_imported() -> None:
    program = (
        "import sys; import simkit.plots; "
        "print([name for name in ('matplotlib.pyplot', 'jax', 'h5py') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
