"""Mini-batches: which measurements a step of a stochastic optimiser sees.

The measurements are the `Rows` that an objective gets as its `args`. It weights the term
of each row, so that one function serves the whole of the data and any batch of it:

    def objective(y, rows):
        return jnp.sum(rows.weights * jax.vmap(loss, (None, 0))(y, rows.data)) + prior(y)
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree


class Rows(eqx.Module):
    """Measurements as the `args` of an objective that is a sum over them.

    - `data`: a pytree of arrays, each of shape (rows, ...).
    - `weights`: the weight of each row's term, of shape (rows,); ones for the whole of
      the data. Zero stands for a row that only fills up a batch.
    - `shared`: what else the objective needs; the same in every batch.

    [`make`][solvers.optimisers.batches.Rows.make] checks the shapes.
    """

    data: PyTree
    weights: Float[Array, " rows"]
    shared: PyTree = None

    @classmethod
    def make(cls, data: PyTree, shared: PyTree = None) -> "Rows":
        """All rows with weight one.

        **Raises:** `ValueError` if there is no array, or if the first axes differ.
        """
        data = jax.tree.map(jnp.asarray, data)
        leaves = jax.tree.leaves(data)
        lengths = sorted({leaf.shape[0] if leaf.ndim else 0 for leaf in leaves})
        if len(lengths) != 1 or lengths[0] == 0:
            said = ", ".join(map(str, lengths)) or "no array"
            raise ValueError(f"The data have {said} rows, expected one positive number.")
        kinds = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
        kind = jnp.result_type(*kinds) if kinds else jnp.result_type(float)
        return cls(data, jnp.ones(lengths[0], kind), shared)


class Batches(eqx.Module):
    """Batches drawn without replacement: every epoch is a permutation of the rows.

    - `size`: rows in a batch.
    - `key`: the permutation of an epoch depends on it and on the epoch's number alone,
      so a lane of a `vmap` sees the batches that it would see by itself.

    The weights of a batch are multiplied by the number of batches in an epoch, which is
    rows / size where it divides. The last batch of an epoch may be partial: it is filled
    up with rows of weight zero. So each row counts the same in an epoch, and the mean of
    the objective (or its gradient) over the batches of an epoch is that of the whole.
    """

    size: int = eqx.field(static=True)
    key: PRNGKeyArray

    def __check_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Batches: size is {self.size}, expected at least 1.")

    def count(self, rows: Rows) -> int:
        """How many batches make an epoch.

        **Raises:** `TypeError` if the `args` of the objective are not `Rows`.
        """
        if not isinstance(rows, Rows):
            raise TypeError(
                f"Batches are drawn from `args`, which are {type(rows).__name__}; expected "
                "Rows, e.g. Rows.make(data)."
            )
        return -(-rows.weights.shape[0] // self.size)

    def order(self, rows: Rows, epoch: Int[Array, ""]) -> Int[Array, " rows"]:
        """The permutation of an epoch."""
        return jax.random.permutation(
            jax.random.fold_in(self.key, epoch), rows.weights.shape[0]
        )

    def draw(
        self, rows: Rows, step: Int[Array, ""], order: Int[Array, " rows"]
    ) -> tuple[Rows, Int[Array, " rows"]]:
        """The batch of a step, and the permutation to hand in at the next one.

        A new permutation is drawn where an epoch begins; `order` is looked at elsewhere.
        """
        count, total = self.count(rows), rows.weights.shape[0]
        order = jax.lax.cond(
            step % count == 0,
            lambda: self.order(rows, step // count).astype(order.dtype),
            lambda: order,
        )
        first = (step % count) * self.size
        filled = jnp.pad(order, (0, count * self.size - total))
        chosen = jax.lax.dynamic_slice(filled, (first,), (self.size,))
        present = first + jnp.arange(self.size) < total
        weights = jnp.where(present, rows.weights[chosen] * count, 0)
        data = jax.tree.map(lambda leaf: leaf[chosen], rows.data)
        return Rows(data, weights.astype(rows.weights.dtype), rows.shared), order


def first_order(batches: Batches | None, rows: Any) -> Array | None:
    """What to hand to the first `draw`: a permutation that nobody looks at."""
    if batches is None:
        return None
    batches.count(rows)
    return jnp.arange(rows.weights.shape[0])
