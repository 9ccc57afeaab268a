"""How derivatives pass through a solve, as a value.

Which one to choose: with few parameters and many outputs `Forward`; with many
parameters and one output `Checkpointed`; `Backsolve` where memory is short and an
approximate gradient will do.
"""

import abc
import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import diffrax
import equinox as eqx

from solvers.derivative_guards import refuse_all, refuse_forward, refuse_reverse


_Tree = TypeVar("_Tree")


class AbstractGradient(eqx.Module):
    """A way to differentiate a solve."""

    @abc.abstractmethod
    def adjoint(self, stochastic: bool) -> diffrax.AbstractAdjoint:
        """The diffrax adjoint that does it.

        Raises `ValueError` if it cannot serve such an equation, naming one that can.
        """

    @abc.abstractmethod
    def guard_inputs(self, tree: _Tree) -> _Tree:
        """The inputs of a solve, such that a derivative which cannot be had is refused."""

    @abc.abstractmethod
    def guard_times(self, tree: _Tree) -> _Tree:
        """The times among the inputs, guarded likewise."""

    @abc.abstractmethod
    def guard_outputs(self, tree: _Tree) -> _Tree:
        """The outputs of a solve, such that a derivative which cannot be had is refused."""


class Forward(AbstractGradient):
    """Forward mode: tangents are carried along with the solution.

    Exact for the discretised solve, of any order by nesting (`jacfwd` of `jacfwd`
    gives Hessians), memory independent of the number of steps, cost proportional to
    the number of parameters. Reverse mode is refused.
    """

    def adjoint(self, stochastic: bool) -> diffrax.AbstractAdjoint:
        """See the class."""
        del stochastic
        return diffrax.ForwardMode()

    def guard_inputs(self, tree: Any) -> Any:
        """Unchanged: tangents come in as they like."""
        return tree

    def guard_times(self, tree: Any) -> Any:
        """Unchanged: times are inputs like others."""
        return tree

    def guard_outputs(self, tree: Any) -> Any:
        """Refuses cotangents."""
        return refuse_reverse(
            tree,
            "Forward() cannot be differentiated in reverse mode (grad, vjp, jacrev): use "
            "gradient=Checkpointed(), or jacfwd with Forward(); for a Hessian use "
            "jacfwd(jacfwd(...)) with Forward().",
        )


class Checkpointed(AbstractGradient):
    """Reverse mode through the steps of the solver, with recomputation.

    Exact for the discretised solve; cost independent of the number of parameters;
    memory bounded by the number of `checkpoints` (default: the logarithm of
    `max_steps`). First derivatives only; forward mode is refused.

    Reference: P. Stumm and A. Walther, SIAM J. Sci. Comput. 32, 836 (2010).
    """

    checkpoints: int | None = None

    def adjoint(self, stochastic: bool) -> diffrax.AbstractAdjoint:
        """See the class."""
        del stochastic
        return diffrax.RecursiveCheckpointAdjoint(checkpoints=self.checkpoints)

    def guard_inputs(self, tree: Any) -> Any:
        """Refuses tangents, and second derivatives."""
        return refuse_forward(tree, _REVERSE_ONCE.format(name="Checkpointed()"))

    def guard_times(self, tree: Any) -> Any:
        """Unchanged: times are inputs like others."""
        return tree

    def guard_outputs(self, tree: Any) -> Any:
        """Unchanged: cotangents come in as they like."""
        return tree


class Backsolve(AbstractGradient):
    """Reverse mode by solving the adjoint equation backwards in time.

    Memory independent of the number of steps; the gradient carries the discretisation
    error of a second solve, and may be wrong for unstable or stiff equations. First
    derivatives by parameters and initial state only, none by times, and only for
    ordinary differential equations.

    Reference: L. S. Pontryagin et al., *The Mathematical Theory of Optimal Processes*
    (1962).
    """

    def adjoint(self, stochastic: bool) -> diffrax.AbstractAdjoint:
        """See the class."""
        if stochastic:
            raise ValueError(
                "Backsolve cannot differentiate a stochastic differential equation here; "
                "use Checkpointed() or Forward()."
            )
        return diffrax.BacksolveAdjoint()

    def guard_inputs(self, tree: Any) -> Any:
        """Refuses tangents, and second derivatives."""
        return refuse_forward(tree, _REVERSE_ONCE.format(name="Backsolve()"))

    def guard_times(self, tree: Any) -> Any:
        """Refuses derivatives by the span and by saved times."""
        return refuse_all(
            tree,
            "Backsolve() gives no derivatives by `start`, `stop` or `save_at`: use "
            "gradient=Checkpointed() or Forward().",
        )

    def guard_outputs(self, tree: Any) -> Any:
        """Unchanged: cotangents come in as they like."""
        return tree


@contextlib.contextmanager
def words_for_refusals(gradient: AbstractGradient) -> Iterator[None]:
    """Put the words of the gradient in place of jax's own refusal of forward mode.

    Where `vmap` lies around `jvp`, as in `jacfwd`, jax refuses before a guard is reached.
    """
    try:
        yield
    except TypeError as error:
        if isinstance(gradient, Forward) or "custom_vjp" not in str(error):
            raise
        name = f"{type(gradient).__name__}()"
        raise TypeError(_REVERSE_ONCE.format(name=name)) from error


_REVERSE_ONCE = (
    "{name} gives first derivatives in reverse mode only (grad, vjp, jacrev): for jvp and "
    "jacfwd use gradient=Forward(), for a Hessian jacfwd(jacfwd(...)) with Forward()."
)


FORWARD_LIMIT = 20
"""Parameters up to which forward mode is the faster for one scalar output (measured on
Lotka-Volterra systems of 2 to 6 species at 1e-7 on 2 cores)."""


def choose_gradient(parameters: int, outputs: int) -> AbstractGradient:
    """The cheaper of forward and reverse mode for a function of these sizes.

    A Jacobian costs one tangent per parameter forward and one adjoint per output in
    reverse, and an adjoint costs about as much as `FORWARD_LIMIT` tangents.
    """
    return Forward() if parameters <= FORWARD_LIMIT * outputs else Checkpointed()
