"""What tests of spread work compare, and what they read in compiled programs."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def plain(function):
    """What `row_sum` gives, on one device."""

    def total(parameters, rows):
        each = jax.vmap(function, in_axes=(None, 0))(parameters, rows)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), each)

    return total


def assert_same(found, expected, tolerance=1e-12):
    def same(one, other):
        scale = max(float(jnp.max(jnp.abs(other))), 1e-300)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)

    jax.tree.map(same, found, expected)


def compiled_text(function: Any, *arguments: Any) -> str:
    return jax.jit(function).lower(*arguments).compile().as_text() or ""


def collectives(text):
    """The names of the collectives of a compiled program."""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    return re.findall(rf" ({kinds})(?:-start)?\(", text)


def loops_of(text):
    """The text of all computations that loops of a compiled program call."""
    parts = {}
    for part in re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \()", text):
        name = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(", part)
        if name:
            parts[name[1]] = part
    waiting = re.findall(r"(?:body|condition)=%?([\w.\-]+)", text)
    seen = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [n for n in re.findall(r"%?([\w.\-]+)", parts[name]) if n in parts]
    return "\n".join(parts[name] for name in seen)
