"""Methods in a molecular case file: how particles move, and how energies are minimised.

Keys and tables are named as the classes of `solvers.molecular` and their arguments.
"""

from typing import Annotated

from msgspec import Meta

from simkit.config.molecular_tables import Count, Positive, Table, Typed


TimeStep = Annotated[Positive, Meta(description="in the unit of time")]
Temperature = Annotated[Positive, Meta(description="in the unit of temperature")]
Friction = Annotated[Positive, Meta(description="in one over the unit of time")]
RelaxationTime = Annotated[Positive, Meta(description="in the unit of time")]
Pressure = Annotated[float, Meta(description="in the unit of pressure")]


class VelocityVerlet(Typed, frozen=True):
    """Constant energy."""

    time_step: TimeStep


class Langevin(Typed, frozen=True):
    """Constant temperature with friction and noise (BAOAB)."""

    time_step: TimeStep
    temperature: Temperature
    friction: Friction


class NoseHooverChain(Typed, frozen=True):
    """Constant temperature by deterministic motion."""

    time_step: TimeStep
    temperature: Temperature
    relaxation_time: RelaxationTime
    length: Annotated[int, Meta(ge=2, le=100, description="thermostats in the chain")] = 3


class StochasticVelocityRescaling(Typed, frozen=True):
    """Constant temperature by one random factor for all velocities."""

    time_step: TimeStep
    temperature: Temperature
    relaxation_time: RelaxationTime


class Brownian(Typed, frozen=True):
    """Constant temperature without inertia: much friction, and no velocities."""

    time_step: TimeStep
    temperature: Temperature
    friction: Friction


Thermostat = Langevin | NoseHooverChain | StochasticVelocityRescaling


class MonteCarloBarostat(Typed, frozen=True):
    """Constant pressure by random changes of the box, around a thermostat."""

    dynamics: Annotated[Thermostat, Meta(description="the thermostat; `type` names it")]
    pressure: Pressure
    every: Annotated[Count, Meta(description="steps between two trials")] = 25
    size: Annotated[
        Positive, Meta(description="largest change of ln(volume), or of a strain if flexible")
    ] = 0.03
    flexible: Annotated[
        bool, Meta(description="edges and angles change by themselves; for solids")
    ] = False


class StochasticCellRescaling(Typed, frozen=True):
    """Constant pressure by a stochastic equation for the box, around a thermostat."""

    dynamics: Annotated[Thermostat, Meta(description="the thermostat; `type` names it")]
    pressure: Pressure
    relaxation_time: RelaxationTime
    compressibility: Annotated[
        Positive, Meta(description="a guess, in one over the unit of pressure")
    ]
    flexible: Annotated[
        bool, Meta(description="edges and angles change by themselves; for solids")
    ] = False


class FIRE(Typed, frozen=True):
    """Damped dynamics: robust far from a minimum, such as for random packings."""

    tolerance: Annotated[
        Positive, Meta(description="largest component of a force at the end")
    ] = 1e-6
    time_step: Annotated[Positive, Meta(description="the first one")] = 0.005
    longest_step: Annotated[Positive, Meta(description="the longest one")] = 0.05
    most_moved: Annotated[Positive, Meta(description="how far a particle may go in a step")] = (
        0.1
    )
    with_box: Annotated[bool, Meta(description="whether the box is relaxed too")] = False
    pressure: Annotated[Pressure, Meta(description="at which the box is relaxed")] = 0.0


class LBFGS(Typed, frozen=True):
    """Quasi-Newton steps: fast close to a minimum."""

    tolerance: Annotated[
        Positive, Meta(description="largest component of a force at the end")
    ] = 1e-6
    stiffness: Annotated[
        Positive, Meta(description="guess of the curvature, in energy over length^2")
    ] = 100.0
    most_moved: Annotated[Positive, Meta(description="how far a particle may go in a step")] = (
        0.1
    )
    memory: Annotated[int, Meta(ge=1, le=100, description="how many steps are remembered")] = 10
    with_box: Annotated[bool, Meta(description="whether the box is relaxed too")] = False
    pressure: Annotated[Pressure, Meta(description="at which the box is relaxed")] = 0.0


Barostat = MonteCarloBarostat | StochasticCellRescaling
Method = (
    VelocityVerlet
    | Langevin
    | NoseHooverChain
    | StochasticVelocityRescaling
    | Brownian
    | MonteCarloBarostat
    | StochasticCellRescaling
)
Minimiser = FIRE | LBFGS


class MinimisationTable(Table, frozen=True):
    """A minimum of the energy, before the dynamics or in their place."""

    method: Annotated[Minimiser, Meta(description="`type` names it")]
    most_steps: Annotated[Count, Meta(description="where it gives up")] = 10_000
