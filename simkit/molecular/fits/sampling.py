"""Configurations of a model in the canonical ensemble, as fits by reweighting ask for them."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from simkit.precision import use_double_precision
from solvers.molecular.driver import run_dynamics
from solvers.molecular.precision import Precision
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.state import MolecularState
from solvers.molecular.thermostats import StochasticVelocityRescaling
from systems.molecular.boxes import AbstractBox
from systems.molecular.model import MolecularModel


@dataclasses.dataclass(frozen=True)
class Configurations:
    """Configurations of a model at constant volume and temperature.

    - `positions`: shape `(frames, particles, 3)`, at even distances in time.
    - `box`: the box of all of them.
    """

    positions: np.ndarray
    box: AbstractBox


class CanonicalSampler:
    """Molecular dynamics with stochastic velocity rescaling, going on where it ended.

    `sampler(model, key)` gives configurations of a model. The first call starts from the
    given positions, melts them and cools them down; later ones go on from the last
    configuration of the call before, with the new model, so that little time is needed to
    come to equilibrium.
    """

    def __init__(
        self,
        positions: Float[ArrayLike, "particles 3"],
        box: AbstractBox,
        temperature: float,
        *,
        time_step: float,
        frames: int = 100,
        stride: int = 50,
        equilibration: int = 1000,
        melt: tuple[float, int] | None = None,
        relaxation_time: float | None = None,
        precision: Precision = "double",
        lists: bool | None = None,
    ):
        """Prepare a sampler; nothing runs yet.

        **Arguments:**

        - `positions`, `box`: where the first run starts.
        - `temperature`: in the model's unit.
        - `time_step`: in the unit of time.
        - `frames`: configurations of a call.
        - `stride`: steps between two of them.
        - `equilibration`: steps before the first one that are thrown away.
        - `melt`: a temperature and a number of steps at it, before the first call; `None`
          for none.
        - `relaxation_time`: of the thermostat; 100 time steps if left out.
        - `precision`: of the dynamics.
        - `lists`: whether neighbour lists are used; left out, for many particles. A model
          that separates into a gas and drops outgrows its lists again and again, each time
          at the cost of compiling anew; without lists it cannot.

        Raises `ValueError` for counts and times that are not positive.
        """
        for name, count in (("frames", frames), ("stride", stride)):
            if count < 1:
                raise ValueError(f"CanonicalSampler: {name} is {count}, expected from 1.")
        if equilibration < 0:
            raise ValueError(f"CanonicalSampler: equilibration is {equilibration} steps.")
        for name, value in (("temperature", temperature), ("time_step", time_step)):
            if not value > 0:
                raise ValueError(f"CanonicalSampler: {name} is {value}, expected above zero.")
        self.positions, self.box = np.asarray(positions, float), box
        self.temperature, self.time_step = float(temperature), float(time_step)
        self.frames, self.stride, self.equilibration = frames, stride, equilibration
        self.melt = melt
        self.relaxation_time = 100 * time_step if relaxation_time is None else relaxation_time
        self.precision: Precision = precision
        self.lists = lists
        self.steps = 0
        """Steps that were taken so far."""
        self._state: MolecularState | None = None

    def __call__(self, model: MolecularModel, key: Array) -> Configurations:
        """Configurations of a model, drawn with a key.

        Raises `MolecularError` if a run explodes: the time step is too long for the model.
        """
        use_double_precision()
        first = self._state is None
        if first and self.melt is not None:
            self._run(model, key, self.melt[0], self.melt[1])
        if self.equilibration:
            self._run(model, key, self.temperature, self.equilibration)
        steps = self.frames * self.stride
        positions = self._run(model, key, self.temperature, steps)
        return Configurations(positions[-self.frames :], self.box)

    def _run(
        self, model: MolecularModel, key: Array, temperature: float, steps: int
    ) -> np.ndarray:
        method = StochasticVelocityRescaling(self.time_step, temperature, self.relaxation_time)
        key = jax.random.fold_in(key, self.steps)
        problem = MolecularProblem(
            model, self.positions, self.box, temperature=temperature, key=key
        )
        state = self._state
        if state is not None:
            state = eqx.tree_at(lambda s: s.key, state, jax.random.key_data(key))
        trajectory = run_dynamics(
            problem,
            method,
            steps=steps,
            save_every=self.stride,
            state=state,
            precision=self.precision,
            lists=self.lists,
            save=(),
        )
        self._state = trajectory.state
        self.steps += steps
        return trajectory.positions
