"""A case made into a posterior."""

import dataclasses

import numpy as np

from simkit.config.errors import CaseError
from simkit.config.reader import LoadedCase
from simkit.config.schema import DataTable
from simkit.config.table import MeasurementTable, read_measurements
from simkit.experiment import experiment_from_case
from simkit.fitting.measurements import Measurements, Observable, measurements_from_rows
from simkit.fitting.parameters import build_parameters
from simkit.fitting.posterior import Posterior
from solvers.gradients import choose_gradient
from solvers.integrators.base import EquationKind
from systems.base import AbstractSystem, complete_inputs, state_names


def posterior_from_case(loaded: LoadedCase) -> Posterior:
    """The posterior that a case with data and a fit describes.

    Raises `CaseError` if it has none, or for what can only be seen with live classes.
    """
    case = loaded.case
    if case.data is None or case.fit is None:
        missing = "data" if case.data is None else "fit"
        raise CaseError(loaded.source, missing, "is missing", f"a table [{missing}] to fit")
    table = read_measurements(loaded)
    experiment = experiment_from_case(loaded, table)
    if experiment.method.kind is not EquationKind.ODE:
        raise CaseError(
            loaded.source,
            "system.type",
            f"is {case.system.type!r}, which is stochastic",
            "an ordinary differential equation: only those can be fitted",
        )
    measurements = _measurements(case.data, table, experiment.system)
    system = experiment.system
    inputs = complete_inputs(system, experiment.inputs)
    values = np.asarray(system.initial_state(inputs)).tolist()
    defaults = dict(zip(state_names(system), values, strict=True))
    try:
        parameters = build_parameters(
            system,
            measurements,
            parameters=case.fit.parameters,
            initial_state=case.fit.initial_state,
            noise=case.fit.noise,
            initial_values={**defaults, **experiment.initial_state},
        )
    except (KeyError, ValueError) as error:
        raise CaseError(
            loaded.source, "fit", f"cannot be used ({error.args[0]})", "parameters in bounds"
        ) from None
    posterior = Posterior(
        system=system,
        method=experiment.method,
        start=experiment.start,
        initial_state=dict(experiment.initial_state),
        inputs=dict(experiment.inputs),
        measurements=measurements,
        parameters=parameters,
        engine=case.fit.engine,
    )
    outputs = measurements.count if posterior.least_squares_obstacle() is None else 1
    gradient = choose_gradient(len(posterior.slots()), outputs)
    return dataclasses.replace(posterior, gradient=gradient)


def _measurements(
    data: DataTable, table: MeasurementTable, system: AbstractSystem
) -> Measurements:
    units = {state.name: state.unit for state in system.states}
    observables = [
        Observable(
            name=name,
            state=item.state,
            noise=item.noise,
            sd=item.sd,
            degrees_of_freedom=item.degrees_of_freedom,
            unit=item.unit or units[item.state],
        )
        for name, item in data.observables.items()
    ]
    return measurements_from_rows(
        observables,
        time=table.time,
        observable=table.observable,
        value=table.value,
        group=table.group,
        inputs=table.inputs,
    )
