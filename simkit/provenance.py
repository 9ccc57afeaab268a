"""Where a result comes from: versions, device, state of the code, times."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from simkit.results import Provenance


PACKAGES = (
    "simkit-jax",
    "jax",
    "jaxlib",
    "equinox",
    "diffrax",
    "optimistix",
    "numpy",
    "h5py",
    "llvmlite",
)

_GIT_SECONDS = 2.0


def collect(
    command: str, case_text: str, configuration: str, seed: int, started: datetime
) -> Provenance:
    """The provenance of a run that ends now.

    It names no host, no user and no folder, so that a result can be given away.

    **Arguments:**

    - `command`: how the run was asked for.
    - `case_text`, `configuration`: the case file as read, and the resolved case as JSON.
    - `seed`: the seed of every random draw of the run.
    - `started`: when the run began, with its time zone.

    Raises `ValueError` for a time without zone.
    """
    if started.tzinfo is None:
        raise ValueError(f"collect: started is {started}, expected a time with its zone.")
    return Provenance(
        command=command,
        case_text=case_text,
        configuration=configuration,
        versions=json.dumps(versions()),
        device=device(),
        git_state=git_state(Path.cwd()),
        started=started.isoformat(timespec="seconds"),
        stopped=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
    )


def versions() -> dict[str, str]:
    """The versions of Python, simkit and the packages on which its numbers depend."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def device() -> str:
    """Platform, kind and number of devices; `""` if jax was not imported.

    A run that needed no jax did not run on any of its devices, and to import it takes
    longer than such a run.
    """
    jax = sys.modules.get("jax")
    if jax is None:
        return ""
    devices = jax.devices()
    number = len(devices)
    first = devices[0]
    plural = "" if number == 1 else "s"
    return f"{first.platform}, {first.device_kind}, {number} device{plural}"


def git_state(folder: Path) -> str:
    """Commit of the git repository of a folder, with ` (changed)` if files differ from it.

    Files that git does not track count as no change. `""` outside a repository, before
    its first commit, without git, or if git does not answer within two seconds.
    """
    # The repository may be anybody's: its settings must not start a program of theirs,
    # and nothing is written to it.
    command = ["git", "-c", "core.fsmonitor=false", "status", "--porcelain=v2", "--branch"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        answer = subprocess.run(
            [*command, "--untracked-files=no"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=True,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = answer.stdout.splitlines()
    commits = [line.split()[2] for line in lines if line.startswith("# branch.oid ")]
    if not commits or commits[0] == "(initial)":
        return ""
    changed = any(not line.startswith("#") for line in lines)
    return f"{commits[0]} (changed)" if changed else commits[0]
