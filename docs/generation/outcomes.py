"""What `--json` prints, as tables, from its schema."""

import json
from collections.abc import Iterator
from typing import Any

from generation.docstrings import cell, table
from simkit.cli.outcomes import SCHEMA_FILE


Schema = dict[str, Any]

_HEAD = """\
{description} Of several processes the first alone prints.

`simkit --json-schema` prints the schema that these tables are made of, as JSON Schema
2020-12, for a validator; what a command prints has its name there as an anchor, such as
`#fit`. Keys with a question mark may be missing.
"""


def outcome_lines() -> list[str]:
    """A section for each command, then for what they share."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    shared = schema["$defs"]
    lines = [*_HEAD.format_map(schema).splitlines(), ""]
    printed = {}
    for outcome in schema["anyOf"]:
        name = outcome.get("$ref", "").rpartition("/")[2]
        printed[name] = outcome
        lines += _section(f"{outcome['title']} --json", shared.get(name, outcome))
    for name, definition in shared.items():
        if name not in printed:
            lines += _section(f"The object {name}", definition)
    return lines


def _section(title: str, schema: Schema) -> list[str]:
    title = title.replace("Any command that ends without a result --json", "Errors")
    rows = [[f"`{key}`", kind, cell(said)] for key, kind, said in _rows(schema, "")]
    body = table(["key", "value", "meaning"], rows) if rows else [f"{_kind(schema)}.", ""]
    said = [schema["description"], ""] if rows and "description" in schema else []
    return [f"### {title}", "", *said, *body]


def _rows(schema: Schema, prefix: str) -> Iterator[tuple[str, str, str]]:
    """The keys of an object and of what is within it; references are not followed."""
    for name, value in schema.get("properties", {}).items():
        mark = "" if name in schema["required"] else "?"
        yield f"{prefix}{name}{mark}", _kind(value), value.get("description", "")
        inner, dots = value, ""
        while True:
            if "items" in inner and isinstance(inner["items"], dict):
                inner, dots = inner["items"], dots + "[]"
            elif isinstance(inner.get("additionalProperties"), dict):
                inner, dots = inner["additionalProperties"], dots + ".NAME"
            elif "anyOf" in inner and inner["anyOf"][1:] == [{"type": "null"}]:
                inner = inner["anyOf"][0]
            else:
                break
        yield from _rows(inner, f"{prefix}{name}{dots}.")


def _kind(schema: Schema) -> str:
    """What a value is, in words."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "anyOf" in schema:
        kinds = [(_kind(part), part.get("description", "")) for part in schema["anyOf"]]
        return " or ".join(f"{kind} {said}".strip() for kind, said in kinds)
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words = {"string": "text", "number": "number", "integer": "whole number"}
    words |= {"boolean": "true or false", "null": "null", "array": "list", "object": "object"}
    kinds = [words[name] for name in types]
    if "array" in types and isinstance(schema.get("items"), dict):
        kinds[types.index("array")] = f"list of {_kind(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        kinds[types.index("object")] = f"object of {_kind(schema['additionalProperties'])}"
    return " or ".join(kinds)
