"""What a dynamical system is: named states, declared parameters, a law of motion.

A system says *what* is simulated. It knows no solver, no file and no picture.
"""

import abc
import dataclasses
import enum
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree, Real


Inputs = Mapping[str, Any]
"""Known, non-fitted quantities of one experiment by name (a dose, a weight)."""


@dataclasses.dataclass(frozen=True)
class State:
    """One coordinate of the state vector.

    - `name`: how files, tables and pictures call it.
    - `default`: its initial value where nobody gives another, in `unit`.
    - `unit`: a unit as text; `"1"` for a number without dimension.
    - `description`: one line for people.
    """

    name: str
    default: float
    unit: str = "1"
    description: str = ""


@dataclasses.dataclass(frozen=True)
class Input:
    """A known quantity that differs between experiments and is never fitted."""

    name: str
    default: float
    unit: str = "1"
    description: str = ""


@dataclasses.dataclass(frozen=True)
class ParameterDeclaration:
    """What a system promises about one of its parameters.

    - `name`: dotted path of the field from the system, e.g. `law.prey_growth`.
    - `unit`: a unit as text.
    - `lower`, `upper`: the closed range outside which the law has no meaning.
    - `size`: how many numbers it holds (1 for a scalar, more for a network).
    - `description`: one line for people.
    """

    name: str
    unit: str
    lower: float
    upper: float
    size: int
    description: str


_DECLARATION = "simkit_parameter"


def _as_parameter(value: Any) -> Any:
    """Keep tracers and arrays; make plain numbers float64 leaves.

    A Python float would be a static part of the module, so every new value would
    compile anew; a jax array would be single precision if made before an entry
    point switches double precision on.
    """
    if isinstance(value, list | tuple) or (
        isinstance(value, np.ndarray) and value.dtype.kind in "iu"
    ):
        return np.asarray(value, dtype=np.float64)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return value
    return np.asarray(value, dtype=np.float64)


def parameter(
    default: Any = dataclasses.MISSING,
    *,
    unit: str = "1",
    lower: float = -math.inf,
    upper: float = math.inf,
    positive: bool = False,
    description: str = "",
) -> Any:
    """Declare a field of a system as a parameter.

    **Arguments:**

    - `default`: the value where nobody gives another; left out, it is required.
    - `unit`: its unit as text, `"1"` for none.
    - `lower`, `upper`: bounds, in `unit`; outside them construction fails.
    - `positive`: the same as `lower=0`.
    - `description`: one line for people.
    """
    if positive:
        lower = max(lower, 0.0)
    declaration = {
        "unit": unit,
        "lower": lower,
        "upper": upper,
        "description": description,
    }
    options: dict[str, Any] = {} if default is dataclasses.MISSING else {"default": default}
    return eqx.field(converter=_as_parameter, metadata={_DECLARATION: declaration}, **options)


class NoiseKind(enum.Enum):
    """How the noise of a stochastic system enters; it decides which methods apply."""

    DIAGONAL = "diagonal"
    ADDITIVE = "additive"
    GENERAL = "general"


class Interpretation(enum.Enum):
    """The calculus in which a stochastic differential equation is written."""

    ITO = "Ito"
    STRATONOVICH = "Stratonovich"


