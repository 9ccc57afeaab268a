"""One HTML page that tells a result: words, tables, figures, where it comes from.

The page needs no network and no JavaScript: figures are inline SVG, the style sheet is
part of it, and a content security policy forbids it to load anything. All text of the
result is escaped. The same result gives the same page byte for byte.
"""

import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template

from matplotlib.figure import Figure

from simkit.plots import fit_tables, summary, trajectory_tables
from simkit.plots.captions import Caption, fit_captions, trajectory_captions
from simkit.plots.collection import all_figures
from simkit.plots.files import write_whole
from simkit.plots.style import render
from simkit.plots.svg import inline_svg
from simkit.plots.tables import Table, as_html, escaped
from simkit.results import Fit, Provenance, Trajectory


_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<nav aria-label="Sections">
<ul>
$links
</ul>
</nav>
</header>
<main>
$sections
</main>
</body>
</html>
""")

_FIGURE = Template("""\
<figure id="figure-$name">
<h3>$title</h3>
<div class="card">
$svg
</div>
<figcaption>$text</figcaption>
<details>
<summary>Numbers of the figure</summary>
$tables
</details>
</figure>""")


def write_report(
    result: Trajectory | Fit,
    path: str | os.PathLike[str],
    drawn: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the page of a result to `path`, whole or not at all, and return the path.

    `drawn` may hold SVG files of its figures, as `save_figures` writes them, by name: they
    are not drawn again.

    Raises TypeError where `result` is neither a Trajectory nor a Fit, and OSError where
    the file cannot be written.
    """
    return write_whole(path, report_page(result, drawn).encode("utf-8"))


def report_page(result: Trajectory | Fit, drawn: Mapping[str, bytes] | None = None) -> str:
    """The page of a result as text; `drawn` is that of `write_report`.

    Raises TypeError where `result` is neither a Trajectory nor a Fit.
    """
    if not isinstance(result, Fit | Trajectory):
        raise TypeError(
            f"report of a result: got {type(result).__name__}, expected a Trajectory or a Fit"
        )
    sections = (
        _fit_sections(result, drawn)
        if isinstance(result, Fit)
        else _trajectory_sections(result, drawn)
    )
    sections = {"Summary": _summary(result)} | sections
    sections["Configuration"] = configuration(result.provenance)
    engine = f"{result.engine}: {result.engine_reason}" if result.engine else ""
    sections["Provenance"] = provenance(result.provenance, {"Solved by": engine})
    return page(result.title, sections)


def page(title: str, sections: Mapping[str, str]) -> str:
    """A page of sections, each HTML under its heading; a word each, for the links."""
    return _PAGE.substitute(
        title=escaped(" ".join(title.split()) or "Result"),
        style=resources.files("simkit.plots").joinpath("report.css").read_text("utf-8"),
        links="\n".join(f'<li><a href="#{name.lower()}">{name}</a></li>' for name in sections),
        sections="\n".join(
            f'<section id="{name.lower()}">\n<h2>{name}</h2>\n{body}\n</section>'
            for name, body in sections.items()
        ),
    )


def _fit_sections(fit: Fit, drawn: Mapping[str, bytes] | None) -> dict[str, str]:
    parameters = as_html(fit_tables.parameter_table(fit))
    if fit.derived.name.size:
        parameters += as_html(fit_tables.derived_table(fit))
    numbers = {
        "fit": [fit_tables.curve_table, fit_tables.observation_table],
        "residuals": [fit_tables.observation_table],
        "waterfall": [fit_tables.waterfall_table],
        "correlations": [fit_tables.correlation_table],
    }
    tables = {name: [make(fit) for make in makers] for name, makers in numbers.items()}
    starts = as_html(fit_tables.start_table(fit))
    starts += _details("Parameters at both ends", as_html(fit_tables.destination_table(fit)))
    return {
        "Parameters": parameters,
        "Figures": _figures(fit, fit_captions(fit), tables, drawn),
        "Starts": starts,
    }


