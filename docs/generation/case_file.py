"""The reference page of the case file, from its schema."""

import functools
import inspect
import operator
from typing import Any

import msgspec
import msgspec.inspect as schema_types

from generation.docstrings import cell, table
from simkit.config.molecular import MolecularCase, PackingTable, SpeciesTable
from simkit.config.molecular_methods import Method, Minimiser, Thermostat
from simkit.config.molecular_terms import CutOff, Potential, TermTable
from simkit.config.schema import Case, Distribution


_HEAD = """\
# Case file

A case is a [TOML](https://toml.io) file. It is read strictly: an unknown key, a wrong type,
a name that the system does not have or a number outside its bounds is an error, told in one
sentence with the file, the key, what came and what was expected. `simkit check CASE` tells
all of them together. Any key can be changed on the command line: `--set fit.starts=16`.

A word in capitals, such as `NAME`, stands for a name of yours. A key without a default is
either required or may be left out (-), with the meaning that the table tells.

Each table is also a class of the Python interface (`simkit.config.schema`), with the same
names and defaults.
"""

_HEADINGS = {
    "fit.parameters": "fit.parameters.NAME, fit.initial_state.NAME, fit.noise.NAME",
    "data.observables": "data.observables.NAME",
}
_WORDS = {
    schema_types.StrType: "text",
    schema_types.BoolType: "true or false",
    schema_types.StructType: "table",
}
_UNIONS = {
    Distribution: "[distribution](#distributions)",
    Potential: "[potential](#potentials)",
    CutOff: "[cut-off](#cut-offs)",
    Method: "[method](#methods-of-dynamics)",
    Thermostat: "[thermostat](#methods-of-dynamics)",
    Minimiser: "[minimiser](#minimisers)",
}
_MOLECULAR = """\
## Molecular cases

A case with the table `molecules`, and with `dynamics` or `minimisation` or both, is a molecular
one: `simkit simulate` runs it and writes an [H5MD file](../molecules.md#cases-and-files),
`simkit check` tries it. It has these keys and none of those above. A `type` is the name of a
class in Python, and the keys beside it are its arguments.

A parameter of a potential of pairs is one number for all pairs or, in a mixture, a symmetric
matrix by species: a list of rows. Epsilon and sigma of `LennardJones` and
`WeeksChandlerAndersen` may be lists with one number for each species, which are mixed by the
rule `mixing`.
"""
_ADDED = {
    "method": "An option that is left out has the default of the [method](methods.md).",
    "fit.parameters": "`NAME` is that of a parameter, a state or an observable. An observable "
    "without `sd` has a free noise scale, whether `fit.noise` names it or not.",
}


def case_file_page() -> str:
    """The page as Markdown."""
    lines = [_HEAD]
    case: Any = schema_types.type_info(Case)
    _add_table(lines, case, "", set())
    _add_distributions(lines)
    _add_molecular(lines)
    return "\n".join(lines).rstrip() + "\n"


def _add_table(lines: list[str], struct: Any, path: str, told: set[type]) -> None:
    told.add(struct.cls)
    lines += [f"## {_HEADINGS.get(path) or path or 'Keys at the top'}", ""]
    lines += [inspect.getdoc(struct.cls) or "", ""]
    if path in _ADDED:
        lines += [_ADDED[path], ""]
    _add_keys(lines, struct)
    for field in struct.fields:
        inner = _named_table(field.type)
        if inner is not None and inner.cls not in told:
            _add_table(lines, inner, f"{path}.{field.name}".lstrip("."), told)


def _add_keys(lines: list[str], struct: Any) -> None:
    rows = [
        [f"`{field.encode_name}`", type_words(field.type), _default(field), _meaning(field)]
        for field in struct.fields
    ]
    lines += table(["key", "type", "default", "meaning"], rows)


def _add_distributions(lines: list[str]) -> None:
    lines += ["## Distributions", ""]
    lines += [
        "Priors, and what varies over an ensemble, are tables with a `type`, such as",
        '`{ type = "normal", mean = 1.0, sd = 0.5 }`.',
        "",
    ]
    union: Any = schema_types.type_info(Distribution)
    for struct in union.types:
        lines += [f"### {struct.tag}", "", inspect.getdoc(struct.cls) or "", ""]
        _add_keys(lines, struct)


