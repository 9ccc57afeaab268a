"""JAX's old headline measured again: Hessians here and in PyTorch, in one run.

Two problems: the sum of squares of 1,000 numbers (the old headline; its Hessian is a
constant, so it measures how fast the matrix is written), and the least-squares fit of a
Lotka-Volterra trajectory with four parameters, where PyTorch has torchdiffeq and we have
our own solve. Times are of one call after the first, least and median of the repeats; the
first call compiles. Each problem's answers are compared before anything else is timed.

    pip install torch torchdiffeq
    python benchmarks/hessian_headline.py [--repeats 20] [--torch-threads 1]
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from solvers.curvature.dense import hessian
from solvers.gradients import AbstractGradient, Forward
from solvers.integrators.deterministic import Dopri5
from solvers.problem import InitialValueProblem
from solvers.solve import solve
from systems.populations import LotkaVolterra


try:
    import torch  # pyright: ignore[reportMissingImports]
    import torchdiffeq  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise SystemExit("This benchmark needs PyTorch: pip install torch torchdiffeq") from error


SIZE = 1000
TOLERANCE = 1e-7
TIMES = np.linspace(0.0, 20.0, 41)
START = np.array([34.0, 6.0])
TRUE = np.array([0.55, 0.028, 0.80, 0.024])
NAMES = ("prey_growth", "predation", "predator_death", "conversion")


def seconds_of(call: Callable[[], Any]) -> tuple[float, np.ndarray]:
    """How long one call takes, and its answer; jax is waited for, torch waits itself."""
    begin = time.perf_counter()
    answer = jax.block_until_ready(call())
    seconds = time.perf_counter() - begin
    return seconds, answer.detach().numpy() if isinstance(answer, torch.Tensor) else answer


def squares_calls(kind: str, compiled: bool) -> dict[str, Callable[[], Any]]:
    """All ways to the Hessian of a sum of squares, in this precision."""
    x = np.linspace(-1, 1, SIZE)
    at_torch = torch.tensor(x, dtype=getattr(torch, kind))
    at = jnp.asarray(x, dtype=kind)

    def in_torch(x: Any) -> Any:
        return (x**2).sum()

    def in_jax(x: Any) -> Any:
        return jnp.sum(x**2)

    functional = torch.autograd.functional.hessian
    calls: dict[str, Callable[[], Any]] = {
        "torch.autograd.functional.hessian": lambda: functional(in_torch, at_torch),
        "the same, vectorize=True": lambda: functional(in_torch, at_torch, vectorize=True),
        "torch.func.hessian": lambda: torch.func.hessian(in_torch)(at_torch),
    }
    if compiled:
        quick = torch.compile(torch.func.hessian(in_torch))
        calls["torch.compile(torch.func.hessian)"] = lambda: quick(at_torch)
    programs = {
        "jax.jit(jacfwd(jacrev))": jax.jit(jax.jacfwd(jax.jacrev(in_jax))),
        "simkit hessian, under jit": jax.jit(lambda x: hessian(lambda y, _: in_jax(y), x)),
    }
    for name, program in programs.items():
        calls[name] = lambda program=program: program(at)
    return calls


class TorchLotkaVolterra(torch.nn.Module):
    """The same equation for torchdiffeq; parameters come from outside."""

    def __init__(self, parameters: Any):
        super().__init__()
        self.values = parameters

    def forward(self, t: Any, y: Any) -> Any:
        """Its right-hand side."""
        del t
        growth, predation, death, conversion = self.values
        return torch.stack(
            [(growth - predation * y[1]) * y[0], (conversion * y[0] - death) * y[1]]
        )


def fit_in_jax(gradient: AbstractGradient | None) -> Callable[[Any], Any]:
    """Half the sum of squared logarithmic residuals, by Dormand-Prince 5(4)."""
    method = Dopri5(rtol=TOLERANCE, atol=TOLERANCE)

    def states(values: Any) -> Any:
        system = LotkaVolterra(**dict(zip(NAMES, values, strict=True)))
        problem = InitialValueProblem(system, TIMES[0], TIMES[-1], START)
        return solve(problem, method, save_at=TIMES, gradient=gradient, throw=False).states

    data = jnp.log(states(jnp.asarray(TRUE)))
    return lambda values: 0.5 * jnp.sum((jnp.log(states(values)) - data) ** 2)


def fit_in_torch() -> Callable[[Any], Any]:
    """The same by torchdiffeq's dopri5, differentiated through its steps."""
    start, times = torch.tensor(START), torch.tensor(TIMES)

    def states(values: Any) -> Any:
        field = TorchLotkaVolterra(values)
        return torchdiffeq.odeint(
            field, start, times, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5"
        )

    with torch.no_grad():
        data = torch.log(states(torch.tensor(TRUE)))
    return lambda values: 0.5 * ((torch.log(states(values)) - data) ** 2).sum()


