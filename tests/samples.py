"""Result objects filled with plausible numbers, for tests that need no solver.

The numbers look like a fit of Lotka-Volterra to the Hudson Bay pelts of 1900-1920: two
observables, 21 times, eight parameters, 16 starts of which three failed. They are made
with numpy alone (a Runge-Kutta rule and fixed seeds) and are the same in every run.
"""

import json

import numpy as np

from simkit.results import (
    CurveTable,
    DerivedTable,
    Fit,
    ObservationTable,
    ParameterTable,
    Provenance,
    StartTable,
    Trajectory,
    Uncertainty,
)


NAMES = np.array(
    [
        "prey_growth",
        "predation",
        "predator_death",
        "conversion",
        "initial_state.prey",
        "initial_state.predator",
        "noise.prey",
        "noise.predator",
    ]
)
UNITS = np.array(
    [
        "1/year",
        "1/(year * thousand)",
        "1/year",
        "1/(year * thousand)",
        "thousand",
        "thousand",
        "1",
        "1",
    ]
)
ESTIMATES = np.array([0.5474, 0.02766, 0.8011, 0.02409, 33.98, 5.935, 0.2483, 0.2516])
RELATIVE_ERRORS = np.array([0.117, 0.153, 0.114, 0.146, 0.085, 0.089, 0.17, 0.171])
OBSERVABLES = ("prey", "predator")
YEARS = np.arange(1900.0, 1921.0)
FINE_YEARS = np.linspace(1900.0, 1920.0, 101)
LEVEL = 0.9
NUMBER_OF_DRAWS = 400
NUMBER_OF_STARTS = 16


def sample_trajectory() -> Trajectory:
    """One solve over 21 years."""
    states = _lotka_volterra(ESTIMATES[:6], YEARS)
    return Trajectory(
        title="Lynx and hare, one solve",
        system="LotkaVolterra",
        method="Tsit5(rtol=1e-08, atol=1e-08)",
        times=YEARS.copy(),
        states={"prey": states[0], "predator": states[1]},
        status=np.array("successful"),
        parameters={
            name: np.array(value)
            for name, value in zip(NAMES[:4].tolist(), ESTIMATES[:4], strict=True)
        },
        statistics={"steps": np.array(128), "rejected_steps": np.array(7)},
        state_units={"prey": "thousand", "predator": "thousand"},
        parameter_units=dict(zip(NAMES[:4].tolist(), UNITS[:4].tolist(), strict=True)),
        time_unit="year",
        provenance=_provenance("simkit simulate data/lynx_hare/case.toml"),
    )


def sample_ensemble(members: int = 12) -> Trajectory:
    """Members that differ in the growth of the prey; from four on, one member failed."""
    generator = np.random.default_rng(11)
    growth = 0.55 * np.exp(0.1 * generator.standard_normal(members))
    parameters = np.tile(ESTIMATES[:6], (members, 1))
    parameters[:, 0] = growth
    states = _lotka_volterra(parameters, YEARS)
    status = np.full(members, "successful", dtype="<U60")
    if members > 3:
        status[3] = "maximum number of steps reached; try a larger max_steps"
        states[:, 3, 9:] = np.nan
    return Trajectory(
        title="Lynx and hare, growth of the prey varies",
        system="LotkaVolterra",
        method="Tsit5(rtol=1e-08, atol=1e-08)",
        times=YEARS.copy(),
        states={"prey": states[0], "predator": states[1]},
        status=status,
        parameters={"prey_growth": growth, "predation": np.array(ESTIMATES[1])},
        statistics={"steps": generator.integers(110, 160, members)},
        state_units={"prey": "thousand", "predator": "thousand"},
        parameter_units={"prey_growth": "1/year", "predation": "1/(year * thousand)"},
        time_unit="year",
        engine="native",
        engine_reason="The law became a compiled kernel, which is the fastest.",
        provenance=_provenance("simkit simulate data/lynx_hare/ensemble.toml"),
    )


