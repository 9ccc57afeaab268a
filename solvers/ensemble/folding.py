"""An engine under `vmap`: what is mapped becomes more members of one ensemble."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap, sequential_vmap
from jaxtyping import Array

from solvers.ensemble.law import Answer, Law, Question


def folded(run: Any, law: Law, method: Any, question: Question) -> Answer:
    """The answer of an engine, `run(law, method, question)`.

    A loop under `vmap` goes on until the slowest is done, for each level of mapping anew;
    members of one ensemble take turns. Where numbers that all members share are mapped,
    they become numbers of each member. The method's own numbers are taken one by one.
    """
    numbers, words = eqx.partition(method, eqx.is_array)

    @custom_vmap
    def answer(question: Question, numbers: Any) -> Answer:
        return run(law, eqx.combine(numbers, words), question)

    @answer.def_vmap
    def mapped(size: int, batched: Any, question: Question, numbers: Any) -> Any:
        which, of_method = batched
        if any(jax.tree.leaves(of_method)):
            one_by_one = sequential_vmap(lambda q, n: folded(run, law, _with(n), q))
            axes = jax.tree.map(lambda b: 0 if b else None, batched)
            found = jax.vmap(one_by_one, axes)(question, numbers)
            return found, jax.tree.map(lambda _: True, found)
        wider, every = law, question
        if which.shared:
            wider, every = _shared_as_varied(law, question)
            which = eqx.tree_at(lambda q: (q.shared, q.varied), which, (False, True))
        count = question.start.shape[-1]
        found = folded(run, wider, _with(numbers), _fold(every, which, size, count))
        return jax.tree.map(lambda x: x.reshape(size, count, *x.shape[1:]), found), (
            jax.tree.map(lambda _: True, found)
        )

    def _with(numbers: Any) -> Any:
        return eqx.combine(numbers, words)

    return answer(question, numbers)


def _shared_as_varied(law: Law, question: Question) -> tuple[Law, Question]:
    """The same with every shared number given to each member, where `shared` is mapped."""
    split = law.varied

    def regrouped(function: Any) -> Any:
        if function is None:
            return None
        return lambda t, y, varied, shared: function(t, y, varied[:split], varied[split:])

    wider = Law(
        drift=regrouped(law.drift),
        diffusion=regrouped(law.diffusion),
        states=law.states,
        varied=law.varied + law.shared,
        shared=0,
        noises=law.noises,
        diagonal=law.diagonal,
        controlled=law.controlled,
    )
    size, count = question.shared.shape[0], question.start.shape[-1]
    shared = jnp.broadcast_to(question.shared[:, None], (size, count, law.shared))
    varied = jnp.broadcast_to(question.varied, (size, count, law.varied))
    parts = (jnp.concatenate([varied, shared], axis=2), jnp.zeros(0, shared.dtype))
    return wider, eqx.tree_at(lambda q: (q.varied, q.shared), question, parts)


def _fold(question: Question, which: Any, size: int, count: int) -> Question:
    """The leading axis and that of the members as one; `which` says who has the former."""

    def fold(x: Array, mapped: bool) -> Array:
        every = x if mapped else jnp.broadcast_to(x, (size, *x.shape))
        return every.reshape(size * count, *every.shape[2:])

    times = question.times
    if which.times and times.ndim == 2:
        times = jnp.broadcast_to(times[:, None], (size, count, times.shape[-1]))
    if times.ndim > 1:
        times = fold(times, which.times)
    return Question(
        start=fold(question.start, which.start),
        stop=fold(question.stop, which.stop),
        initial_states=fold(question.initial_states, which.initial_states),
        varied=fold(question.varied, which.varied),
        shared=question.shared,
        times=times,
        keys=None if question.keys is None else fold(question.keys, which.keys),
    )
