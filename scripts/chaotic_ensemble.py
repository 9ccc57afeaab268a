"""How fast the future is lost: an ensemble of Lorenz's model of convection.

Fifty starts on the attractor, and about each a cluster of ten members that differ by
1e-10. In a cluster the differences grow as exp(lambda t), until after some 27 units of
time they are as large as the attractor and nothing can be foretold. The leading
Lyapunov exponent lambda is the mean rate of growth while the differences are tiny; that
many starts are needed because the rate is not the same all over the attractor. It is
0.906 (J. C. Sprott, Chaos and Time-Series Analysis, 2003, appendix A).

    python scripts/chaotic_ensemble.py [FOLDER]

FOLDER (default: results/chaotic_ensemble) then holds `result.h5` with every member, and
`figures/`: the states, the attractor, the growth of the differences.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

import simkit as sk


LORENZ = sk.systems.Lorenz63()
LITERATURE = 0.906
DIFFERENCE = 1e-10
TIMES = np.linspace(0.0, 40.0, 401)
# Differences have turned into the direction that grows fastest, and are still tiny.
GROWTH = (5.0, 17.0)
# Steps of one size: adaptive ones could differ within a cluster by more than its members.
METHOD = sk.solvers.Dopri8(step=0.01)


def main(
    folder: str | Path = "results/chaotic_ensemble",
    *,
    starts: int = 50,
    members: int = 10,
    seed: int = 1,
) -> sk.Trajectory:
    """Simulate `starts` clusters of so many `members`, write everything, print lambda."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    # After 100 units of time starts from anywhere are on the attractor; 20 would not do,
    # since near its two unstable fixed points the motion spirals outwards very slowly.
    anywhere = {name: noise.normal(scale=10.0, size=starts) for name in "xyz"}
    settled = sk.simulate(LORENZ, start=0.0, times=np.array([100.0]), initial_states=anywhere)
    trajectory = sk.simulate(
        LORENZ,
        times=TIMES,
        method=METHOD,
        initial_states={
            name: np.repeat(values[:, 0], members)
            + noise.normal(scale=DIFFERENCE, size=starts * members)
            for name, values in settled.states.items()
        },
        title=f"Lorenz's model: starts that differ by {DIFFERENCE:g}",
        seed=seed,
    )
    if not trajectory.succeeded.all():
        raise RuntimeError(f"Members failed: {set(trajectory.status.tolist())}.")
    distance = distances(trajectory, starts)
    logarithm = np.log10(distance.reshape(starts * members, -1))
    growth = dataclasses.replace(trajectory, states={"log10_distance": logarithm})

    sk.save(trajectory, folder / "result.h5", overwrite=True)
    sk.plots.save_figures(trajectory, folder / "figures")
    sk.plots.save(sk.plots.trajectory(growth), folder / "figures/growth.png")
    value, error = exponent(distance)
    print(f"{trajectory.title}: {starts} clusters of {members} members")
    print(f"solved by {trajectory.engine}: {trajectory.engine_reason}")
    for i in range(0, TIMES.size, 50):
        print(f"time {TIMES[i]:4.0f}: median distance {np.median(distance[:, :, i]):.1e}")
    print(f"leading Lyapunov exponent {value:.3f} +- {error:.3f}, literature {LITERATURE}")
    print(f"Written to {folder}: result.h5, figures/")
    return trajectory


def distances(trajectory: sk.Trajectory, starts: int) -> np.ndarray:
    """Distance of each member from the mean of its cluster, shape (start, member, time)."""
    states = np.stack(list(trajectory.states.values()))
    states = states.reshape(len(states), starts, -1, trajectory.times.size)
    return np.linalg.norm(states - states.mean(axis=2, keepdims=True), axis=0)


def exponent(distance: np.ndarray) -> tuple[float, float]:
    """The mean rate of growth over all clusters, and its standard error."""
    first, last = np.searchsorted(TIMES, GROWTH)
    spread = np.log(np.sqrt(np.mean(distance**2, axis=1)))
    rates = (spread[:, last] - spread[:, first]) / (TIMES[last] - TIMES[first])
    return float(rates.mean()), float(rates.std(ddof=1) / np.sqrt(rates.size))


if __name__ == "__main__":
    main(*sys.argv[1:2])