def sample_fit(with_uncertainty: bool = True) -> Fit:
    """A fit with log-normal noise, with or without its uncertainty."""
    covariance = _covariance()
    return Fit(
        title="Lynx and hare, Hudson Bay Company, 1900-1920",
        system="LotkaVolterra",
        method="LevenbergMarquardt",
        reason="every noise model has residuals",
        status="converged",
        objective=121.337,
        log_likelihood=-118.902,
        gradient_norm=3.1e-9,
        parameters=ParameterTable(
            name=NAMES.copy(),
            unit=UNITS.copy(),
            scale=np.full(8, "log"),
            estimate=ESTIMATES.copy(),
            standard_error=np.sqrt(np.diag(covariance)),
            lower=np.zeros(8),
            upper=np.array([np.inf] * 6 + [5.0, 5.0]),
            at_bound=np.zeros(8, dtype=bool),
        ),
        covariance=covariance,
        starts=_starts(),
        observations=_observations(),
        curves=_curves(None),
        derived=_derived(),
        observable_units={"prey": "thousand", "predator": "thousand"},
        time_unit="year",
        uncertainty=_uncertainty(covariance) if with_uncertainty else None,
        warnings=("3 of 16 starts failed.",),
        engine="diffrax",
        engine_reason="Not native: Its kernels are for a CPU, and jax runs on a GPU.",
        provenance=_provenance("simkit fit data/lynx_hare/case.toml"),
    )


