"""The engine: a law becomes a kernel, and the kernel a primitive of jax."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array

from solvers.ensemble.law import Answer, EngineRefusal, Law, Question
from solvers.integrators.base import AbstractMethod


def run(law: Law, method: AbstractMethod, question: Question) -> Answer:
    """Solve all members by a kernel that is compiled from the law.

    Results depend neither on the order of the members nor on the number of threads. The
    noise of stochastic laws comes from `keys` and the numbers of the steps.

    **Raises:** `EngineRefusal` if llvmlite is missing, the device is no CPU, the arrays are
    not of double precision, or there is no kernel for the method or the law.
    """
    _check(law, question)
    try:
        import llvmlite  # noqa: F401
    except ImportError as error:
        raise EngineRefusal(
            "The package llvmlite is missing: pip install simkit-jax[native]."
        ) from error
    from solvers.ensemble.native.kernels import kernel_for

    kernel = kernel_for(law, method)
    check_layout()
    count = question.initial_states.shape[0]
    keys = question.keys
    if keys is None:
        keys = jnp.zeros((count, 0), jnp.uint32)
    operands = (
        question.start,
        question.stop,
        question.initial_states,
        question.varied,
        question.shared,
        question.times,
    )
    reals = [jnp.asarray(x, jnp.float64) for x in operands]
    found = kernel_p.bind(*reals, keys, _settings(method), kernel=kernel)
    return Answer(*found)


def _check(law: Law, question: Question) -> None:
    if jax.default_backend() != "cpu":
        raise EngineRefusal(f"Its kernels are for a CPU, and jax runs on {device_name()}.")
    kind = question.initial_states.dtype
    if kind != jnp.float64:
        raise EngineRefusal(f"Its kernels are of double precision, and the states {kind}.")
    if law.diffusion is not None and question.keys is None:
        raise ValueError("A stochastic ensemble needs the keys of its members.")


def device_name() -> str:
    """The kind of device that jax runs on, in words."""
    return {"gpu": "a GPU", "tpu": "a TPU"}.get(jax.default_backend(), "another device")


def _settings(method: Any) -> Array:
    """The numbers of a method that may be traced, in the order of `worker.SETTINGS`."""
    names = ("rtol", "atol", "step", "max_steps")
    given = (getattr(method, name, None) for name in names)
    return jnp.stack([jnp.asarray(0.0 if x is None else x, jnp.float64) for x in given])


def _shapes(*operands: Any, kernel: Any) -> list[Any]:
    del kernel
    start, _, initial, _, _, times = operands[:6]
    count, saves = initial.shape[0], times.shape[-1]
    kinds = (
        ((count, saves, initial.shape[1]), jnp.float64),
        ((count,), jnp.float64),
        (initial.shape, jnp.float64),
        ((count,), jnp.int32),
        ((count,), jnp.int64),
        ((count,), jnp.int64),
    )
    return [start.update(shape=shape, dtype=np.dtype(kind)) for shape, kind in kinds]


def _lower(ctx: Any, *operands: Any, **parameters: Any) -> Any:
    from solvers.ensemble.native.registry import TARGET

    kernel = parameters["kernel"]
    # A compiled program keeps the code that it calls.
    ctx.module_context.add_keepalive(kernel)
    return jax.ffi.ffi_lowering(TARGET)(ctx, *operands, kernel=np.int64(kernel.number))


def _batch(operands: Any, axes: Any, *, kernel: Any) -> Any:
    """More members; one after another where what all members share differs."""
    size = next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)
    moved = [
        x if a is None else jnp.moveaxis(x, a, 0) for x, a in zip(operands, axes, strict=True)
    ]
    mapped = [a is not None for a in axes]
    if mapped[4] or mapped[7]:
        fixed = [None if m else x for x, m in zip(moved, mapped, strict=True)]

        def one(batched: Any) -> Any:
            every = [b if f is None else f for b, f in zip(batched, fixed, strict=True)]
            return kernel_p.bind(*every, kernel=kernel)

        rows = [x if m else None for x, m in zip(moved, mapped, strict=True)]
        found = jax.lax.map(one, rows)
        return found, [0] * len(found)
    members = moved[0].shape[-1]
    flat = []
    for i, (x, m) in enumerate(zip(moved, mapped, strict=True)):
        if i in (4, 7) or (i == 5 and not m and x.ndim == 1):
            flat.append(x)
            continue
        if i == 5 and x.ndim - m == 1:  # times of all members of a batch
            x = jnp.broadcast_to(jnp.expand_dims(x, -2), (size, members, x.shape[-1]))
        elif not m:
            x = jnp.broadcast_to(x[None], (size, *x.shape))
        flat.append(x.reshape(math.prod(x.shape[:2]), *x.shape[2:]))
    found = kernel_p.bind(*flat, kernel=kernel)
    return [x.reshape(size, members, *x.shape[1:]) for x in found], [0] * len(found)


kernel_p = Primitive("simkit_kernel")
kernel_p.multiple_results = True
kernel_p.def_abstract_eval(_shapes)
mlir.register_lowering(kernel_p, _lower, platform="cpu")
batching.primitive_batchers[kernel_p] = _batch


@functools.partial(jax.jit, static_argnames="kernel")
def _evaluate(*operands: Any, kernel: Any) -> Any:
    return kernel_p.bind(*operands, kernel=kernel)


kernel_p.def_impl(_evaluate)


@functools.cache
def check_layout() -> None:
    """Call a kernel that tells what it sees.

    **Raises:** `EngineRefusal` if it does not see what it was given.
    """
    from solvers.ensemble.native.registry import Kernel, handler

    probe = Kernel("probe", PROBE)
    handler().insert(PROBE, handler().probe)
    with jax.ensure_compile_time_eval():
        operands = [
            np.array([1.0, 2.0]),
            np.array([10.0, 20.0]),
            np.array([[3.0], [4.0]]),
            np.array([[5.0], [6.0]]),
            np.array([7.0]),
            np.array([[8.0, 0.0], [0.0, 0.0]]),
            np.array([[9, 0], [0, 0]], np.uint32),
            np.array([11.0, 0.0, 0.0, 0.0]),
        ]
        found = kernel_p.bind(*map(jnp.asarray, operands), kernel=probe)
    expected = (
        [3.0, 5.0, 7.0, 8.0],
        [11.0, 22.0],
        [7.0, 8.0],
        [9, 0],
        [2, 2],
        [2, 2],
    )
    for seen, right in zip(found, expected, strict=True):
        if np.ravel(np.asarray(seen)).tolist() != right:
            raise EngineRefusal(
                "This version of jax hands arrays to kernels in an unknown way: a call with "
                f"known numbers gave {np.ravel(np.asarray(seen)).tolist()}, not {right}."
            )


PROBE = 1
"""The number of the kernel that tells what it is called with."""
