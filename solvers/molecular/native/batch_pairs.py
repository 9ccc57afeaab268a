"""Pair sums of many small systems by a compiled kernel: one system in each lane of a vector.

All pairs of a system are met once, so that no list is needed and nothing is gathered: the
coordinates of eight systems (with AVX-512) lie side by side, and every operation works on
all of them. A particle's sum has the same order whatever systems stand beside it, and however
much padding: its forces have the same bits in every batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from llvmlite import ir

from solvers.ensemble.law import EngineRefusal
from solvers.ensemble.native.array_call import NOTHING, ArrayCall, array_kernel, worker
from solvers.ensemble.native.arrays import call_arrays
from solvers.ensemble.native.build import F64, I32, I64, POINTER, Build
from solvers.ensemble.native.compile import host
from solvers.ensemble.native.emit import emit
from solvers.ensemble.native.registry import Kernel, registry
from solvers.ensemble.scalarise.program import Program
from solvers.ensemble.scalarise.walk import scalarise
from systems.molecular.boxes import AbstractBox
from systems.molecular.pair_sums import Evaluation
from systems.molecular.pairwise import AbstractPairEnergy


OPERANDS = ("positions", "species", "counts", "parameters")
"""`(S, P, 3)` double, `(S, P)` and `(S,)` of 32 bits, `(S, numbers)` double."""

RESULTS = ("forces", "energy", "moments")
"""`(S, P, 3)`, `(S,)` and `(S, 6)`, all double."""

ARRAYS = OPERANDS + RESULTS

MOMENTS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))

MOST_PARTICLES = 4096
"""What a thread has on its stack grows with them."""

_PAIRS_OF_A_THREAD = 200_000
"""Fewer pairs are not worth a thread."""


def pair_sums_of_systems(
    pairs: tuple[AbstractPairEnergy, ...],
    positions: Float[Array, "systems particles 3"],
    species: Int[Array, "systems particles"],
    boxes: AbstractBox,
    counts: Int[Array, " systems"],
    sums: bool = True,
) -> Evaluation:
    """Energy, forces and virial of each system, with the systems in front.

    It has no derivatives.

    **Arguments:**

    - `pairs`: pair energies to add up, whose leaves have the systems in front.
    - `positions`: in the unit of length, any image; nearest images count.
    - `species`: from 0.
    - `boxes`: whose leaves have the systems in front.
    - `counts`: how many rows of each system are particles; the others get no force.
    - `sums`: whether energy and virial are wanted; else they are zero, which is quicker.

    **Raises:** `EngineRefusal` for more than 4,096 particles in a system, a precision other
    than double, and a pair energy that cannot be compiled, in words.
    """
    systems, particles, _ = positions.shape
    if positions.dtype != jnp.float64:
        raise EngineRefusal(f"It computes in double precision, not in {positions.dtype}.")
    if particles > MOST_PARTICLES:
        raise EngineRefusal(f"A system has {particles} particles, of at most {MOST_PARTICLES}.")
    leaves, tree = jax.tree.flatten((pairs, boxes))
    shapes = tuple(leaf.shape[1:] for leaf in leaves)
    program = _pair_program(tree, shapes)
    flat = [jnp.reshape(leaf, (systems, -1)).astype(jnp.float64) for leaf in leaves]
    parameters = jnp.concatenate([*flat, jnp.zeros((systems, 1))], axis=1)
    kernel = _kernel(program, particles, host().lanes, sums)
    forces, energy, moments = call_arrays(
        kernel,
        (positions, species.astype(jnp.int32), counts.astype(jnp.int32), parameters),
        (
            ((systems, particles, 3), np.float64),
            ((systems,), np.float64),
            ((systems, len(MOMENTS)), np.float64),
        ),
    )
    place = {pair: i for i, pair in enumerate(MOMENTS)}
    rows = [[moments[:, place[min(a, b), max(a, b)]] for b in range(3)] for a in range(3)]
    virial = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    return Evaluation(energy=energy, forces=forces, virial=virial)


def pair_law(tree: Any) -> Callable[..., Any]:
    """What two particles do to each other, as a function of real numbers.

    It takes the vector from the second particle to the first, both species as reals, and the
    leaves of pair energies and box; it gives the vector's nearest image, slope and energy.
    """

    def law(dx: Any, dy: Any, dz: Any, first: Any, second: Any, *leaves: Any) -> Any:
        pairs, box = jax.tree.unflatten(tree, leaves)
        dx, dy, dz = box.displacement(dx, dy, dz)
        square = dx * dx + dy * dy + dz * dz
        energy, slope = pairs[0].energy_and_slope(square, first, second)
        for pair in pairs[1:]:
            more, steeper = pair.energy_and_slope(square, first, second)
            energy, slope = energy + more, slope + steeper
        return dx, dy, dz, slope, energy

    return law


@functools.lru_cache(maxsize=64)
def _pair_program(tree: Any, shapes: tuple[tuple[int, ...], ...]) -> Program:
    return scalarise(pair_law(tree), *[()] * 5, *shapes)


_FIRST, _SECOND, _PARAMETERS = 3, 4, 5


@functools.lru_cache(maxsize=64)
def _kernel(program: Program, particles: int, lanes: int, sums: bool) -> Kernel:
    b, call = array_kernel("pair sums of systems", F64, lanes)
    work = worker(b.module, "block", F64, lanes)
    _Block(work, program, particles, sums).write()
    work.finish(NOTHING)
    # The argument: the call, and the next block of systems.
    argument = b.space(I64, 2)
    b.store(call.pointer, argument, 0)
    b.store(b.count(0), argument, 1)
    systems = call.size(0, 0)
    pairs = b.ir.mul(systems, b.count(particles * particles // 2))
    threads = b.ir.sdiv(pairs, b.count(_PAIRS_OF_A_THREAD))
    call.spread(work.function, argument, threads)
    b.finish(NOTHING)
    return registry.kernel(str(b.module))


class _Block:
    """The code of a thread: systems in lanes, block after block until none is left."""

    def __init__(self, build: Build, program: Program, particles: int, sums: bool):
        self.b, self.program, self.particles = build, program, particles
        self.with_sums = sums
        b = build
        self.argument = b.function.args[0]
        self.call = ArrayCall(b, b.load(POINTER, self.argument, 0))
        self.data = {name: self.call.data(i) for i, name in enumerate(ARRAYS)}
        self.systems = self.call.size(0, 0)
        self.numbers = self.call.size(ARRAYS.index("parameters"), 1)
        used = {o for op in program.operations for o in op.operands if type(o) is int}
        self.with_species = _FIRST in used or _SECOND in used
        self.places = b.space(b.reals, 3 * particles)
        self.forces = b.space(b.reals, 3 * particles)
        self.kinds = b.space(b.reals, particles if self.with_species else 1)
        self.sums = b.space(b.reals, 1 + len(MOMENTS))
        self.own = b.space(b.reals, 3)
        self.systems_here = b.space(I64, b.lanes)

    def write(self) -> None:
        """All of it."""
        b = self.b
        head, body, done = b.block("next"), b.block("block"), b.block("done")
        b.ir.branch(head)
        b.ir.position_at_end(head)
        block = b.ir.atomic_rmw("add", b.at(I64, self.argument, 1), b.count(1), "seq_cst")
        first = b.ir.mul(block, b.count(b.lanes))
        b.ir.cbranch(b.ir.icmp_signed("<", first, self.systems), body, done)
        b.ir.position_at_end(body)
        self._one(first)
        b.ir.branch(head)
        b.ir.position_at_end(done)

    def _one(self, first: Any) -> None:
        b = self.b
        last = b.ir.sub(self.systems, b.count(1))
        # Lanes beyond the last system do its work once more, with the same result.
        for lane in range(b.lanes):
            system = b.ir.add(first, b.count(lane))
            system = b.ir.select(b.ir.icmp_signed("<", system, last), system, last)
            b.store(system, self.systems_here, lane)
        counts, most = self._counts()
        inputs = self._parameters()
        self._load()
        for place in range(1 + len(MOMENTS)):
            b.store(b.real(0.0), self.sums, place)
        b.loop(most, lambda i: self._row(i, counts, inputs))
        self._store()

    def _narrow(self, name: str, place: Any) -> Any:
        """A number of 32 bits."""
        at = self.b.at(I32, self.data[name], place)
        return self.b.ir.load(at, typ=I32, align=4)

    def _system(self, lane: int) -> Any:
        return self.b.load(I64, self.systems_here, lane)

    def _gather(self, value: Callable[[Any], Any]) -> Any:
        """A vector of one scalar for each lane's system."""
        b = self.b
        found = b.real(0.0)
        for lane in range(b.lanes):
            scalar = value(self._system(lane))
            found = b.ir.insert_element(found, scalar, ir.Constant(I32, lane))
        return found

    def _counts(self) -> tuple[Any, Any]:
        """Particles of each lane's system as reals, and the most of them."""
        b = self.b
        most = b.space(I64)
        b.store(b.count(0), most)

        def one(system: Any) -> Any:
            count = b.ir.sext(self._narrow("counts", system), I64)
            known = b.load(I64, most)
            b.store(b.ir.select(b.ir.icmp_signed(">", count, known), count, known), most)
            return b.ir.sitofp(count, F64)

        return self._gather(one), b.load(I64, most)

    def _parameters(self) -> list[Any]:
        b = self.b

        def one(number: int) -> Any:
            return self._gather(
                lambda system: b.load(
                    F64,
                    self.data["parameters"],
                    b.ir.add(b.ir.mul(system, self.numbers), b.count(number)),
                )
            )

        return [one(number) for number in range(self.program.inputs - _PARAMETERS)]

    def _load(self) -> None:
        """Positions into lanes; forces to zero."""
        b = self.b
        size = b.count(3 * self.particles)

        def coordinate(i: Any) -> None:
            found = self._gather(
                lambda s: b.load(F64, self.data["positions"], b.ir.add(b.ir.mul(s, size), i))
            )
            b.store(found, self.places, i)
            b.store(b.real(0.0), self.forces, i)

        b.loop(size, coordinate)
        if not self.with_species:
            return
        rows = b.count(self.particles)

        def kind(i: Any) -> None:
            found = self._gather(
                lambda s: b.ir.sitofp(
                    self._narrow("species", b.ir.add(b.ir.mul(s, rows), i)), F64
                )
            )
            b.store(found, self.kinds, i)

        b.loop(rows, kind)

    def _row(self, i: Any, counts: Any, parameters: list[Any]) -> None:
        """Particle `i` with all before it."""
        b = self.b
        there = b.less(b.splat(b.ir.sitofp(i, F64)), counts)
        mine = [b.load(b.reals, self.places, self._at(i, axis)) for axis in range(3)]
        kind = b.load(b.reals, self.kinds, i) if self.with_species else b.real(0.0)
        for axis in range(3):
            b.store(b.real(0.0), self.own, axis)

        def pair(j: Any) -> None:
            away = [
                b.sub(mine[axis], b.load(b.reals, self.places, self._at(j, axis)))
                for axis in range(3)
            ]
            other = b.load(b.reals, self.kinds, j) if self.with_species else b.real(0.0)
            *away, slope, energy = emit(b, self.program, [*away, kind, other, *parameters])
            slope = b.select(there, slope, b.real(0.0))
            energy = b.select(there, energy, b.real(0.0))
            for axis in range(3):
                force = b.mul(slope, away[axis])
                at = self._at(j, axis)
                b.store(b.sub(b.load(b.reals, self.forces, at), force), self.forces, at)
                b.store(b.add(b.load(b.reals, self.own, axis), force), self.own, axis)
            if not self.with_sums:
                return
            b.store(b.add(b.load(b.reals, self.sums), energy), self.sums)
            for place, (one, two) in enumerate(MOMENTS, 1):
                moment = b.mul(b.mul(slope, away[one]), away[two])
                b.store(b.add(b.load(b.reals, self.sums, place), moment), self.sums, place)

        b.loop(i, pair)
        for axis in range(3):
            at = self._at(i, axis)
            total = b.add(b.load(b.reals, self.forces, at), b.load(b.reals, self.own, axis))
            b.store(total, self.forces, at)

    def _at(self, particle: Any, axis: int) -> Any:
        b = self.b
        return b.ir.add(b.ir.mul(particle, b.count(3)), b.count(axis))

    def _store(self) -> None:
        b = self.b
        size = b.count(3 * self.particles)

        def scatter(vector: Any, name: str, row: Any, place: Any) -> None:
            for lane in range(b.lanes):
                at = b.ir.add(b.ir.mul(self._system(lane), row), place)
                scalar = b.ir.extract_element(vector, ir.Constant(I32, lane))
                b.store(scalar, self.data[name], at)

        b.loop(size, lambda i: scatter(b.load(b.reals, self.forces, i), "forces", size, i))
        scatter(b.load(b.reals, self.sums), "energy", b.count(1), b.count(0))
        for place in range(len(MOMENTS)):
            moment = b.load(b.reals, self.sums, 1 + place)
            scatter(moment, "moments", b.count(len(MOMENTS)), b.count(place))
