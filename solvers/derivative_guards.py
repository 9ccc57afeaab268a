"""Identities that refuse the derivatives a solve cannot give, in words.

Without them jax raises its own error from deep inside a loop, which names neither the
solve nor the way out.
"""

import functools
from typing import Any

import equinox as eqx
import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def refuse_forward(tree: Any, message: str) -> Any:
    """The tree itself; `TypeError` if it is differentiated in forward mode, or twice.

    Reverse mode, once, passes: `grad`, `vjp`, `jacrev`.
    """
    return _map(functools.partial(_reverse_once, message), tree)


def refuse_reverse(tree: Any, message: str) -> Any:
    """The tree itself; `TypeError` if it is differentiated in reverse mode."""
    return _map(functools.partial(_forward_only.bind, message=message), tree)


def refuse_all(tree: Any, message: str) -> Any:
    """The tree itself; `TypeError` if it is differentiated at all."""
    return _map(functools.partial(_constant, message), tree)


def _map(function: Any, tree: Any) -> Any:
    numbers, others = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(function, numbers), others)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _reverse_once(message: str, x: Any) -> Any:
    del message
    return x


@_reverse_once.defjvp
def _reverse_once_jvp(message: str, primals: Any, tangents: Any) -> Any:
    (x,), (tangent,) = primals, tangents
    return _reverse_once(message, x), _transposed.bind(tangent, message=message)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _constant(message: str, x: Any) -> Any:
    del message
    return x


@_constant.defjvp
def _constant_jvp(message: str, primals: Any, tangents: Any) -> Any:
    del primals, tangents
    raise TypeError(message)


def _refuse(*args: Any, message: str, **kwargs: Any) -> Any:
    del args, kwargs
    raise TypeError(message)


def _same_type(x: Any, *, message: str) -> Any:
    del message
    return x


# A tangent that may only be transposed. Reverse mode transposes it; forward mode, which
# evaluates or compiles it, is refused.
_transposed = Primitive("simkit_transposed")
_transposed.def_impl(_refuse)
_transposed.def_abstract_eval(_same_type)
mlir.register_lowering(_transposed, _refuse)
ad.primitive_jvps[_transposed] = _refuse
ad.primitive_transposes[_transposed] = lambda cotangent, x, *, message: [
    cotangent if isinstance(cotangent, ad.Zero) else _once.bind(cotangent, message=message)
]


def _batch(primitive: Primitive) -> Any:
    def rule(args: Any, axes: Any, *, message: str) -> Any:
        return primitive.bind(*args, message=message), axes[0]

    return rule


def _make_identity(name: str) -> Primitive:
    primitive = Primitive(name)
    primitive.def_impl(_same_type)
    primitive.def_abstract_eval(_same_type)
    mlir.register_lowering(primitive, mlir.lower_fun(_same_type, multiple_results=False))
    batching.primitive_batchers[primitive] = _batch(primitive)
    return primitive


# Under `vmap` a tangent stays one that may only be transposed: `grad` of a mapped solve.
batching.primitive_batchers[_transposed] = _batch(_transposed)

# A first derivative, which has none of its own.
_once = _make_identity("simkit_once")
ad.primitive_jvps[_once] = _refuse

# Tangents pass, cotangents do not.
_forward_only = _make_identity("simkit_forward_only")
ad.deflinear2(
    _forward_only,
    lambda cotangent, x, *, message: (
        [cotangent] if isinstance(cotangent, ad.Zero) else _refuse(message=message)
    ),
)