class AbstractSystem(eqx.Module):
    r"""A law of motion $\dot y = f(t, y, u)$ with named states and parameters.

    A system promises `states` and a `vector_field`. Parameters are fields made with
    [`parameter`][systems.base.parameter]; they are leaves of the module, so a system
    passes through `jit`, `vmap` and `grad`.

    `initial_state` gives the defaults of the states; a system whose start depends on
    its parameters or inputs (a dose) writes its own.
    """

    if TYPE_CHECKING:
        # Type checkers would take an AbstractVar for an argument of the constructor.
        states: ClassVar[tuple[State, ...]]
    else:
        states: eqx.AbstractVar[tuple[State, ...]]
    inputs: ClassVar[tuple[Input, ...]] = ()
    derived_units: ClassVar[Mapping[str, str]] = {}

    def __check_init__(self) -> None:
        check_parameters(self)

    @abc.abstractmethod
    def vector_field(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """Time derivative of the state (the drift, for a stochastic system)."""

    def initial_state(self, inputs: Inputs) -> Float[ArrayLike, " states"]:
        """State at the start of an experiment with these inputs."""
        del inputs
        return np.asarray([state.default for state in self.states], dtype=np.float64)

    def derived_quantities(self) -> dict[str, Float[Array, ""]]:
        """Scalars that follow from the parameters and are reported beside them.

        Their units stand in `derived_units`.
        """
        return {}


class AbstractODE(AbstractSystem):
    r"""An ordinary differential equation $\dot y = f(t, y, u)$."""


class AbstractSDE(AbstractSystem):
    r"""A stochastic differential equation $dy = f\,dt + g\,dW$ (Ito) or
    $dy = f\,dt + g \circ dW$ (Stratonovich).

    - `interpretation`: the calculus in which the law is written.
    - `noise`: `DIAGONAL` if each state has its own Wiener process and `diffusion`
      has shape `(states,)`; `ADDITIVE` if `diffusion` has shape `(states, noises)`
      and does not depend on the state; `GENERAL` for shape `(states, noises)`.
    - `noise_dimension`: the number of independent Wiener processes.
    """  # noqa: D205

    if TYPE_CHECKING:
        interpretation: ClassVar[Interpretation]
        noise: ClassVar[NoiseKind]
        noise_dimension: ClassVar[int]
    else:
        interpretation: eqx.AbstractVar[Interpretation]
        noise: eqx.AbstractVar[NoiseKind]
        noise_dimension: eqx.AbstractVar[int]

    @abc.abstractmethod
    def diffusion(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, "..."]:
        """Factor of the noise, in units of the state per square root of time."""


class AbstractHamiltonian(AbstractSystem):
    r"""A separable Hamiltonian system $H(q, p) = T(p) + V(q)$.

    The first half of the states are the positions $q$, the second half the momenta
    $p$, in the same order. The vector field
    $\dot q = \partial T/\partial p,\ \dot p = -\partial V/\partial q$ follows.
    """

    @abc.abstractmethod
    def kinetic_energy(self, momenta: Float[Array, " half"]) -> Float[Array, ""]:
        """$T(p)$."""

    @abc.abstractmethod
    def potential_energy(self, positions: Float[Array, " half"]) -> Float[Array, ""]:
        """$V(q)$."""

    def energy(self, y: Float[Array, " states"]) -> Float[Array, ""]:
        """The conserved total $H = T + V$."""
        positions, momenta = jnp.split(y, 2)
        return self.kinetic_energy(momenta) + self.potential_energy(positions)

    def vector_field(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """Hamilton's equations, from the two energies."""
        del t, inputs
        positions, momenta = jnp.split(y, 2)
        velocity = jax.grad(self.kinetic_energy)(momenta)
        force = -jax.grad(self.potential_energy)(positions)
        return jnp.concatenate([velocity, force])


def check_parameters(module: eqx.Module) -> None:
    """Whether the declared parameters of a module lie within their bounds.

    Raises `ValueError` for the first one that does not; traced values are not seen.
    """
    for field, declaration in declared_fields(module):
        _check_bounds(
            type(module).__name__, field.name, getattr(module, field.name), declaration
        )


def parameter_declarations(system: eqx.Module) -> tuple[ParameterDeclaration, ...]:
    """The declared parameters of a system, in field order.

    Those of modules within are included, by dotted path; an item of a tuple of modules
    goes by its place, as in `terms.0.pair.epsilon`.
    """
    return tuple(_walk_declarations(system, ""))


def state_names(system: AbstractSystem) -> tuple[str, ...]:
    """Names of the states, in the order of the state vector."""
    return tuple(state.name for state in system.states)


def get_parameter(system: eqx.Module, name: str) -> PyTree:
    """The value of the parameter at a dotted path.

    Raises `KeyError` if there is no declared parameter of that name.
    """
    return _getter(system, name)(system)


def replace_parameters(system: Any, values: Mapping[str, PyTree]) -> Any:
    """A copy of the system with some parameters replaced; the bounds are not checked.

    Works on traced values, so that fits and ensembles may use it under `jit`. Raises
    `KeyError` if there is no declared parameter of that name.
    """
    for name, value in values.items():
        system = eqx.tree_at(_getter(system, name), system, _as_parameter(value))
    return system


def complete_inputs(system: AbstractSystem, inputs: Inputs | None) -> dict[str, Any]:
    """The inputs given, with the declared defaults where one is left out.

    Raises `ValueError` for an input that the system does not declare.
    """
    given = dict(inputs or {})
    declared = {item.name: item.default for item in system.inputs}
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise ValueError(
            f"{type(system).__name__} has no input {unknown[0]!r}; "
            f"it has {sorted(declared) or 'none'}."
        )
    return {name: _as_parameter(given.get(name, default)) for name, default in declared.items()}


def declared_fields(module: Any) -> list[tuple[dataclasses.Field, dict[str, Any]]]:
    """The fields of one module that are parameters, each with what it declares."""
    return [
        (field, field.metadata[_DECLARATION])
        for field in dataclasses.fields(module)
        if _DECLARATION in field.metadata
    ]


def _check_bounds(owner: str, name: str, value: Any, declaration: dict[str, Any]) -> None:
    if not isinstance(value, np.ndarray):
        return  # a tracer or a module: only concrete plain numbers can be compared
    lower, upper = declaration["lower"], declaration["upper"]
    if np.all((value >= lower) & (value <= upper)):
        return
    raise ValueError(
        f"{owner}: parameter {name!r} is {value}, expected a number "
        f"from {lower:g} to {upper:g} (unit {declaration['unit']})."
    )


def _walk_declarations(module: Any, prefix: str) -> list[ParameterDeclaration]:
    found = []
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if _DECLARATION in field.metadata:
            declaration = field.metadata[_DECLARATION]
            leaves = jax.tree.leaves(eqx.filter(value, eqx.is_inexact_array))
            size = sum(int(np.size(leaf)) for leaf in leaves)
            found.append(
                ParameterDeclaration(name=prefix + field.name, size=size, **declaration)
            )
        elif isinstance(value, eqx.Module):
            found += _walk_declarations(value, f"{prefix}{field.name}.")
        elif isinstance(value, tuple):
            for place, item in enumerate(value):
                if isinstance(item, eqx.Module):
                    found += _walk_declarations(item, f"{prefix}{field.name}.{place}.")
    return found


def _getter(system: Any, name: str) -> Callable[[Any], Any]:
    known = [declaration.name for declaration in parameter_declarations(system)]
    if name not in known:
        raise KeyError(f"{type(system).__name__} has no parameter {name!r}; it has {known}.")

    def get(module: Any) -> Any:
        for part in name.split("."):
            module = module[int(part)] if part.isdecimal() else getattr(module, part)
        return module

    return get
