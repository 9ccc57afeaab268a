"""Figures of fits show the numbers of the fit, in words where numbers are missing."""

import dataclasses

import numpy as np
import pytest

from simkit import plots
from simkit.plots.diagnostics import PLATEAU, above_best, parameter_correlations
from simkit.results import Fit, StartTable

from .helpers_plots import (
    band_edges,
    draw,
    grouped_fit,
    has_line,
    lines,
    many_parameters,
    said,
)
from .samples import sample_fit


@pytest.fixture(scope="module")
def fit() -> Fit:
    return sample_fit()


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
