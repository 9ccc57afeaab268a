"""The command line called within the process, on small cases."""

from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner, Result

from simkit.cli.application import cli
from simkit.results import Fit, Trajectory
from simkit.store.reader import load


ROOT = Path(__file__).parent.parent
LYNX_HARE = ROOT / "data" / "lynx_hare" / "case.toml"

SMALL = """\
schema = 1
title = "A spring [m]"
system.type = "HarmonicOscillator"
times = { stop = 1, save_every = 0.25, unit = "s" }
output = { plots = false, report = false }
"""


def run(*words: str | Path, env: Mapping[str, str] | None = None) -> Result:
    """What `simkit WORDS` does."""
    # The cache would outlive the test, for the settings of jax belong to the process.
    environment = {"SIMKIT_CACHE": "off", **(env or {})}
    return CliRunner().invoke(cli, [str(word) for word in words], env=environment)


def write_case(folder: Path, text: str = SMALL) -> Path:
    """A case in a folder."""
    path = folder / "case.toml"
    path.write_text(text)
    return path


def load_trajectory(path: Path) -> Trajectory:
    """A trajectory from its file."""
    result = load(path)
    assert isinstance(result, Trajectory)
    return result


def load_fit(path: Path) -> Fit:
    """A fit from its file."""
    result = load(path)
    assert isinstance(result, Fit)
    return result
