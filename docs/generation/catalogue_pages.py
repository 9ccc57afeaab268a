"""The reference pages of systems and methods, from the catalogue; and tables of methods."""

from generation.docstrings import Places, cell, markdown, summary, table
from simkit.catalogue import (
    MethodEntry,
    ParameterEntry,
    QuantityEntry,
    SystemEntry,
    build_catalogue,
)


_SYSTEMS_HEAD = """\
# Systems

What `simkit systems` lists. In Python a system is a class of `sk.systems`, with its
parameters as arguments: `sk.systems.LotkaVolterra(prey_growth=0.5)`. In a case file its name
is `system.type`. [Write your own](../own_system.md) if yours is not here.
"""

_METHODS_HEAD = """\
# Methods

What `simkit methods` lists. In Python a method is a class of `sk.solvers`, with its options
as arguments: `sk.solvers.Tsit5(rtol=1e-8)`. In a case file its name is `method.type`, and its
options are keys of `[method]`. [How to choose](../choosing.md) tells which one to take.

Methods with adaptive steps accept a step if its estimated error is at most
`atol + rtol * |y|`, in the root mean square over the states. `step` makes steps constant;
`max_steps` is the number of steps, rejected ones included, after which a solve fails.
"""


def systems_page(places: Places) -> str:
    """The page of the systems as Markdown."""
    known = build_catalogue().systems
    rows = [
        [f"[{name}](#{name.lower()})", item.sort, summary(item.documentation)]
        for name, item in known.items()
    ]
    lines = [_SYSTEMS_HEAD, *table(["system", "kind", "what it is"], rows)]
    for item in known.values():
        _add_system(lines, item, places)
    return "\n".join(lines).rstrip() + "\n"


def methods_page(places: Places) -> str:
    """The page of the methods as Markdown."""
    lines = [_METHODS_HEAD, *methods_table("ODE", ""), *methods_table("SDE", "")]
    for name, item in build_catalogue().methods.items():
        lines += [f"## {name}", "", markdown(item.documentation, places), ""]
        rows = [[f"`{key}`", _option(value)] for key, value in item.options.items()]
        lines += table(["option", "default"], rows)
    return "\n".join(lines).rstrip() + "\n"


def methods_table(kind: str, page: str = "reference/methods.md") -> list[str]:
    """The lines of a table of the methods for `"ODE"` or `"SDE"`, with links to `page`."""
    found = [item for item in build_catalogue().methods.values() if item.kind == kind]
    columns = ["method", "order", *(["calculus"] if kind == "SDE" else []), "what it is for"]
    rows = []
    for item in sorted(found, key=_explicit_first):
        calculus = [item.calculus or ""] if kind == "SDE" else []
        name = f"[{item.name}]({page}#{item.name.lower()})"
        rows.append([name, f"{item.order:g}", *calculus, summary(item.documentation)])
    return table(columns, rows)


def _explicit_first(item: MethodEntry) -> tuple[str, float, str]:
    return item.module, item.order, item.name


def _option(value: float | int | None) -> str:
    return "adaptive" if value is None else f"`{value}`"


def _add_system(lines: list[str], item: SystemEntry, places: Places) -> None:
    lines += [f"## {item.name}", "", f"{item.sort}, `{item.module}.{item.name}`.", ""]
    lines += [markdown(item.documentation, places), ""]
    if item.python_only:
        lines += ["Python only: it is made from a network, which a case file cannot say.", ""]
        return
    rows = [_parameter_row(name, entry) for name, entry in item.parameters.items()]
    lines += table(["parameter", "default", "unit", "range", "meaning"], rows)
    lines += _quantities("state", item.states)
    lines += _quantities("input", item.inputs)
    if item.derived:
        rows = [[f"`{name}`", unit] for name, unit in item.derived.items()]
        lines += table(["derived quantity", "unit"], rows)
    lines += [f"Methods: {', '.join(item.methods)}.", ""]


def _parameter_row(name: str, entry: ParameterEntry) -> list[str]:
    default = "" if entry.default is None else f"{entry.default:.4g}"
    return [f"`{name}`", default, entry.unit, _range(entry), cell(entry.description)]


def _quantities(kind: str, entries: dict[str, QuantityEntry]) -> list[str]:
    rows = [
        [f"`{name}`", f"{entry.default:.6g}", entry.unit, cell(entry.description)]
        for name, entry in entries.items()
    ]
    return table([kind, "default", "unit", "meaning"], rows) if rows else []


def _range(entry: ParameterEntry) -> str:
    if entry.lower is None and entry.upper is None:
        return "any"
    if entry.upper is None:
        return f"≥ {entry.lower:g}"
    return (
        f"≤ {entry.upper:g}" if entry.lower is None else f"{entry.lower:g} to {entry.upper:g}"
    )