def _trajectory_sections(
    result: Trajectory, drawn: Mapping[str, bytes] | None
) -> dict[str, str]:
    tables = {"trajectory": [trajectory_tables.states_table(result)]}
    if len(result.states) > 1:
        tables["phase"] = [trajectory_tables.phase_table(result)]
    sections = {}
    for heading, values, units in (
        ("Parameters", result.parameters, result.parameter_units),
        ("Solver", result.statistics, {}),
    ):
        if values:
            caption = "Parameters" if heading == "Parameters" else "Counts of the solver"
            table = trajectory_tables.values_table(caption, values, units)
            sections[heading] = as_html(table)
    figures = {"Figures": _figures(result, trajectory_captions(result), tables, drawn)}
    return {"Parameters": sections.pop("Parameters", ""), **figures, **sections}


def _summary(result: Trajectory | Fit) -> str:
    return outcome(
        summary.succeeded(result),
        summary.headline(result),
        summary.sentences(result),
        summary.warnings(result),
    )


def outcome(
    succeeded: bool, headline: str, sentences: Sequence[str], warnings: Sequence[str]
) -> str:
    """What came of a run, as HTML."""
    kind = "good" if succeeded else "bad"
    parts = [f'<p class="status {kind}">{escaped(headline)}</p>']
    parts += [f"<p>{escaped(sentence)}</p>" for sentence in sentences]
    if warnings:
        items = "\n".join(f"<li>{escaped(warning)}</li>" for warning in warnings)
        title = "<strong>Warnings</strong>"
        parts.append(f'<div class="warnings" role="note">{title}\n<ul>\n{items}\n</ul>\n</div>')
    return "\n".join(parts)


def _figures(
    result: Trajectory | Fit,
    captions: dict[str, Caption],
    tables: dict[str, list[Table]],
    drawn: Mapping[str, bytes] | None,
) -> str:
    if drawn is None:
        drawn = rendered(all_figures(result))
    return figures(drawn, captions, tables)


def rendered(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """Figures as SVG files, by name."""
    return {name: render(figure, "svg", name) for name, figure in figures.items()}


def figures(
    drawn: Mapping[str, bytes],
    captions: Mapping[str, Caption],
    tables: Mapping[str, Sequence[Table]],
) -> str:
    """Figures with their captions and numbers as HTML, all by the same names."""
    parts = []
    for name, svg in drawn.items():
        caption = captions[name]
        parts.append(
            _FIGURE.substitute(
                name=name,
                title=escaped(caption.title),
                svg=inline_svg(svg, f"svg-{name}", caption.title, caption.description),
                text=escaped(caption.text),
                tables="".join(as_html(table) for table in tables[name]),
            )
        )
    return "\n".join(parts)


def configuration(provenance: Provenance) -> str:
    """The case behind a result, as HTML."""
    parts = []
    if provenance.case_text:
        parts.append(f"<p>The case file as it was read:</p>\n{_code(provenance.case_text)}")
    resolved = _code(_indented(provenance.configuration))
    return "\n".join([*parts, _details("Resolved configuration", resolved)])


def provenance(source: Provenance, first: Mapping[str, str]) -> str:
    """Where a result comes from, as HTML; `first` stands before all else."""
    entries = {
        **first,
        "Command": source.command,
        "Seed": str(source.seed),
        "Device": source.device,
        "Git state": source.git_state,
        "Started": source.started,
        "Stopped": source.stopped,
    }
    items = "\n".join(
        f"<dt>{name}</dt><dd>{escaped(value or '–')}</dd>" for name, value in entries.items()
    )
    versions = _details("Versions", _code(_indented(source.versions)))
    return f"<dl>\n{items}\n</dl>\n{versions}"


def _details(title: str, content: str) -> str:
    return f"<details>\n<summary>{escaped(title)}</summary>\n{content}\n</details>"


def _code(text: str) -> str:
    # A block that scrolls must be reachable with the keyboard.
    return f'<pre tabindex="0"><code>{escaped(text)}</code></pre>'


def _indented(text: str) -> str:
    """JSON with one entry on a line; a text that is no JSON as it is."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text