def _add_molecular(lines: list[str]) -> None:
    lines += [_MOLECULAR]
    case: Any = schema_types.type_info(MolecularCase)
    _add_keys(lines, case)
    for field in case.fields:
        inner = _named_table(field.type)
        if inner is not None:
            lines += [f"### {field.name}", "", inspect.getdoc(inner.cls) or "", ""]
            _add_keys(lines, inner)
    inner_tables = {"species": SpeciesTable, "packing": PackingTable, "terms": TermTable}
    for name, kind in inner_tables.items():
        lines += [f"### molecules.{name}", "", inspect.getdoc(kind) or "", ""]
        _add_keys(lines, schema_types.type_info(kind))
    unions = {
        "Potentials": Potential,
        "Cut-offs": CutOff,
        "Methods of dynamics": Method,
        "Minimisers": Minimiser,
    }
    for heading, union in unions.items():
        kinds: Any = schema_types.type_info(union)
        lines += [f"### {heading}", ""]
        for struct in kinds.types:
            lines += [f"#### {struct.tag}", "", inspect.getdoc(struct.cls) or "", ""]
            _add_keys(lines, struct)


def _plain(kind: Any) -> Any:
    """The type without descriptions and without `None`, which TOML cannot say."""
    while isinstance(kind, schema_types.Metadata):
        kind = kind.type
    if isinstance(kind, schema_types.UnionType):
        members = [item for item in kind.types if not isinstance(item, schema_types.NoneType)]
        return _plain(members[0]) if len(members) == 1 else schema_types.UnionType((*members,))
    return kind


def _named_table(kind: Any) -> Any:
    """The table that a key holds, or that stands under each name of it."""
    kind = _plain(kind)
    if isinstance(kind, schema_types.DictType):
        kind = _plain(kind.value_type)
    return kind if isinstance(kind, schema_types.StructType) else None


def type_words(kind: Any) -> str:
    """A type in the words of people who write TOML."""
    kind = _plain(kind)
    if type(kind) in _WORDS:
        return _WORDS[type(kind)]
    if isinstance(kind, schema_types.UnionType):
        members: Any = kind.types
        if not all(isinstance(item, schema_types.StructType) for item in members):
            return _number_or_list(members)
        return _UNIONS[functools.reduce(operator.or_, (item.cls for item in members))]
    match kind:
        case schema_types.FloatType():
            return f"number{_range(kind)}"
        case schema_types.IntType():
            return f"whole number{_range(kind)}"
        case schema_types.LiteralType():
            return ", ".join(_value(value) for value in kind.values)
        case schema_types.DictType():
            inner = type_words(kind.value_type)
            return f"{inner}, by name"
        case schema_types.ListType() | schema_types.VarTupleType():
            return f"list of {_plural(type_words(kind.item_type))}"
        case schema_types.TupleType():
            return f"list of {len(kind.item_types)} {_plural(type_words(kind.item_types[0]))}"
    raise TypeError(f"the documentation has no words for the type {kind!r}")


def _number_or_list(members: Any) -> str:
    """A number that may be given for each species, or each axis."""
    lists = (schema_types.ListType, schema_types.VarTupleType)
    plain = [_plain(item) for item in members]
    (single,) = [item for item in plain if not isinstance(item, lists)]
    (several,) = [item for item in plain if isinstance(item, lists)]
    nested = isinstance(_plain(several.item_type), schema_types.UnionType)
    return f"{type_words(single)}, or a list{' or matrix' if nested else ''} of them"


def _plural(words: str) -> str:
    return f"{words}s" if words in ("number", "table") else words


def _range(kind: Any) -> str:
    parts = [
        f" {sign} {limit:g}"
        for sign, limit in ((">", kind.gt), ("≥", kind.ge), ("<", kind.lt), ("≤", kind.le))
        # The largest whole numbers are limits of the machine, not of the meaning.
        if limit is not None and abs(limit) < 2**31 - 1
    ]
    return " and".join(parts)


def _default(field: Any) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is None:
        return "-"
    if field.default_factory is dict:
        return "none"
    if isinstance(value, bool | tuple | str | int | float):
        return _value(value)
    return "as below"


def _value(value: Any) -> str:
    """A value as TOML writes it."""
    # JSON and TOML write these alike.
    return f"`{msgspec.json.encode(value).decode().replace(',', ', ')}`"


def _meaning(field: Any) -> str:
    kind = field.type
    while isinstance(kind, schema_types.Metadata):
        described = (kind.extra_json_schema or {}).get("description")
        if described:
            return cell(described)
        kind = kind.type
    inner = _named_table(field.type)
    if inner is None:
        return ""
    return cell(" ".join((inspect.getdoc(inner.cls) or "").split("\n\n")[0].split()))
