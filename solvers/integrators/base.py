"""What a method is: a diffrax solver, a step-size rule and what it can solve."""

import abc
import dataclasses
import enum
import math
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax.numpy as jnp


class EquationKind(enum.Enum):
    """The kind of equation a method is for."""

    ODE = "ordinary differential equation"
    SDE = "stochastic differential equation"


class Calculus(enum.Enum):
    """The calculus to whose solution a stochastic method converges."""

    ITO = "Ito"
    STRATONOVICH = "Stratonovich"
    ADDITIVE = "additive noise only, where both agree"


class AbstractMethod(eqx.Module):
    """A method of integration with its own options as fields.

    - `kind`: the kind of equation it solves.
    - `order`: order of convergence in the step (strong order for stochastic methods).
    - `max_steps`: steps, rejected ones included, after which a solve fails.
    """

    kind: eqx.AbstractClassVar[EquationKind]
    order: eqx.AbstractClassVar[float]
    max_steps: eqx.AbstractVar[int]

    def __check_init__(self) -> None:
        _check_options(self)

    @abc.abstractmethod
    def stepper(self) -> diffrax.AbstractSolver:
        """The diffrax solver that does one step."""

    @abc.abstractmethod
    def controller(self) -> diffrax.AbstractStepSizeController:
        """The diffrax controller that chooses the steps."""

    @abc.abstractmethod
    def first_step(self) -> float | None:
        """The first (or constant) step; `None` lets the controller choose."""


class AbstractDeterministicMethod(AbstractMethod):
    """A Runge-Kutta method with adaptive steps, or constant ones where `step` is given.

    - `rtol`, `atol`: a step is accepted if its estimated error is at most
      `atol + rtol * |y|` in the root mean square over the states.
    - `step`: a constant step instead of adaptive ones.
    - `steps_on_saves`: whether adaptive steps end on the saved times. It is so for
      methods whose interpolation between steps is worse than they are (measured: up to
      400 times the tolerance), and would spoil what the error control achieves.
    """

    kind: ClassVar[EquationKind] = EquationKind.ODE
    steps_on_saves: ClassVar[bool] = False
    rtol: float = 1e-6
    atol: float = 1e-9
    step: float | None = None
    max_steps: int = 10_000

    def controller(self) -> diffrax.AbstractStepSizeController:
        """Integral control of the error, stopped when time can no longer advance."""
        if self.step is not None:
            return diffrax.ConstantStepSize()
        return _guard(diffrax.PIDController(rtol=self.rtol, atol=self.atol))

    def first_step(self) -> float | None:
        """The constant step, if any."""
        return self.step


class AbstractStochasticMethod(AbstractMethod):
    """A method for stochastic differential equations, with constant steps.

    - `calculus`: whose solution it converges to.
    - `levy_area`: what the method needs to know of the Wiener path in a step.
    - `step`: the constant step.
    - `path_resolution`: the time down to which the Wiener path is drawn, below `step`;
      default: half of it. Between these times the path is interpolated, so that methods
      with different steps follow one path only if they share this value (and the key).
    """

    kind: ClassVar[EquationKind] = EquationKind.SDE
    calculus: eqx.AbstractClassVar[Calculus]
    levy_area: eqx.AbstractClassVar[Any]
    step: float = 0.01
    max_steps: int = 1_000_000
    path_resolution: float | None = None

    def controller(self) -> diffrax.AbstractStepSizeController:
        """Constant steps."""
        return diffrax.ConstantStepSize()

    def first_step(self) -> float | None:
        """The constant step."""
        return self.step


def _check_options(method: AbstractMethod) -> None:
    """Raise `ValueError` for an option that is a plain number without meaning."""
    name = type(method).__name__
    options = {
        field.name: getattr(method, field.name)
        for field in dataclasses.fields(method)
        if isinstance(getattr(method, field.name), int | float)
    }
    for option, value in options.items():
        tolerance = option in ("rtol", "atol")
        if not math.isfinite(value) or value < 0 or (value == 0 and not tolerance):
            sign = "a number of at least 0" if tolerance else "a number above 0"
            raise ValueError(f"{name}: `{option}` is {value}, expected {sign}.")
    if options.get("rtol") == 0 and options.get("atol") == 0:
        raise ValueError(f"{name}: `rtol` and `atol` are both 0, expected one above 0.")
    resolution, step = options.get("path_resolution"), options.get("step")
    if resolution is not None and step is not None and resolution >= step:
        raise ValueError(
            f"{name}: `path_resolution` is {resolution}, expected a number below the "
            f"step {step}."
        )


class _GuardedController(diffrax.AbstractAdaptiveStepSizeController):
    """An adaptive controller that gives up when a step no longer advances time.

    Without it a solution that blows up, or a vector field that is not finite, ends only
    after `max_steps` rejected steps, with advice that misleads.
    """

    rtol: Any
    atol: Any
    norm: Any
    inner: diffrax.PIDController

    def wrap(self, direction: Any) -> "_GuardedController":
        return _guard(self.inner.wrap(direction))

    def init(self, *args: Any) -> Any:
        return self.inner.init(*args)

    def adapt_step_size(self, *args: Any) -> Any:
        keep, start, stop, jumped, state, result = self.inner.adapt_step_size(*args)
        precision = jnp.finfo(jnp.result_type(start))
        # The second term serves solves that start at time zero, where any step advances.
        smallest = jnp.maximum(4 * precision.eps * jnp.abs(start), precision.tiny**0.25)
        stuck = (stop - start) <= smallest
        failed = stuck & jnp.logical_not(keep)
        result = diffrax.RESULTS.where(failed, diffrax.RESULTS.dt_min_reached, result)
        return keep, start, stop, jumped, state, result


def _guard(inner: diffrax.PIDController) -> _GuardedController:
    return _GuardedController(inner.rtol, inner.atol, inner.norm, inner)
