"""Whether plain values have the structure of the schema; every fault with its full key.

msgspec converts strictly, but its errors say `parameters[...]` where a user needs
`fit.parameters.k.prior.sd`, and it stops at the first. So the values are compared with
the schema here, and converted by msgspec once nothing is wrong.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import msgspec
import msgspec.inspect as schema_types

from simkit.config.errors import (
    KeyPath,
    Mistake,
    choice,
    described,
    float_or_infinity,
    names,
    shown,
)
from simkit.config.schema import Case


_LISTS = (schema_types.ListType, schema_types.VarTupleType, schema_types.TupleType)


def find_structural_mistakes(values: Any, schema: type = Case) -> Iterator[Mistake]:
    """Every place where the values do not fit the schema of a case, in file order."""
    yield from _compare(values, _type_of(schema), ())


def convert(values: Any) -> Case:
    """The values as a case; they must be free of structural mistakes."""
    return msgspec.convert(values, Case, strict=True)


@functools.cache
def _type_of(schema: type) -> schema_types.Type:
    return schema_types.type_info(schema)


def _compare(value: Any, kind: Any, path: KeyPath) -> Iterator[Mistake]:
    kind = _plain(kind)
    match kind:
        case schema_types.UnionType() if _is_tagged(kind):
            yield from _compare_tagged(value, kind, path)
        case schema_types.UnionType():
            yield from _compare(value, _alternative(value, kind), path)
        case schema_types.StructType():
            yield from _compare_table(value, kind, path)
        case schema_types.DictType():
            yield from _compare_named(value, kind, path)
        case schema_types.ListType() | schema_types.VarTupleType() | schema_types.TupleType():
            yield from _compare_list(value, kind, path)
        case _:
            if not _fits(value, kind):
                yield Mistake(path, f"is {described(value)}", _expected(value, kind))


def _plain(kind: Any) -> Any:
    """The type without descriptions and without `None`, which TOML cannot say."""
    while isinstance(kind, schema_types.Metadata):
        kind = kind.type
    if isinstance(kind, schema_types.UnionType):
        members = [item for item in kind.types if not isinstance(item, schema_types.NoneType)]
        if len(members) == 1:
            return _plain(members[0])
        return schema_types.UnionType(tuple(members))
    return kind


def _compare_table(value: Any, kind: Any, path: KeyPath) -> Iterator[Mistake]:
    if not isinstance(value, dict):
        yield Mistake(path, f"is {described(value)}", "a table")
        return
    fields = {field.encode_name: field for field in kind.fields}
    known = [*fields, *([kind.tag_field] if kind.tag_field else [])]
    for key, item in value.items():
        if key in fields:
            yield from _compare(item, fields[key].type, (*path, key))
        elif key not in known:
            came = f"is not a known key (its value: {shown(item)})"
            yield Mistake((*path, key), came, choice(key, known))
    for name, field in fields.items():
        if field.required and name not in value:
            yield Mistake((*path, name), "is missing", _needed(_plain(field.type)))


def _compare_named(value: Any, kind: Any, path: KeyPath) -> Iterator[Mistake]:
    if not isinstance(value, dict):
        yield Mistake(path, f"is {described(value)}", "a table")
        return
    if len(value) < (kind.min_length or 0):
        yield Mistake(path, "is an empty table", "at least one entry")
    for key, item in value.items():
        yield from _compare(item, kind.value_type, (*path, key))


def _compare_list(value: Any, kind: Any, path: KeyPath) -> Iterator[Mistake]:
    if not isinstance(value, list | tuple):
        yield Mistake(path, f"is {described(value)}", _needed(kind))
        return
    if isinstance(kind, schema_types.TupleType):
        if len(value) != len(kind.item_types):
            yield Mistake(path, f"is {described(value)}", _needed(kind))
            return
        kinds = kind.item_types
    else:
        kinds = (kind.item_type,) * len(value)
    for index, (item, item_kind) in enumerate(zip(value, kinds, strict=True)):
        yield from _compare(item, item_kind, (*path, index))


def _compare_tagged(value: Any, kind: Any, path: KeyPath) -> Iterator[Mistake]:
    """Tables of which one key tells what the others are."""
    tables = {item.tag: item for item in kind.types}
    tag_field = kind.types[0].tag_field
    if not isinstance(value, dict):
        yield Mistake(path, f"is {described(value)}", f'a table with a "{tag_field}"')
    elif tag_field not in value:
        yield Mistake((*path, tag_field), "is missing", f"one of {names(tables)}")
    elif not isinstance(value[tag_field], str) or value[tag_field] not in tables:
        tag = value[tag_field]
        yield Mistake((*path, tag_field), f"is {described(tag)}", choice(str(tag), [*tables]))
    else:
        yield from _compare_table(value, tables[value[tag_field]], path)


def _is_tagged(kind: Any) -> bool:
    return all(isinstance(item, schema_types.StructType) for item in kind.types)


def _alternative(value: Any, kind: Any) -> Any:
    """Of a single value and a list that may both stand somewhere, the one that came."""
    members = [_plain(item) for item in kind.types]
    lists = [item for item in members if isinstance(item, _LISTS)]
    others = [item for item in members if not isinstance(item, _LISTS)]
    return (lists if isinstance(value, list | tuple) else others)[0]


def _fits(value: Any, kind: Any) -> bool:
    match kind:
        case schema_types.BoolType():
            return isinstance(value, bool)
        case schema_types.StrType():
            return isinstance(value, str) and value.isprintable()
        case schema_types.IntType():
            return isinstance(value, int) and _is_number(value) and _in_range(value, kind)
        case schema_types.FloatType():
            return _is_number(value) and _in_range(float_or_infinity(value), kind)
        case schema_types.LiteralType():
            return any(value == item and type(value) is type(item) for item in kind.values)
    raise AssertionError(f"the schema has a type that is not read yet: {kind}")


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(float_or_infinity(value))
    )


def _in_range(value: float, kind: Any) -> bool:
    return (
        (kind.gt is None or value > kind.gt)
        and (kind.ge is None or value >= kind.ge)
        and (kind.lt is None or value < kind.lt)
        and (kind.le is None or value <= kind.le)
    )


def _expected(value: Any, kind: Any) -> str:
    if isinstance(kind, schema_types.LiteralType) and isinstance(value, str):
        texts = [item for item in kind.values if isinstance(item, str)]
        if texts:
            return choice(value, texts)
    return _needed(kind)


def _needed(kind: Any) -> str:
    """A type in words."""
    match kind:
        case schema_types.BoolType():
            return "true or false"
        case schema_types.StrType():
            return "text in quotes, on one line"
        case schema_types.IntType():
            return f"a whole number{_range(kind)}"
        case schema_types.FloatType():
            return f"a finite number{_range(kind)}"
        case schema_types.LiteralType():
            return names(str(item) for item in kind.values)
        case schema_types.TupleType():
            return f"a list of {len(kind.item_types)} numbers"
        case schema_types.UnionType() if not _is_tagged(kind):
            return f"{_needed(_alternative(None, kind))}, or a list of such"
        case schema_types.ListType() | schema_types.VarTupleType():
            return f"a list with {_needed(_plain(kind.item_type))} in each place"
        case _:
            return "a table"


def _range(kind: Any) -> str:
    lowest = kind.ge if kind.gt is None else kind.gt
    highest = kind.le if kind.lt is None else kind.lt
    if lowest is not None and highest is not None:
        return f" {'between' if kind.gt is not None else 'from'} {lowest} " + (
            f"and {highest}" if kind.gt is not None else f"to {highest}"
        )
    if lowest is not None:
        return f" above {lowest}" if kind.gt is not None else f" of at least {lowest}"
    return ""
