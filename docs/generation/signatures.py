"""Signatures of functions and classes, as the source has them."""

import ast
import inspect
import textwrap
from typing import Any


_WIDTH = 88
_LONGEST_DEFAULT = 40


def of_function(name: str, function: Any) -> str:
    """The signature with the annotations as they are written."""
    node: Any = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    arguments = node.args
    parts = _plain_arguments(arguments)
    if arguments.vararg:
        parts.append(f"*{_argument(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        parts.append("*")
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    parts += [_argument(argument, default) for argument, default in named]
    if parts and parts[0] in ("self", "cls"):
        parts = parts[1:]
    ending = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return _joined(name, parts, ending).replace("'", '"')


def of_class(name: str, kind: type) -> str:
    """How an object of the class is made, without annotations."""
    parts, starred = [], False
    for parameter in inspect.signature(kind).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        default = parameter.default
        parts.append(
            parameter.name
            if default is inspect.Parameter.empty
            else f"{parameter.name}={_default(default)}"
        )
    return _joined(name, parts, "")


def _plain_arguments(arguments: ast.arguments) -> list[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = len(positional) - len(arguments.defaults)
    defaults: list[Any] = [*([None] * missing), *arguments.defaults]
    return [
        _argument(item, default) for item, default in zip(positional, defaults, strict=True)
    ]


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg
    if argument.annotation is not None:
        text += f": {ast.unparse(argument.annotation)}"
    if default is None:
        return text
    equals = " = " if argument.annotation is not None else "="
    return f"{text}{equals}{ast.unparse(default)}"


def _default(value: Any) -> str:
    if repr(value) == "<factory>":
        return "..."
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    text = repr(value).replace("'", '"')
    # The tables of a case, whose own defaults are told where they are described.
    return text if len(text) <= _LONGEST_DEFAULT else f"{type(value).__name__}()"


def _joined(name: str, parts: list[str], ending: str) -> str:
    line = f"{name}({', '.join(parts)}){ending}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){ending}"])
