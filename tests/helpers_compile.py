"""Compilation for tests, where compiling takes longer than running."""

from collections.abc import Callable
from typing import Any

import jax


def quick_jit(function: Callable[..., Any]) -> Any:
    """`jax.jit` with a back end that optimises less; results are the same to rounding."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})
