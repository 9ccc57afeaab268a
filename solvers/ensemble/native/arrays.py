"""Kernels of any arrays as functions of JAX, which can be compiled and mapped."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from solvers.ensemble.law import EngineRefusal
from solvers.ensemble.native.call import check_layout, device_name


Shape = tuple[tuple[int, ...], Any]
"""The shape and the type of the numbers of an array."""


def check_device() -> None:
    """Look for what all kernels of arrays need.

    **Raises:** `EngineRefusal` if llvmlite is missing, the device is no CPU, or the
    processor or the version of jax is not served.
    """
    if jax.default_backend() != "cpu":
        raise EngineRefusal(f"Its kernels are for a CPU, and jax runs on {device_name()}.")
    try:
        import llvmlite  # noqa: F401
    except ImportError as error:
        raise EngineRefusal(
            "The package llvmlite is missing: pip install simkit-jax[native]."
        ) from error
    check_layout()


def call_arrays(kernel: Any, operands: Sequence[Any], results: Sequence[Shape]) -> list[Any]:
    """The results of a kernel of [arrays][solvers.ensemble.native.array_call].

    It has no derivatives. Mapped by `vmap`, it is called for one after another.

    **Arguments:**

    - `kernel`: from the registry.
    - `operands`: arrays; numbers of Python become arrays of their own precision.
    - `results`: shape and type of each result.
    """
    kinds = tuple((tuple(shape), np.dtype(kind)) for shape, kind in results)
    return arrays_p.bind(*map(jnp.asarray, operands), kernel=kernel, results=kinds)


def _shapes(*operands: Any, kernel: Any, results: Any) -> list[Any]:
    del operands, kernel
    return [ShapedArray(shape, kind) for shape, kind in results]


def _lower(ctx: Any, *operands: Any, **parameters: Any) -> Any:
    from solvers.ensemble.native.registry import ARRAYS_TARGET

    kernel = parameters["kernel"]
    # A compiled program keeps the code that it calls.
    ctx.module_context.add_keepalive(kernel)
    return jax.ffi.ffi_lowering(ARRAYS_TARGET)(ctx, *operands, kernel=np.int64(kernel.number))


def _batch(operands: Any, axes: Any, *, kernel: Any, results: Any) -> Any:
    moved = [
        x if a is None else jnp.moveaxis(x, a, 0) for x, a in zip(operands, axes, strict=True)
    ]

    def one(rows: Any) -> Any:
        every = [x if r is None else r for r, x in zip(rows, moved, strict=True)]
        return arrays_p.bind(*every, kernel=kernel, results=results)

    rows = [None if a is None else x for x, a in zip(moved, axes, strict=True)]
    found = jax.lax.map(one, rows)
    return found, [0] * len(found)


arrays_p = Primitive("simkit_arrays")
arrays_p.multiple_results = True
arrays_p.def_abstract_eval(_shapes)
mlir.register_lowering(arrays_p, _lower, platform="cpu")
batching.primitive_batchers[arrays_p] = _batch


@functools.partial(jax.jit, static_argnames=("kernel", "results"))
def _evaluate(*operands: Any, kernel: Any, results: Any) -> Any:
    return arrays_p.bind(*operands, kernel=kernel, results=results)


arrays_p.def_impl(_evaluate)
