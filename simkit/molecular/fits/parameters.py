"""The parameters of a model that a fit moves, as one vector of numbers without bounds."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from systems.base import get_parameter, parameter_declarations, replace_parameters
from systems.molecular.model import MolecularModel


class ModelParameters(eqx.Module):
    """Some parameters of a model, and the vector that stands for them in a fit.

    Parameters that the model declares as not negative enter by their logarithm, so that
    steps are relative and signs stay; others as they are.

    - `model`: the model at the start.
    - `names`: dotted names, such as `terms.0.pair.pair.epsilon`.
    - `shapes`: the shape of each.
    - `logarithmic`: for each number, whether it enters by its logarithm.
    """

    model: MolecularModel
    names: tuple[str, ...] = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    logarithmic: tuple[bool, ...] = eqx.field(static=True)

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each number: that of its parameter, with its place in an array."""
        found = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            found += [name + "".join(f"[{i}]" for i in place) for place in np.ndindex(*shape)]
        return tuple(found)

    @property
    def start(self) -> Float[np.ndarray, " numbers"]:
        """The vector of the model as it was given."""
        values = [np.ravel(np.asarray(get_parameter(self.model, name))) for name in self.names]
        flat = np.concatenate(values).astype(float)
        logs = np.asarray(self.logarithmic)
        return np.where(logs, np.log(np.where(logs, flat, 1.0)), flat)

    def values(self, vector: Float[ArrayLike, " numbers"]) -> Float[Array, " numbers"]:
        """The parameters themselves, one after another."""
        logs = jnp.asarray(self.logarithmic)
        return jnp.where(logs, jnp.exp(jnp.where(logs, vector, 0.0)), vector)

    def slopes(self, vector: Float[np.ndarray, " numbers"]) -> Float[np.ndarray, " numbers"]:
        """Derivative of each parameter by its number in the vector."""
        return np.where(np.asarray(self.logarithmic), np.asarray(self.values(vector)), 1.0)

    def at(self, vector: Float[ArrayLike, " numbers"]) -> MolecularModel:
        """The model with these parameters; under `jit` too."""
        flat, values, begin = self.values(vector), {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            size = int(np.prod(shape, dtype=int))
            values[name] = flat[begin : begin + size].reshape(shape)
            begin += size
        return replace_parameters(self.model, values)


def choose_parameters(model: MolecularModel, names: Sequence[str] | None) -> ModelParameters:
    """The parameters of these names; of `None`, all of the terms.

    Raises `ValueError` for a name that the model does not have, none at all, and a parameter
    that is declared as not negative but starts at zero.
    """
    declared = {item.name: item for item in parameter_declarations(model)}
    known = [name for name in declared if name != "masses"]
    chosen = tuple(known if names is None else names)
    for name in chosen:
        if name not in declared:
            raise ValueError(f"The model has no parameter {name!r}; it has {known}.")
    if not chosen:
        raise ValueError("No parameter of the model was chosen to be fitted.")
    shapes, logarithmic = [], []
    for name in chosen:
        value: Any = np.asarray(get_parameter(model, name), float)
        positive = declared[name].lower >= 0
        if positive and not np.all(value > 0):
            raise ValueError(f"The parameter {name!r} starts at {value}, expected above zero.")
        shapes.append(value.shape)
        logarithmic += [positive] * value.size
    return ModelParameters(model, chosen, tuple(shapes), tuple(logarithmic))
