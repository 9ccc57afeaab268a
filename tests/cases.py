"""The committed cases, fitted once for all tests of a session."""

import functools
import json
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from simkit.config.reader import LoadedCase, read_case
from simkit.fitting.assembly import posterior_from_case
from simkit.fitting.fit import fit
from simkit.fitting.posterior import Posterior
from simkit.fitting.uncertainty import Laplace, uncertainty
from simkit.results import Fit, Uncertainty


ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"


def load(name: str, *overrides: str) -> LoadedCase:
    """A committed case."""
    return read_case(ROOT / "data" / name / "case.toml", overrides)


@functools.cache
def fitted(name: str) -> Fit:
    """The fit of a committed case with fewer starts, for time's sake."""
    return fit(load(name, "fit.starts=8"))


@functools.cache
def uncertain(name: str) -> Uncertainty:
    """Its Laplace uncertainty."""
    return uncertainty(fitted(name), Laplace())


@functools.cache
def posterior(name: str) -> Posterior:
    """Its posterior."""
    return posterior_from_case(load(name))


def optimum(name: str) -> jnp.ndarray:
    """The fitted vector on the optimiser's scale."""
    estimate = fitted(name).parameters.estimate.tolist()
    return jnp.asarray(posterior(name).parameters.unbounded(estimate))


def reference_draws(name: str) -> dict[str, np.ndarray]:
    """Reference posterior draws of posteriordb, all chains joined."""
    folder = SHARED / "posteriordb/posterior_database/reference_posteriors/draws/draws"
    path = folder / f"{name}.json.zip"
    if not path.exists():
        pytest.skip(f"the reference draws are not beside the project: {path.name}")
    with zipfile.ZipFile(path) as archive:
        chains = json.loads(archive.read(archive.namelist()[0]))
    return {key: np.concatenate([chain[key] for chain in chains]) for key in chains[0]}
