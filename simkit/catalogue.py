"""What systems and methods there are, known without importing them.

The catalogue is a file made from the live classes, so that lists, shell completion and
the refusal of a broken case need not wait for jax. `python -m simkit.catalogue` writes it
anew; a test fails where it is behind the classes.
"""

import functools
import importlib
import math
import pkgutil
from pathlib import Path
from typing import Any, Literal

import msgspec


CATALOGUE_FILE = Path(__file__).with_suffix(".json")


class ParameterEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter of a system; a bound that is `None` is infinite."""

    default: float | None
    unit: str
    lower: float | None
    upper: float | None
    description: str


class QuantityEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A state or an input of a system."""

    default: float
    unit: str
    description: str


class SystemEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A system as lists and checks need it.

    - `documentation`: what the class says of itself, with equation and source.
    - `interpretation`, `noise`: calculus and kind of noise, for an SDE.
    - `methods`: the methods that can solve it.
    - `python_only`: whether it needs more than numbers (a network, another system), so
      that a case file cannot name it; only such an entry lacks states and methods.
    """

    name: str
    module: str
    summary: str
    documentation: str
    kind: Literal["ODE", "SDE", "Hamiltonian"]
    parameters: dict[str, ParameterEntry]
    states: dict[str, QuantityEntry]
    inputs: dict[str, QuantityEntry]
    derived: dict[str, str]
    interpretation: str | None = None
    noise: str | None = None
    methods: tuple[str, ...] = ()
    python_only: bool = False

    @property
    def sort(self) -> str:
        """The kind with the calculus and the noise, for people."""
        if self.kind != "SDE":
            return self.kind
        return f"{self.interpretation} SDE with {self.noise} noise"


class MethodEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A method; `options` are the keys of [method] that it takes, with their defaults."""

    name: str
    module: str
    summary: str
    documentation: str
    kind: Literal["ODE", "SDE"]
    order: float
    calculus: str | None
    options: dict[str, float | int | None]


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """All systems and methods by name, in alphabetical order."""

    systems: dict[str, SystemEntry]
    methods: dict[str, MethodEntry]

    @property
    def case_systems(self) -> dict[str, SystemEntry]:
        """The systems that a case file can name."""
        return {name: item for name, item in self.systems.items() if not item.python_only}


@functools.cache
def catalogue() -> Catalogue:
    """The catalogue that was shipped."""
    return msgspec.json.decode(CATALOGUE_FILE.read_bytes(), type=Catalogue)


def build_catalogue() -> Catalogue:
    """The catalogue of the classes as they are now; imports all of them."""
    import solvers.integrators
    import systems
    from solvers.integrators.base import AbstractMethod
    from systems.base import AbstractSystem

    methods = _final_classes(solvers.integrators, AbstractMethod)
    found = _final_classes(systems, AbstractSystem)
    return Catalogue(
        systems={kind.__name__: _system_entry(kind, methods) for kind in found},
        methods={kind.__name__: _method_entry(kind) for kind in methods},
    )


def encode_catalogue(entries: Catalogue) -> bytes:
    """The text of the catalogue file."""
    return msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n"


def _final_classes(package: Any, base: type) -> list[type]:
    """The classes of a package's modules that fulfil the abstract one, by name."""
    found = {}
    for item in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{item.name}")
        for name, value in vars(module).items():
            if (
                isinstance(value, type)
                and issubclass(value, base)
                and value.__module__ == module.__name__
                and not name.startswith(("Abstract", "_"))
            ):
                found[name] = value
    return [found[name] for name in sorted(found, key=str.lower)]


def describe_system(system: Any) -> SystemEntry:
    """The entry of a system that is at hand, such as one of the user's own."""
    import solvers.integrators
    from solvers.integrators.base import AbstractMethod

    return _live_entry(system, _final_classes(solvers.integrators, AbstractMethod))


def _system_entry(kind: Any, methods: list[Any]) -> SystemEntry:
    import dataclasses

    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.init
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if not needed:
        return _live_entry(kind(), methods)
    return SystemEntry(
        **_words(kind), parameters={}, states={}, inputs={}, derived={}, python_only=True
    )


def _words(kind: Any) -> dict[str, Any]:
    return {
        "name": kind.__name__,
        "module": kind.__module__,
        "summary": _summary(kind),
        "documentation": _documentation(kind),
        "kind": _system_kind(kind),
    }


def _live_entry(system: Any, methods: list[Any]) -> SystemEntry:
    words = _words(type(system))
    stochastic = words["kind"] == "SDE"
    return SystemEntry(
        **words,
        parameters=_parameter_entries(system),
        states=_quantity_entries(system.states),
        inputs=_quantity_entries(system.inputs),
        derived=dict(system.derived_units),
        interpretation=system.interpretation.value if stochastic else None,
        noise=system.noise.value if stochastic else None,
        methods=tuple(item.__name__ for item in methods if _solves(item, system)),
    )


def _system_kind(kind: type) -> Literal["ODE", "SDE", "Hamiltonian"]:
    from systems.base import AbstractHamiltonian, AbstractSDE

    if issubclass(kind, AbstractSDE):
        return "SDE"
    return "Hamiltonian" if issubclass(kind, AbstractHamiltonian) else "ODE"


def _solves(method: Any, system: Any) -> bool:
    from solvers.integrators.compatibility import check_method

    try:
        check_method(system, method())
    except ValueError:
        return False
    return True


def _parameter_entries(system: Any) -> dict[str, ParameterEntry]:
    from systems.base import get_parameter, parameter_declarations

    return {
        item.name: ParameterEntry(
            # A parameter of many numbers, such as a network, has no one default.
            default=float(get_parameter(system, item.name)) if item.size == 1 else None,
            unit=item.unit,
            lower=_finite(item.lower),
            upper=_finite(item.upper),
            description=item.description,
        )
        for item in parameter_declarations(system)
    }


def _quantity_entries(quantities: Any) -> dict[str, QuantityEntry]:
    return {
        item.name: QuantityEntry(
            default=float(item.default), unit=item.unit, description=item.description
        )
        for item in quantities
    }


def _method_entry(kind: Any) -> MethodEntry:
    import dataclasses

    calculus = getattr(kind, "calculus", None)
    return MethodEntry(
        name=kind.__name__,
        module=kind.__module__,
        summary=_summary(kind),
        documentation=_documentation(kind),
        kind=kind.kind.name,
        order=float(kind.order),
        calculus=calculus.value if calculus else None,
        options={item.name: getattr(kind(), item.name) for item in dataclasses.fields(kind)},
    )


def _documentation(kind: type) -> str:
    import inspect

    return inspect.getdoc(kind) or ""


def _summary(kind: type) -> str:
    return " ".join(_documentation(kind).split("\n\n")[0].split())


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None


if __name__ == "__main__":
    CATALOGUE_FILE.write_bytes(encode_catalogue(build_catalogue()))
