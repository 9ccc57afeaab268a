"""A step of a fit over 64 conditions on 1, 2, 4, 8 devices of a CPU, and on 2 processes.

One step is the Gauss-Newton equations of Lotka-Volterra (4 parameters, 41 saved times,
Tsit5 at 1e-8) over all conditions, and their solution. Each measurement is a process of its
own; the least of the repeats counts. Strong scaling: 64 conditions in all. Weak scaling: so
many for each of 1 and 2 processes, each pinned to a core of its own.

    python benchmarks/scaling.py [--conditions 64] [--repeats 20]

Nothing else may run meanwhile. The table goes to results/benchmark_scaling.md.
"""

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parent.parent
RESULT = "seconds: "


def measure(
    conditions: int, repeats: int, devices: int, port: str, index: int, count: int
) -> None:
    """One process of one measurement: print the least wall time of a step."""
    sys.path.insert(0, str(ROOT))
    import jax

    from solvers.distributed import initialise
    from solvers.sharding import use_cpu_devices

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    use_cpu_devices(devices)
    coordinator = f"127.0.0.1:{port}"
    with initialise(coordinator, index, count) if count > 1 else initialise(processes=1):
        least = time_step(conditions, repeats, index)
    print(f"\n{RESULT}{json.dumps(least)}", flush=True)


def time_step(conditions: int, repeats: int, index: int) -> dict[str, float]:
    """Compile and repeat the step; `conditions` are those of this process."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from solvers.distributed import global_rows
    from solvers.gradients import Forward
    from solvers.integrators.deterministic import Tsit5
    from solvers.problem import InitialValueProblem
    from solvers.sharding import gauss_newton, make_mesh
    from solvers.solve import solve
    from systems.populations import LotkaVolterra

    times = np.linspace(0.0, 20.0, 41)

    def residuals(parameters: Any, row: Any) -> Any:
        system = LotkaVolterra(*[jnp.exp(parameters[i]) for i in range(4)])
        problem = InitialValueProblem(system, 0.0, 20.0, row["state"])
        method = Tsit5(rtol=1e-8, atol=1e-8)
        found = solve(problem, method, save_at=times, gradient=Forward(), throw=False)
        return jnp.log(found.states) - row["seen"]

    random = np.random.default_rng(index)
    rows = {
        "state": random.uniform(5.0, 40.0, (conditions, 2)),
        "seen": np.log(random.uniform(5.0, 40.0, (conditions, len(times), 2))),
    }
    mesh = make_mesh()
    equations = gauss_newton(residuals, mesh)

    def step(parameters: Any, rows: Any) -> Any:
        normal = equations(parameters, rows)
        damped = normal.matrix + 1e-3 * jnp.diag(jnp.diag(normal.matrix))
        return parameters - jnp.linalg.solve(damped, normal.gradient)

    spread = global_rows(rows, mesh)
    start = np.log([0.55, 0.028, 0.80, 0.024])
    started = time.perf_counter()
    program = jax.jit(step).lower(start, spread).compile()
    compiled = time.perf_counter() - started
    text = program.as_text() or ""
    program(start, spread).block_until_ready()
    least = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        program(start, spread).block_until_ready()
        least = min(least, time.perf_counter() - started)
    reductions = text.count(" all-reduce(") + text.count(" all-reduce-start(")
    return {"step": least, "compile": compiled, "all_reduces": reductions}


def run(arguments: argparse.Namespace, conditions: int, devices: int, cores: list[str]) -> Any:
    """Start as many processes as there are sets of cores, each pinned to its set."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    running = []
    for index, allowed in enumerate(cores):
        own = [str(conditions), str(arguments.repeats), str(devices), str(port), str(index)]
        command = [sys.executable, __file__, "--measure", *own, str(len(cores))]
        if allowed:
            command = ["taskset", "-c", allowed, *command]
        running.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    found = []
    for process in running:
        out, _ = process.communicate(timeout=600)
        lines = [line for line in out.splitlines() if line.startswith(RESULT)]
        if process.returncode or not lines:
            raise RuntimeError(f"A measurement ended with exit code {process.returncode}.")
        found.append(json.loads(lines[-1].removeprefix(RESULT)))
    return max(found, key=lambda one: one["step"])


def main() -> None:
    """Run all and print and write the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--conditions", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--measure", nargs=6, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        conditions, repeats, devices, port, index, count = arguments.measure
        measure(conditions, repeats, devices, str(port), index, count)
        return
    many = arguments.conditions
    first, second = [str(core) for core in sorted(os.sched_getaffinity(0))[:2]]
    cases = [("1 device, pinned to one core", run(arguments, many, 1, [first]))]
    for devices in (1, 2, 4, 8):
        name = f"{devices} device{'s' if devices > 1 else ''}, not pinned"
        cases.append((name, run(arguments, many, devices, [""])))
    weak = [
        ("1 process, pinned", run(arguments, many, 1, [first])),
        ("2 processes, pinned", run(arguments, many, 1, [first, second])),
    ]
    write_table(many, cases, weak)


def write_table(conditions: int, cases: list[Any], weak: list[Any]) -> None:
    """Print the tables as Markdown and keep them."""
    import jax

    base = cases[0][1]["step"]
    rows = [
        f"| {conditions} conditions | step, ms | against one core | all-reduces | compile, s |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows += [
        f"| {name} | {one['step'] * 1e3:.2f} | {base / one['step']:.2f} | "
        f"{one['all_reduces']} | {one['compile']:.1f} |"
        for name, one in cases
    ]
    alone = weak[0][1]["step"]
    rows += [
        "",
        f"| {conditions} conditions for each process | step, ms | efficiency |",
        "| --- | --- | --- |",
    ]
    rows += [
        f"| {name} | {one['step'] * 1e3:.2f} | {alone / one['step']:.0%} |"
        for name, one in weak
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}"
    ceiling = f"Least of the repeats; {os.cpu_count()} cores, so that {os.cpu_count()} is the "
    table = "\n".join(rows) + f"\n\n{date.today().isoformat()}, {machine}. {ceiling}ceiling.\n"
    print(table)
    folder = ROOT / "results"
    folder.mkdir(exist_ok=True)
    (folder / "benchmark_scaling.md").write_text(table)


if __name__ == "__main__":
    main()
