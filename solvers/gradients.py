"""How derivatives pass through a solve, as a value.

`Replayed` has every derivative and is the default. `Forward` is the leanest for few
parameters, `Checkpointed` for the gradient of very long solves, and `Backsolve` where
memory is short and an approximate gradient will do.
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


class Replayed(AbstractGradient):
    """Every derivative: the steps of the solve are recorded, and derivatives follow them.

    Exact for the discretised solve, of any order, in forward and reverse mode and any
    nesting of them, under `jit` and `vmap`. The sizes of the steps are taken as the
    controller chose them. Where nothing is differentiated nothing is recorded.

    - `memory`: bytes that the recorded states of one solve may take. Where those of all
      allowed steps (`max_steps` of the method) would take more, only every n-th is kept
      and the others are computed again. Beside them each allowed step takes 17 bytes.

    Reference: A. Griewank and A. Walther, *Evaluating Derivatives* (2008), chapter 12.
    """

    memory: int = 2**20

    def adjoint(self, stochastic: bool) -> diffrax.AbstractAdjoint:
        """See the class."""
        del stochastic
        return diffrax.ForwardMode()

    def guard_inputs(self, tree: Any) -> Any:
        """Unchanged: nothing is refused."""
        return tree

    def guard_times(self, tree: Any) -> Any:
        """Unchanged: nothing is refused."""
        return tree

    def guard_outputs(self, tree: Any) -> Any:
        """Unchanged: nothing is refused."""
        return tree


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
            "gradient=Replayed(), the default, which has every derivative, or jacfwd.",
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
        if isinstance(gradient, Forward | Replayed) or "custom_vjp" not in str(error):
            raise
        name = f"{type(gradient).__name__}()"
        raise TypeError(_REVERSE_ONCE.format(name=name)) from error


_REVERSE_ONCE = (
    "{name} gives first derivatives in reverse mode only (grad, vjp, jacrev): for jvp, "
    "jacfwd and second derivatives use gradient=Replayed(), the default."
)


FORWARD_LIMIT = 20
"""Parameters up to which forward mode is the faster for one scalar output (measured on
Lotka-Volterra systems of 2 to 6 species at 1e-7 on 2 cores)."""


def choose_gradient(parameters: int, outputs: int) -> AbstractGradient:
    """The cheaper of forward and reverse mode for a function of these sizes.

    A Jacobian costs one tangent per parameter forward and one adjoint per output in
    reverse, and an adjoint costs about as much as `FORWARD_LIMIT` tangents.
    """
    return Forward() if parameters <= FORWARD_LIMIT * outputs else Replayed()
