"""Figures show the numbers of the result, in words where numbers are missing."""

import dataclasses
import io
import itertools
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from simkit import plots
from simkit.plots import style
from simkit.plots.diagnostics import PLATEAU, above_best, parameter_correlations
from simkit.plots.trajectories import ensemble_quantiles
from simkit.results import CurveTable, Fit, ObservationTable, StartTable, Trajectory

from .samples import sample_ensemble, sample_fit, sample_trajectory


@pytest.fixture(scope="module")
def fit() -> Fit:
    return sample_fit()


@pytest.fixture(scope="module")
def ensemble() -> Trajectory:
    return sample_ensemble(40)


def draw(figure: Figure) -> Figure:
    """Draw it, so that anything lazy happens; a warning fails the test."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def lines(axes: Axes) -> list[np.ndarray]:
    """The points of each line, shape `(point, 2)`."""
    return [np.asarray(line.get_xydata(), dtype=float) for line in axes.lines]


def said(figure: Figure) -> str:
    """All text of a figure that is no tick label."""
    texts = [*figure.texts]
    if figure._supxlabel is not None:  # pyright: ignore[reportAttributeAccessIssue]
        texts.append(figure._supxlabel)  # pyright: ignore[reportAttributeAccessIssue]
    for drawn in figure.legends:
        texts += drawn.get_texts()
    for axes in figure.axes:
        texts += [axes.xaxis.label, axes.yaxis.label, axes.title, *axes.texts]
    return " ".join(text.get_text().replace("\n", " ") for text in texts)


def has_line(axes: Axes, x: np.ndarray, y: np.ndarray) -> bool:
    wanted = np.stack([x, y], axis=1)
    return any(
        points.shape == wanted.shape and np.array_equal(points, wanted, equal_nan=True)
        for points in lines(axes)
    )


def band_edges(axes: Axes) -> list[set[float]]:
    """The heights that the outline of each band passes, rounded."""
    return [
        {round(float(y), 9) for y in band.get_paths()[0].vertices[:, 1]}  # pyright: ignore
        for band in axes.collections
        if isinstance(band, PolyCollection)
    ]


def grouped_fit(groups: int) -> Fit:
    """The sample with its data repeated for several groups."""
    base = sample_fit()
    names = np.array([str(index + 1) for index in range(groups)])
    table, curves = base.observations, base.curves
    rows = table.time.size

    def repeated(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"prey": np.tile(values["prey"], (groups, 1))}

    keep = table.observable == "prey"
    columns = {
        field.name: np.tile(getattr(table, field.name)[keep], groups)
        for field in dataclasses.fields(table)
    }
    columns["group"] = np.repeat(names, rows // 2)
    many = CurveTable(
        group=names,
        time=np.tile(curves.time, (groups, 1)),
        fitted=repeated(curves.fitted),
        lower={},
        upper={},
        predictive_lower={},
        predictive_upper={},
        units={"prey": "thousand"},
    )
    return dataclasses.replace(
        base, observations=ObservationTable(**columns), curves=many, uncertainty=None
    )


def many_parameters(count: int) -> Fit:
    """The sample with so many parameters and a random covariance."""
    base = sample_fit(with_uncertainty=False)
    factor = np.random.default_rng(3).standard_normal((count, count + 2))
    columns = {
        field.name: np.resize(getattr(base.parameters, field.name), count)
        for field in dataclasses.fields(base.parameters)
    }
    columns["name"] = np.array([f"elimination_rate[{index + 1}]" for index in range(count)])
    return dataclasses.replace(
        base,
        parameters=type(base.parameters)(**columns),
        covariance=factor @ factor.T,
    )


def hostile_trajectory(text: str) -> Trajectory:
    base = sample_trajectory()
    states = {f"{text}{index}": values for index, values in enumerate(base.states.values())}
    units = dict.fromkeys(states, f"{text} per $m^2")
    return dataclasses.replace(
        base, title=text, states=states, state_units=units, time_unit=text
    )


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


def test_data_and_fit_shows_measurements_curves_and_bands(fit: Fit) -> None:
    assert fit.uncertainty is not None
    curves, table = fit.uncertainty.curves, fit.observations
    figure = draw(plots.fit(fit))
    for axes, name in zip(figure.axes, ("prey", "predator"), strict=True):
        mine = table.observable == name
        assert axes.get_ylabel() == f"{name} (thousand)"
        assert has_line(axes, table.time[mine], table.measured[mine])
        assert has_line(axes, curves.time[0], curves.fitted[name][0])
        outer, inner = band_edges(axes)
        for edge, low, high in (
            (outer, curves.predictive_lower, curves.predictive_upper),
            (inner, curves.lower, curves.upper),
        ):
            assert {round(float(y), 9) for y in (*low[name][0], *high[name][0])} <= edge
    assert figure.axes[-1].get_xlabel() == "time (year)"
    assert "90 % band: curve 90 % band: new measurement" in said(figure)
    assert "2 draws could not be solved and are left out of the bands." in said(figure)


def test_without_uncertainty_there_is_no_band() -> None:
    figure = draw(plots.fit(sample_fit(with_uncertainty=False)))
    assert "band" not in said(figure)
    assert not any(band_edges(axes) for axes in figure.axes)


def test_bands_that_are_nowhere_finite_are_not_drawn(fit: Fit) -> None:
    assert fit.uncertainty is not None
    curves = fit.uncertainty.curves
    nothing = {name: np.full_like(values, np.nan) for name, values in curves.lower.items()}
    curves = dataclasses.replace(
        curves,
        lower=nothing,
        upper=nothing,
        predictive_lower=nothing,
        predictive_upper=nothing,
    )
    uncertainty = dataclasses.replace(fit.uncertainty, curves=curves)
    assert "band:" not in said(
        draw(plots.fit(dataclasses.replace(fit, uncertainty=uncertainty)))
    )


def test_twelve_groups_share_one_axis_and_each_has_its_label() -> None:
    result = grouped_fit(12)
    figure = draw(plots.fit(result))
    assert [axes.get_title("left") for axes in figure.axes] == [
        f"group {index}" for index in range(1, 13)
    ]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert sum(axes.get_xlabel() == "time (year)" for axes in figure.axes) == 4
    assert sum(axes.get_ylabel() == "prey (thousand)" for axes in figure.axes) == 3
    chosen = plots.data_and_fit(result, groups=["7"])
    assert [axes.get_title("left") for axes in chosen.axes] == ["group 7"]
    with pytest.raises(ValueError, match="got '13', expected one of 1, 2"):
        plots.data_and_fit(result, groups=["13"])
    assert "48 of 50 groups drawn." in said(plots.fit(grouped_fit(50)))


def test_missing_measurements_are_left_out() -> None:
    base = sample_fit(with_uncertainty=False)
    measured, residual = base.observations.measured.copy(), base.observations.residual.copy()
    measured[3] = residual[3] = np.nan
    table = dataclasses.replace(base.observations, measured=measured, residual=residual)
    result = dataclasses.replace(base, observations=table)
    points = [
        line for line in draw(plots.fit(result)).axes[0].lines if line.get_marker() == "o"
    ]
    assert len(points[0].get_xdata()) == 20  # pyright: ignore[reportArgumentType]
    assert "1 measurement has no finite residual." in said(draw(plots.residuals(result)))


def test_residuals_and_their_quantiles(fit: Fit) -> None:
    figure = draw(plots.residuals(fit))
    left, right = figure.axes
    table = fit.observations
    for name in ("prey", "predator"):
        mine = table.observable == name
        assert has_line(left, table.time[mine], table.residual[mine])
        (points,) = [
            p for p in lines(right) if np.array_equal(p[:, 1], np.sort(table.residual[mine]))
        ]
        # Blom's example in every table: the median of 21 is at 0, the largest at 1.9808.
        assert points[10, 0] == pytest.approx(0.0, abs=1e-12)
        assert points[-1, 0] == pytest.approx(1.98075, abs=1e-5)
    assert left.get_xlabel() == "time (year)"
    assert left.get_ylabel() == "standardised residual"
    assert right.get_xlabel() == "normal quantile"


def test_waterfall_shows_every_start_that_counts(fit: Fit) -> None:
    figure = draw(plots.waterfall(fit))
    (axes,) = figure.axes
    points = np.concatenate(lines(axes))
    objective = np.sort(fit.starts.objective[fit.starts.rank >= 0])
    np.testing.assert_array_equal(points[:, 0], np.arange(1, 14))
    np.testing.assert_array_equal(points[:, 1], objective - objective[0])
    assert axes.get_yscale() == "symlog"
    text = said(figure)
    assert f"within {PLATEAU:g} of the best: 11 starts other optimum: 2 starts" in text
    assert "3 of 16 starts do not count: 1 × the optimiser did not move;" in text


def test_waterfall_without_a_start_that_counts(fit: Fit) -> None:
    count = fit.starts.objective.size
    starts = dataclasses.replace(
        fit.starts,
        objective=np.full(count, np.nan),
        rank=np.full(count, -1),
        status=np.full(count, "the solve failed"),
    )
    figure = draw(plots.waterfall(dataclasses.replace(fit, starts=starts)))
    assert "No start counts." in said(figure)
    assert "16 of 16 starts do not count: 16 × the solve failed." in said(figure)


def test_waterfall_of_a_thousand_starts_over_many_decades(fit: Fit) -> None:
    count = 1000
    objective = -5.0 + 10.0 ** np.linspace(-12, 12, count)
    starts = StartTable(
        initial=np.ones((count, 8)),
        final=np.ones((count, 8)),
        objective=objective[::-1],
        status=np.full(count, "converged"),
        steps=np.ones(count, dtype=int),
        rank=np.arange(count)[::-1],
    )
    (axes,) = draw(plots.waterfall(dataclasses.replace(fit, starts=starts))).axes
    assert above_best(starts)[-1] == pytest.approx(1e12)
    assert 3 <= len(axes.get_yticks()) <= 9


@pytest.mark.parametrize("count", [2, 8, 37])
def test_correlations_write_each_number_once(count: int) -> None:
    result = many_parameters(count)
    figure = draw(plots.correlations(result))
    axes = figure.axes[0]
    expected = result.correlation[np.tril_indices(count, k=-1)]
    shown = [float(text.get_text().replace("\u2212", "-")) for text in axes.texts]
    np.testing.assert_allclose(shown, expected, atol=0.005 + 1e-12)
    np.testing.assert_array_equal(axes.collections[0].get_array(), expected)
    names = result.parameters.name.tolist()
    assert [text.get_text() for text in axes.get_yticklabels()] == names[1:]
    assert [text.get_text() for text in axes.get_xticklabels()] == names[:-1]


def test_correlations_of_the_posterior_come_first(fit: Fit) -> None:
    assert fit.uncertainty is not None
    names, matrix = parameter_correlations(fit)
    np.testing.assert_array_equal(matrix, fit.uncertainty.correlation)
    np.testing.assert_array_equal(names, fit.parameters.name)


def test_parameter_without_variance_has_no_correlation() -> None:
    base = many_parameters(4)
    covariance = base.covariance.copy()
    covariance[2, :] = covariance[:, 2] = 0.0
    figure = draw(plots.correlations(dataclasses.replace(base, covariance=covariance)))
    assert [text.get_text() for text in figure.axes[0].texts].count("–") == 3


def test_one_parameter_has_no_correlations() -> None:
    result = many_parameters(1)
    assert "correlations" not in plots.all_figures(result)
    with pytest.raises(ValueError, match="has one parameter"):
        plots.correlations(result)


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
