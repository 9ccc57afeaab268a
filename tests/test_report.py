"""The report is one valid page that loads nothing and says everything."""

import dataclasses
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simkit import plots
from simkit.plots.collection import save_figures
from simkit.plots.report import report_page
from simkit.results import Fit, Provenance, Trajectory

from .samples import sample_ensemble, sample_fit, sample_trajectory


VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = "</title><script>alert(1)</script> & \"quoted\" 'text' \x00 ünï"


class Page(HTMLParser):
    """Elements of a page with their attributes and text; checks that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"attribute twice in <{tag}>"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # Only SVG elements may close themselves.
        assert "svg" in self._open, f"<{tag}/> outside of svg"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> without a start"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        self.texts.append((inside, data))
        if self.rows and {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str | None = None) -> str:
        return " ".join(data for inside, data in self.texts if tag in (None, inside))


@pytest.fixture(scope="module")
def fit_page() -> Page:
    return Page(report_page(sample_fit()))


@pytest.fixture(scope="module")
def ensemble_page() -> Page:
    return Page(report_page(sample_ensemble()))


@pytest.fixture(params=["fit_page", "ensemble_page"])
def page(request: pytest.FixtureRequest) -> Page:
    return request.getfixturevalue(request.param)


def hostile_fit() -> Fit:
    """The sample in which every text that may come from a file is an attack."""
    base = sample_fit()
    assert base.uncertainty is not None
    names = np.array([f"{HOSTILE}{index}" for index in range(8)])
    observables = {"prey": HOSTILE + "a", "predator": HOSTILE + "b"}

    def renamed(values: dict[str, Any]) -> dict[str, Any]:
        return {observables[name]: value for name, value in values.items()}

    def curves(table: Any) -> Any:
        fields = ("fitted", "lower", "upper", "predictive_lower", "predictive_upper")
        changed = {field: renamed(getattr(table, field)) for field in fields}
        return dataclasses.replace(table, units={}, group=np.array([HOSTILE]), **changed)

    table = base.observations
    texts = dict.fromkeys(
        ("command", "case_text", "configuration", "versions", "device", "git_state", "started"),
        HOSTILE,
    )
    return dataclasses.replace(
        base,
        title=HOSTILE,
        system=HOSTILE,
        method=HOSTILE,
        reason=HOSTILE,
        status=HOSTILE,
        warnings=(HOSTILE,),
        time_unit=HOSTILE,
        observable_units=dict.fromkeys(observables.values(), HOSTILE),
        parameters=dataclasses.replace(
            base.parameters,
            name=names,
            unit=np.full(8, HOSTILE),
            scale=np.full(8, HOSTILE),
            at_bound=np.ones(8, dtype=bool),
        ),
        starts=dataclasses.replace(base.starts, status=np.full(16, HOSTILE)),
        observations=dataclasses.replace(
            table,
            group=np.full(table.group.size, HOSTILE),
            observable=np.array([observables[name] for name in table.observable.tolist()]),
            noise=np.full(table.noise.size, HOSTILE),
        ),
        curves=curves(base.curves),
        uncertainty=dataclasses.replace(
            base.uncertainty,
            name=names,
            method=HOSTILE,
            warnings=(HOSTILE,),
            curves=curves(base.uncertainty.curves),
        ),
        derived=dataclasses.replace(
            base.derived, name=np.full(2, HOSTILE), unit=np.full(2, HOSTILE)
        ),
        provenance=Provenance(**texts),
    )


def test_page_is_html5_with_language_title_and_viewport(page: Page) -> None:
    assert [attributes.get("lang") for attributes in page.named("html")] == ["en"]
    metas = page.named("meta")
    assert metas[0] == {"charset": "utf-8"}
    assert any(meta.get("name") == "viewport" for meta in metas)
    assert len(page.named("main")) == 1
    assert "prefers-color-scheme: dark" in page.text("style")


def test_page_starts_with_a_doctype_and_its_title() -> None:
    text = report_page(sample_fit())
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    assert "<title>Lynx and hare, Hudson Bay Company, 1900-1920</title>" in text


def test_headings_are_in_order(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_page_loads_nothing(page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            assert "http" not in (value or "") or name == "http-equiv", (tag, name, value)
            if name in ("src", "href", "xlink:href"):
                assert (value or "").startswith(("#", "data:image/png;base64,")), value
    assert "@import" not in page.text("style")
    assert "url(" not in page.text("style")


def test_identifiers_are_unique_and_references_have_targets(page: Page) -> None:
    identifiers = [value["id"] for _, value in page.elements if "id" in value]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes in page.elements:
        for name, value in attributes.items():
            targets = re.findall(r"url\(#([^)]+)\)", value or "")
            if name == "href" and (value or "").startswith("#"):
                targets.append((value or "")[1:])
            if name == "aria-labelledby":
                targets += (value or "").split()
            assert set(targets) <= set(identifiers), (name, value)


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (sample_fit(), ["fit", "residuals", "waterfall", "correlations"]),
        (sample_fit(with_uncertainty=False), ["fit", "residuals", "waterfall", "correlations"]),
        (sample_trajectory(), ["trajectory", "phase"]),
        (sample_ensemble(), ["trajectory", "phase"]),
    ],
    ids=["fit", "fit without uncertainty", "solve", "ensemble"],
)
def test_each_figure_has_caption_description_and_numbers(
    result: Fit | Trajectory, names: list[str]
) -> None:
    text = report_page(result)
    page = Page(text)
    assert [figure["id"] for figure in page.named("figure")] == [f"figure-{n}" for n in names]
    assert len(page.named("figcaption")) == len(names)
    pictures = page.named("svg")
    assert [picture["role"] for picture in pictures] == ["img"] * len(names)
    for name, block in zip(names, text.split("<figure")[1:], strict=True):
        block = block.split("</figure>")[0]
        description = re.search(rf'<desc id="svg-{name}-description">([^<]+)</desc>', block)
        assert description is not None
        assert len(description[1]) > 20
        assert "<details>" in block
        assert "<table>" in block
    # Sizes are left to the page, so that a figure fits a narrow screen.
    assert all("width" not in picture and "viewbox" in picture for picture in pictures)


def test_one_row_for_each_parameter(fit_page: Page) -> None:
    fit = sample_fit()
    assert fit.uncertainty is not None
    head = next(row for row in fit_page.rows if row[0] == "parameter")
    assert head[:8] == [
        "parameter",
        "unit",
        "estimate",
        "standard error",
        "Laplace mean",
        "Laplace sd",
        "90 % interval from",
        "to",
    ]
    for index, name in enumerate(fit.parameters.name.tolist()):
        rows = [row for row in fit_page.rows if row[0] == name and len(row) == len(head)]
        # The table of correlations has one column more than there are parameters.
        (row,) = [row for row in rows if row[-1] == "log"]
        expected = [
            fit.parameters.estimate[index],
            fit.parameters.standard_error[index],
            fit.uncertainty.mean[index],
            fit.uncertainty.standard_deviation[index],
            fit.uncertainty.lower[index],
            fit.uncertainty.upper[index],
        ]
        assert row[2:8] == [f"{value:.4g}" for value in expected]
    shown = {float(value["value"] or "") for value in fit_page.named("data")}
    assert set(fit.parameters.estimate.tolist()) <= shown


def test_summary_tells_what_happened(fit_page: Page) -> None:
    text = " ".join(fit_page.text().split())
    assert "The fit converged." in text
    assert "13 of 16 starts converged, 11 of them to within 0.1 of the best objective." in text
    assert "1 × the solve failed: maximum number of steps reached" in text
    assert "3 of 16 starts failed." in text
    assert "2 of 402 draws could not be solved; they are left out." in text
    assert "42 measurements of prey and predator" in text
    for row in (["period", "year", "9.488", "0.21"], ["equilibrium_prey", "thousand"]):
        assert any(cells[: len(row)] == row for cells in fit_page.rows)


def test_every_start_has_its_row(fit_page: Page) -> None:
    fit = sample_fit()
    head = fit_page.rows.index(
        ["start", "rank", "objective", "above the best", "steps", "status"]
    )
    rows = fit_page.rows[head + 1 : head + 17]
    assert sorted(int(row[0]) for row in rows) == list(range(1, 17))
    assert [row[1] for row in rows] == [*map(str, range(1, 14)), "–", "–", "–"]
    for row in rows:
        assert row[-1] == fit.starts.status[int(row[0]) - 1]


def test_configuration_and_provenance_are_told(fit_page: Page) -> None:
    code = fit_page.text("code")
    assert 'title = "Lynx and hare – 1900"' in code
    assert '"jax": "0.9.2"' in code
    provenance = fit_page.text("dd")
    assert "simkit fit data/lynx_hare/case.toml" in provenance
    assert "2026-01-02T03:04:05+00:00" in provenance


def test_ensemble_says_who_failed_and_why(ensemble_page: Page) -> None:
    text = " ".join(ensemble_page.text().split())
    assert "11 of 12 members reached the end." in text
    assert "1 × maximum number of steps reached; try a larger max_steps" in text
    growth = sample_ensemble().parameters["prey_growth"]
    expected = [f"{f(growth):.4g}" for f in (np.min, np.median, np.max)]
    assert ["prey_growth", *expected, "1/year"] in ensemble_page.rows


def test_solve_shows_its_states_and_parameters() -> None:
    result = sample_trajectory()
    page = Page(report_page(result))
    assert "The solve reached the end." in page.text()
    assert ["prey_growth", "0.5474", "1/year"] in page.rows
    for index in (0, 20):
        values = [f"{state[index]:.4g}" for state in result.states.values()]
        assert [f"{result.times[index]:.0f}", *values] in page.rows


def test_failed_fit_is_told_first() -> None:
    base = sample_fit(with_uncertainty=False)
    starts = dataclasses.replace(
        base.starts,
        objective=np.full(16, np.nan),
        rank=np.full(16, -1),
        status=np.full(16, "the solve failed"),
    )
    result = dataclasses.replace(
        base,
        status="every start failed",
        starts=starts,
        covariance=np.full((8, 8), np.nan),
        derived=dataclasses.replace(base.derived, name=base.derived.name[:0]),
    )
    text = report_page(result)
    assert '<p class="status bad">The fit did not converge: every start failed</p>' in text
    assert "None of 16 starts counts." in Page(text).text()
    assert "Derived quantities" not in text


def test_reasons_for_mistrust_stand_beside_the_parameter() -> None:
    base = sample_fit()
    assert base.uncertainty is not None
    shift, bound = base.uncertainty.shift.copy(), base.parameters.at_bound.copy()
    shift[1], bound[6:] = -1.5, True
    result = dataclasses.replace(
        base,
        uncertainty=dataclasses.replace(base.uncertainty, shift=shift),
        parameters=dataclasses.replace(base.parameters, at_bound=bound),
    )
    page = Page(report_page(result))
    remarks = {row[0]: row[-1] for row in page.rows if len(row) == 12}
    assert "at its bound" in remarks["noise.prey"]
    assert "at its bound" in remarks["noise.predator"]
    assert "the mean moved by more than one standard deviation" in remarks["predation"]
    assert remarks["prey_growth"] == ""


def test_hostile_text_stays_text() -> None:
    text = report_page(hostile_fit())
    page = Page(text)
    assert page.named("script") == []
    assert "<script" not in text
    assert "\x00" not in text
    (title,) = [data for inside, data in page.texts if inside == "title"][:1]
    assert title.startswith("</title><script>alert(1)</script> & \"quoted\" 'text'")
    assert HOSTILE.replace("\x00", "\ufffd") in page.text("code")
    text.encode("utf-8")


def test_many_rows_are_limited_and_that_is_said() -> None:
    times = np.linspace(0.0, 1.0, 5000)
    result = dataclasses.replace(
        sample_trajectory(), times=times, states={"prey": times, "predator": times**2}
    )
    page = Page(report_page(result))
    assert len(page.rows) < 450
    assert "200 evenly spread of 5000 times shown" in page.text()


def test_report_is_written_whole_and_the_same_each_time(tmp_path: Path) -> None:
    path = plots.write_report(sample_trajectory(), tmp_path / "report.html")
    first = path.read_bytes()
    assert first.decode("utf-8") == report_page(sample_trajectory())
    assert [child.name for child in tmp_path.iterdir()] == ["report.html"]


def test_failure_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        plots.write_report(sample_trajectory(), path)
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["report.html"]


def test_other_things_are_refused(tmp_path: Path) -> None:
    thing: Any = 3.0
    with pytest.raises(TypeError, match="got float, expected a Trajectory or a Fit"):
        plots.write_report(thing, tmp_path / "report.html")


@pytest.mark.parametrize("sample", [sample_fit, sample_ensemble])
def test_figures_that_were_drawn_before_give_the_same_page(sample, tmp_path):
    result = sample()
    drawn = {path.stem: path.read_bytes() for path in save_figures(result, tmp_path, ["svg"])}
    assert report_page(result, drawn) == report_page(result)
