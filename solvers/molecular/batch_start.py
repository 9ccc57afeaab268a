"""Problems of many systems as one set of arrays, and checks of what a user gave."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from solvers.molecular.batch_forces import check_terms, choose_batch_engine
from solvers.molecular.batch_kernel import Systems
from solvers.molecular.dynamics import AbstractDynamics, AbstractMinimiser
from solvers.molecular.monte_carlo import MonteCarloBarostat
from solvers.molecular.precision import Precision, as_mixed, in_precision
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.start import freedom, initial_state, step_limit
from solvers.molecular.state import MolecularState, as_arrays
from systems.molecular.boxes import OrthorhombicBox, TriclinicBox
from systems.molecular.model import MolecularModel


def check_methods(
    methods: AbstractDynamics | Sequence[AbstractDynamics], systems: int
) -> list[AbstractDynamics]:
    """One method for each system.

    Raises `ValueError` for another number of them, for several kinds, and for those that
    are not for batches.
    """
    alone = isinstance(methods, AbstractDynamics)
    every = [methods] * systems if isinstance(methods, AbstractDynamics) else list(methods)
    if len(every) != systems:
        raise ValueError(
            f"run_batch: {len(every)} methods for {systems} problems, expected one for all or "
            "one for each."
        )
    for place, method in enumerate(every[: 1 if alone else None]):
        inner = getattr(method, "dynamics", method)
        if isinstance(method, AbstractMinimiser | MonteCarloBarostat):
            raise ValueError(
                f"run_batch: {type(method).__name__} is not for batches; expected dynamics, "
                "at constant pressure StochasticCellRescaling."
            )
        if _structure(method) != _structure(every[0]):
            raise ValueError(
                f"run_batch: method {place} ({type(inner).__name__}) is of another kind than "
                "method 0, or has other options; expected one kind, whose numbers may differ."
            )
    return every


def stack(
    problems: Sequence[MolecularProblem],
    methods: Sequence[AbstractDynamics],
    precision: Precision,
    engine: str,
) -> tuple[Systems, str]:
    """The systems before their first step, as arrays of numpy, and why they have that engine.

    Raises `ValueError`, naming the problem, for models or boxes of several kinds, a box
    narrower than twice the range.
    """
    model, _, dtype = in_precision(problems[0].model, methods[0], precision)
    counts = [problem.model.particles for problem in problems]
    rows, padded = max(counts), len(set(counts)) > 1
    if padded:
        check_terms(model)
    models = eqx.tree_at(
        lambda m: (m.terms, m.masses, m.species),
        model,
        (
            _stacked([_terms(problem, precision) for problem in problems], "terms"),
            # Padding has a mass so that nothing is divided by zero, and no species.
            _rows([np.asarray(p.model.masses) for p in problems], rows, 1.0),
            _rows([np.asarray(p.model.species) for p in problems], rows, -1),
        ),
    )
    units = {problem.model.units for problem in problems}
    if len(units) > 1:
        raise ValueError("run_batch: the models have several sets of units, expected one.")
    boxes = _boxes(problems, model.range)
    models, boxes, every = (
        as_arrays(tree, dtype) for tree in (models, boxes, _stacked(list(methods), "methods"))
    )
    states = _states(problems, methods, boxes, rows, dtype)
    chosen = choose_batch_engine(engine, models, states.positions, boxes)
    systems = Systems(
        methods=every,
        models=models,
        states=states,
        going=jnp.ones(len(problems), bool),
        limit=step_limit(problems[0].model),
        padded=padded,
        engine=chosen.engine,
    )
    return jax.tree.map(np.asarray, systems), chosen.reason


def refuse_overlaps(
    systems: Systems,
    problems: Sequence[MolecularProblem],
    methods: Sequence[AbstractDynamics],
    numbers: Sequence[int],
) -> None:
    """Raise `ValueError` for atoms that overlap at the start, naming the problem.

    The systems have their first forces; `numbers` are those of their problems.
    """
    masses = np.asarray(systems.models.masses) * systems.models.units.kinetic
    pushes = np.linalg.norm(np.asarray(systems.states.forces), axis=2) / masses
    moves = np.max(pushes, axis=1) * np.asarray(systems.methods.duration) ** 2 / 2
    for place in np.flatnonzero(~(moves <= 0.1 * systems.limit)):
        number = numbers[int(place)]
        try:
            # Alone, which finds the atoms.
            initial_state(problems[number], methods[number], lists=False)
        except ValueError as error:
            raise ValueError(f"Problem {number}: {error}") from None


def _terms(problem: MolecularProblem, precision: Precision) -> Any:
    if precision != "mixed":
        return problem.model.terms
    return tuple(map(as_mixed, problem.model.terms))


def _structure(tree: Any) -> Any:
    """What must be the same for trees to be stacked: all but the numbers."""
    arrays, rest = eqx.partition(tree, eqx.is_array_like)
    leaves, structure = jax.tree.flatten(arrays)
    return structure, tuple(map(np.shape, leaves)), tuple(jax.tree.leaves(rest))


def _stacked(trees: Sequence[Any], what: str) -> Any:
    """Trees of one structure as one, whose arrays have the systems in front."""
    wanted = _structure(trees[0])
    columns = []
    for place, tree in enumerate(trees):
        # The same object many times, as of replicas, is looked at once.
        if place == 0 or tree is not trees[place - 1]:
            if _structure(tree) != wanted:
                raise ValueError(
                    f"run_batch: the {what} of problem {place} are of another kind than those "
                    "of problem 0, or have other ranges; expected one kind of model, whose "
                    "parameters, masses and species may differ."
                )
            leaves = list(map(np.asarray, jax.tree.leaves(eqx.filter(tree, eqx.is_array_like))))
        columns.append(leaves)
    stacked = [np.stack(values) for values in zip(*columns, strict=True)]
    arrays, rest = eqx.partition(trees[0], eqx.is_array_like)
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), stacked), rest)


def _rows(values: Sequence[np.ndarray], rows: int, filler: float) -> np.ndarray:
    """Arrays with one row for each particle, as one with padding behind."""
    first = values[0]
    found = np.full((len(values), rows, *first.shape[1:]), filler, first.dtype)
    for place, some in enumerate(values):
        found[place, : len(some)] = some
    return found


def _boxes(problems: Sequence[MolecularProblem], reach: float | None) -> Any:
    boxes: list[Any] = [problem.box for problem in problems]
    kinds = {type(box) for box in boxes}
    if kinds == {OrthorhombicBox, TriclinicBox}:
        boxes = [
            TriclinicBox(np.diag(np.asarray(box.lengths)))
            if isinstance(box, OrthorhombicBox)
            else box
            for box in boxes
        ]
    elif len(kinds) > 1:
        raise ValueError(
            "run_batch: some boxes are open and some periodic; expected all of one sort."
        )
    stacked = _stacked(boxes, "boxes")
    if boxes[0].periodic and reach is not None:
        widths = np.asarray(
            jax.vmap(lambda box: jnp.min(box.heights()))(as_arrays(stacked, float))
        )
        for place in np.flatnonzero(widths < 2 * reach)[:1]:
            raise ValueError(
                f"Problem {place}: the box is {widths[place]:.6g} wide, less than twice the "
                f"range {reach:.6g} of the model; dynamics needs a shorter range or more "
                "particles."
            )
    return stacked


def _states(
    problems: Sequence[MolecularProblem],
    methods: Sequence[AbstractDynamics],
    boxes: Any,
    rows: int,
    dtype: Any,
) -> MolecularState:
    systems = len(problems)
    velocities = []
    for problem, method in zip(problems, methods, strict=True):
        values = np.asarray(problem.velocities)
        if method.conserves_momentum and len(values) > 1 and problem.degrees_of_freedom is None:
            # As of a run alone: a drift would count as heat.
            masses = np.asarray(problem.model.masses, float)[:, None]
            values = values - (masses * values).sum(axis=0) / masses.sum()
        velocities.append(values)
    keys = [np.asarray(jax.random.key_data(problem.key)) for problem in problems]
    freedoms = [freedom(*both) for both in zip(problems, methods, strict=True)]
    positions = _rows([np.asarray(p.positions) for p in problems], rows, 0.0)
    return MolecularState(
        positions=jnp.asarray(positions, dtype),
        velocities=jnp.asarray(_rows(velocities, rows, 0.0), dtype),
        images=jnp.zeros((systems, rows, 3), jnp.int32),
        box=boxes,
        identity=jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32), (systems, rows)),
        forces=jnp.zeros((systems, rows, 3), dtype),
        virial=jnp.full((systems, 3, 3), jnp.nan, dtype),
        neighbours=None,
        stale=jnp.zeros(systems, bool),
        variables=None,
        degrees_of_freedom=jnp.asarray(freedoms, dtype),
        step=jnp.zeros(systems, int),
        key=jnp.asarray(np.stack(keys)),
    )


def one_state(states: MolecularState, place: int, particles: int) -> MolecularState:
    """The state of one system, as of a run alone."""
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf[place]), states)
    names = ("positions", "velocities", "images", "identity", "forces")
    return eqx.tree_at(
        lambda s: tuple(getattr(s, name) for name in names),
        state,
        tuple(getattr(state, name)[:particles] for name in names),
    )


def model_alone(problem: MolecularProblem, precision: Precision, method: Any) -> MolecularModel:
    """The model of one system, as of a run alone."""
    return in_precision(problem.model, method, precision)[0]