def fit_calls() -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
    """All ways to the gradient and to the Hessian of the trajectory fit."""
    values = 1.05 * TRUE
    at, at_torch = jnp.asarray(values), torch.tensor(values, requires_grad=True)
    in_torch = fit_in_torch()
    forward, default = fit_in_jax(Forward()), fit_in_jax(None)
    functional = torch.autograd.functional.hessian
    programs = {
        "simkit, forward mode": jax.jit(jax.jacfwd(forward)),
        "simkit, reverse mode of the default": jax.jit(jax.grad(default)),
    }
    seconds = {
        "simkit, forward over forward": jax.jit(
            lambda y: hessian(lambda y, _: forward(y), y, forward_only=True)
        ),
        "simkit, forward over reverse of the default": jax.jit(
            lambda y: hessian(lambda y, _: default(y), y)
        ),
    }
    gradients: dict[str, Callable[[], Any]] = {
        "torchdiffeq, torch.autograd.grad": lambda: torch.autograd.grad(
            in_torch(at_torch), at_torch
        )[0]
    }
    hessians: dict[str, Callable[[], Any]] = {
        "torchdiffeq, autograd.functional.hessian": lambda: functional(in_torch, at_torch)
    }
    for target, group in ((gradients, programs), (hessians, seconds)):
        for name, program in group.items():
            target[name] = lambda program=program: program(at)
    return gradients, hessians


def table(title: str, calls: dict[str, Callable[[], Any]], repeats: int) -> None:
    """Check that all agree, time them, and print them as Markdown."""
    first = {name: seconds_of(call) for name, call in calls.items()}
    answers = [np.asarray(answer) for _, answer in first.values()]
    scale = np.max(np.abs(answers[0]))
    worst = max(float(np.max(np.abs(answer - answers[0])) / scale) for answer in answers)
    if not worst < 1e-3:
        raise SystemExit(f"{title}: the answers differ by {worst:.1e}, expected below 1e-3.")
    times = {
        name: [seconds_of(call)[0] for _ in range(repeats)] for name, call in calls.items()
    }
    least = min(min(values) for values in times.values())
    print(f"\n### {title}\n\nAnswers agree to {worst:.1e}.\n")
    print("| method | first call, s | least, ms | median, ms | times the fastest |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, values in times.items():
        low, middle = min(values), statistics.median(values)
        print(
            f"| {name} | {first[name][0]:.2g} | {1e3 * low:.3g} | {1e3 * middle:.3g} "
            f"| {low / least:.3g} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Hessians here and in PyTorch.")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--skip-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--torch-threads", type=int, default=1, help="1: the work is small")
    options = parser.parse_args()
    torch.set_num_threads(options.torch_threads)
    jax.config.update("jax_enable_x64", True)
    names = ("jax", "torch", "torchdiffeq")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    print(f"## Hessians, {date.today()}\n")
    print(
        f"Python {platform.python_version()}, {versions}; {options.torch_threads} torch threads"
    )
    load = os.getloadavg()[0]
    print(f"on {platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start.")
    for kind in ("float32", "float64"):
        calls = squares_calls(kind, not options.skip_compile)
        table(f"Sum of squares, n = {SIZE}, {kind}", calls, options.repeats)
    gradients, hessians = fit_calls()
    few = max(3, options.repeats // 4)
    table("Gradient of a Lotka-Volterra fit, 4 parameters, float64", gradients, few)
    table("Hessian of the same fit", hessians, few)


if __name__ == "__main__":
    main()
