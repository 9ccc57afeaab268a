"""The state of a molecular run as plain arrays, and back, with all its bits.

A neighbour list is kept too: one that is made anew would sum the same forces in another
order, and the run would not go on with the same bits. The structure is kept as a text of
nested tables, in which only the classes named here may stand.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from simkit.store.schema import StoreError
from solvers.molecular.monte_carlo import MonteCarloVariables
from solvers.molecular.state import MolecularState
from systems.molecular.boxes import OpenBox, OrthorhombicBox, TriclinicBox
from systems.molecular.cells import CellGrid
from systems.molecular.neighbours import Capacities, NeighbourList


_CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        MolecularState,
        OpenBox,
        OrthorhombicBox,
        TriclinicBox,
        NeighbourList,
        Capacities,
        CellGrid,
        MonteCarloVariables,
    )
}
_DEEPEST = 20


def encode_state(state: MolecularState) -> tuple[str, dict[str, np.ndarray]]:
    """The structure of a state as text, and its arrays by name.

    Raises `TypeError` for variables of a method that are of another class than those
    of the methods of dynamics here.
    """
    arrays: dict[str, np.ndarray] = {}
    return json.dumps(_encode(state, "state", arrays)), arrays


def decode_state(structure: str, arrays: Mapping[str, np.ndarray]) -> MolecularState:
    """The state that [`encode_state`][simkit.molecular.simulation_state.encode_state] took.

    Raises `StoreError` if text and arrays do not make a state, and `ValueError` where jax
    keeps fewer digits than they have.
    """
    try:
        state = _decode(json.loads(structure), arrays, 0)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"The state of the run is damaged: {error}.") from error
    except json.JSONDecodeError as error:
        raise StoreError(f"The state of the run is damaged: {error}.") from error
    if not isinstance(state, MolecularState):
        raise StoreError(f"The state of the run is damaged: it is a {type(state).__name__}.")
    return state


def _encode(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    if value is None:
        return None
    if isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        arrays[name] = np.asarray(value)
        return {"array": name}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v, f"{name}.{i}", arrays) for i, v in enumerate(value)]}
    # A list that an engine makes anew in its own way holds the same pairs.
    kind = NeighbourList if isinstance(value, NeighbourList) else type(value)
    if _CLASSES.get(kind.__name__) is kind:
        fields = {
            field.name: _encode(getattr(value, field.name), f"{name}.{field.name}", arrays)
            for field in dataclasses.fields(value)
        }
        return {"class": kind.__name__, "fields": fields}
    raise TypeError(
        f"{name} is a {type(value).__name__}, which no file of a molecular run can hold; "
        "expected arrays, tuples of them or a box."
    )


def _decode(item: Any, arrays: Mapping[str, np.ndarray], depth: int) -> Any:
    if depth > _DEEPEST:
        raise TypeError("it is nested too deeply")
    if item is None:
        return None
    if "value" in item:
        return item["value"]
    if "array" in item:
        return _as_jax(item["array"], arrays[item["array"]])
    if "tuple" in item:
        return tuple(_decode(part, arrays, depth + 1) for part in item["tuple"])
    kind = _CLASSES[item["class"]]
    names = {field.name for field in dataclasses.fields(kind)}
    if set(item["fields"]) != names:
        raise TypeError(f"the fields of {item['class']} are not those of this version")
    fields = {name: _decode(part, arrays, depth + 1) for name, part in item["fields"].items()}
    if not issubclass(kind, eqx.Module):
        return kind(**fields)
    # Converters and checks of a constructor would change leaves that are right already.
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _as_jax(name: str, values: np.ndarray) -> jax.Array:
    made = jnp.asarray(values)
    if made.dtype != values.dtype:
        raise ValueError(
            f"{name} has the type {values.dtype}, of which jax keeps {made.dtype}; call "
            "simkit.precision.use_double_precision() first."
        )
    return made
