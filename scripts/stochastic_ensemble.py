"""An ensemble of a stochastic equation, held against its exact moments.

Every member of an Ornstein-Uhlenbeck process starts at the same place, returns to the
mean and is disturbed by a white noise of its own. At every time the exact distribution
is normal with known mean and variance, so the moments of the ensemble can be off by
their sampling errors only; differences beyond a few of these would be the fault of the
method or of its step.

    python scripts/stochastic_ensemble.py [FOLDER]

FOLDER (default: results/stochastic_ensemble) then holds `result.h5` with every member and
`figures/trajectory.png` and `.svg`.
"""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import simkit as sk


PROCESS = sk.systems.OrnsteinUhlenbeck(reversion_rate=0.7, long_term_mean=2.0, volatility=0.8)
START = -1.0
SECONDS = np.linspace(0.0, 8.0, 81)


def main(
    folder: str | Path = "results/stochastic_ensemble", *, members: int = 2000, seed: int = 1
) -> sk.Trajectory:
    """Simulate, write everything, print the comparison."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    trajectory = sk.simulate(
        PROCESS,
        times=SECONDS,
        # The step makes the variance too large by 0.35 %, a ninth of its sampling error.
        method=sk.solvers.EulerMaruyama(step=0.01),
        initial_state={"x": START},
        members=members,
        seed=seed,
        title="Ornstein-Uhlenbeck process",
        time_unit="s",
    )
    if not trajectory.succeeded.all():
        raise RuntimeError(f"Members failed: {set(trajectory.status.tolist())}.")
    sk.save(trajectory, folder / "result.h5", overwrite=True)
    sk.plots.save_figures(trajectory, folder / "figures")
    moments = compare(trajectory)

    print(f"{trajectory.title}, {members} members; in brackets: difference in sampling errors")
    print("time, s    mean   exact           variance   exact")
    for i in range(9, SECONDS.size - 1, 10):
        row = {name: values[i] for name, values in moments.items()}
        print(
            f"{row['time']:7.1f}{row['mean']:8.4f}{row['exact_mean']:8.4f}"
            f"  ({row['mean_difference']:+.1f}){row['variance']:11.4f}"
            f"{row['exact_variance']:8.4f}  ({row['variance_difference']:+.1f})"
        )
    print(f"Written to {folder}: result.h5, figures/")
    return trajectory


def compare(trajectory: sk.Trajectory) -> dict[str, np.ndarray]:
    """Both moments at each time after the start, with their differences in sampling errors."""
    values, times = trajectory.states["x"][:, 1:], trajectory.times[1:]
    members = len(values)
    mean, variance = values.mean(axis=0), values.var(axis=0, ddof=1)
    since, start = jnp.asarray(times), jnp.asarray(START)
    exact_mean = np.asarray(PROCESS.mean(since, start))
    exact_variance = np.asarray(PROCESS.variance(since, start))
    return {
        "time": times,
        "mean": mean,
        "exact_mean": exact_mean,
        "mean_difference": (mean - exact_mean) / np.sqrt(exact_variance / members),
        "variance": variance,
        "exact_variance": exact_variance,
        "variance_difference": (variance / exact_variance - 1) / np.sqrt(2 / (members - 1)),
    }


if __name__ == "__main__":
    main(*sys.argv[1:2])