def _lotka_volterra(parameters: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Prey and predator at the times, shape `(2, ..., time)`, by the classical rule."""
    growth, predation, death, conversion = np.moveaxis(parameters, -1, 0)[:4]

    def rate(state: np.ndarray) -> np.ndarray:
        prey, predator = state
        return np.stack(
            [(growth - predation * predator) * prey, (conversion * prey - death) * predator]
        )

    state = np.moveaxis(parameters, -1, 0)[4:6].copy()
    saved = [state]
    for span in np.diff(times):
        step = span / 20
        for _ in range(20):
            first = rate(state)
            second = rate(state + step / 2 * first)
            third = rate(state + step / 2 * second)
            fourth = rate(state + step * third)
            state = state + step / 6 * (first + 2 * second + 2 * third + fourth)
        saved.append(state)
    return np.stack(saved, axis=-1)


def _correlation() -> np.ndarray:
    """A correlation like that of the fit: the four rates are strongly coupled."""
    factor = np.eye(8)
    factor[1, 0], factor[2, 0], factor[3, :3] = 0.9, -2.2, [-1.1, 0.7, 0.5]
    factor[4, 3], factor[5, 2] = -0.3, -0.4
    product = factor @ factor.T
    deviation = np.sqrt(np.diag(product))
    return product / np.outer(deviation, deviation)


def _covariance() -> np.ndarray:
    deviation = ESTIMATES * RELATIVE_ERRORS
    return _correlation() * np.outer(deviation, deviation)


def _draws() -> np.ndarray:
    normal = np.random.default_rng(5).standard_normal((NUMBER_OF_DRAWS, 8))
    normal = normal @ np.linalg.cholesky(_correlation()).T
    return ESTIMATES * np.exp(RELATIVE_ERRORS * normal)


def _starts() -> StartTable:
    generator = np.random.default_rng(2)
    shape = (NUMBER_OF_STARTS, 8)
    initial = ESTIMATES * np.exp(0.8 * generator.standard_normal(shape))
    final = ESTIMATES * (1 + 1e-7 * generator.standard_normal(shape))
    objective = 121.337 + 1e-9 * generator.random(NUMBER_OF_STARTS)
    status = np.full(NUMBER_OF_STARTS, "converged", dtype="<U60")
    for other in (4, 13):
        final[other] = ESTIMATES * np.exp(0.5 * generator.standard_normal(8))
        objective[other] = 148.2 + other
    for failed, reason in {
        1: "the solve failed: maximum number of steps reached",
        6: "the optimiser did not move",
        10: "the optimiser reached 200 steps without converging",
    }.items():
        status[failed] = reason
        objective[failed] = np.nan
        final[failed] = np.nan
    rank = np.full(NUMBER_OF_STARTS, -1)
    order = np.argsort(objective)[: np.isfinite(objective).sum()]
    rank[order] = np.arange(order.size)
    return StartTable(
        initial=initial,
        final=final,
        objective=objective,
        status=status,
        steps=generator.integers(9, 60, NUMBER_OF_STARTS),
        rank=rank,
    )


def _observations() -> ObservationTable:
    predicted = _lotka_volterra(ESTIMATES[:6], YEARS).ravel()
    scale = np.repeat(ESTIMATES[6:], YEARS.size)
    residual = np.random.default_rng(7).standard_normal(predicted.size)
    return ObservationTable(
        group=np.full(predicted.size, "all"),
        observable=np.repeat(np.array(OBSERVABLES), YEARS.size),
        time=np.tile(YEARS, 2),
        measured=predicted * np.exp(scale * residual),
        predicted=predicted,
        residual=residual,
        noise=np.full(predicted.size, "log_normal"),
    )


def _curves(draws: np.ndarray | None) -> CurveTable:
    fitted = _lotka_volterra(ESTIMATES[:6], FINE_YEARS)
    bands: list[dict[str, np.ndarray]] = [{}, {}, {}, {}]
    if draws is not None:
        tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        noise_free = _lotka_volterra(draws[:, :6], FINE_YEARS)
        normal = np.random.default_rng(9).standard_normal(noise_free.shape)
        measured = noise_free * np.exp(draws[:, 6:].T[..., np.newaxis] * normal)
        quantiles = [
            band
            for sample in (noise_free, measured)
            for band in np.quantile(sample, tails, axis=1)
        ]
        bands = [
            {name: band[index][np.newaxis] for index, name in enumerate(OBSERVABLES)}
            for band in quantiles
        ]
    return CurveTable(
        group=np.array(["all"]),
        time=FINE_YEARS[np.newaxis],
        fitted={name: fitted[index][np.newaxis] for index, name in enumerate(OBSERVABLES)},
        lower=bands[0],
        upper=bands[1],
        predictive_lower=bands[2],
        predictive_upper=bands[3],
        level=LEVEL,
        units=dict.fromkeys(OBSERVABLES, "thousand"),
    )


def _derived() -> DerivedTable:
    period = 2 * np.pi / np.sqrt(ESTIMATES[0] * ESTIMATES[2])
    return DerivedTable(
        name=np.array(["period", "equilibrium_prey"]),
        unit=np.array(["year", "thousand"]),
        estimate=np.array([period, ESTIMATES[2] / ESTIMATES[3]]),
        standard_error=np.array([0.21, 2.4]),
    )


def _uncertainty(covariance: np.ndarray) -> Uncertainty:
    draws = _draws()
    lower, upper = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    deviation = np.sqrt(np.diag(covariance))
    mean = draws.mean(axis=0)
    return Uncertainty(
        method="Laplace approximation, mean corrected for skewness",
        level=LEVEL,
        name=NAMES.copy(),
        mean=mean,
        standard_deviation=deviation,
        lower=lower,
        upper=upper,
        shift=(mean - ESTIMATES) / deviation,
        correlation=_correlation(),
        draws=draws,
        curves=_curves(draws),
        derived=_derived(),
        failed_draws=2,
        warnings=("2 of 402 draws could not be solved; they are left out.",),
    )


def _provenance(command: str) -> Provenance:
    return Provenance(
        command=command,
        case_text='schema = 1\ntitle = "Lynx and hare – 1900"\n',
        configuration=json.dumps({"schema": 1, "title": "Lynx and hare – 1900"}),
        versions=json.dumps({"simkit-jax": "0.1.0", "python": "3.11.7", "jax": "0.9.2"}),
        device="cpu, cpu, 1 device",
        git_state="2c462b6f0e3d (changed)",
        started="2026-01-02T03:04:05+00:00",
        stopped="2026-01-02T03:04:45+00:00",
        seed=20,
    )
