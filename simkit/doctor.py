"""Whether the numbers that jax computes on this machine can be trusted."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from simkit.provenance import versions


BAD_BUILDS = {
    "0.10.0": "it can abort",
    "0.10.1": "it can abort",
    "0.10.2": "it gives silently wrong numbers for small batched matrix-vector products",
    "0.11.1": "other packages of the field exclude it",
}
"""Versions of jax that must not be used, with what is wrong with them."""

ROWS = 20_000

BatchedFunction = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What was found; every value is text.

    - `versions`: by package.
    - `devices`: what jax computes on.
    - `cache`: the folder of compiled programs and its size, or why there is none.
    - `passed`, `faults`: what was found right and what wrong, in sentences.
    """

    versions: dict[str, str]
    devices: list[str]
    cache: str
    passed: list[str]
    faults: list[str]


def examine(cache: Path | None = None) -> Diagnosis:
    """Look at versions and devices, and check numbers on the default device.

    **Arguments:**

    - `cache`: folder of compiled programs, if there is one.
    """
    import jax

    passed, faults = [], []
    for ok, sentence in (_check_version(jax.__version__), _check_numbers()):
        (passed if ok else faults).append(sentence)
    return Diagnosis(
        versions=versions(),
        devices=[f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        cache=_describe_cache(cache),
        passed=passed,
        faults=faults,
    )


def compiled_squares() -> BatchedFunction:
    """For each row the squared length of the identity matrix times the row, compiled.

    jax 0.10.2 gets thousands of the rows wrong in double precision on CPUs
    (github.com/jax-ml/jax/issues/39103).
    """
    import jax
    import jax.numpy as jnp

    identity = np.eye(3)
    return jax.jit(jax.vmap(lambda row: jnp.sum((identity @ row) ** 2)))


def count_wrong_rows(function: BatchedFunction) -> int:
    """How many of 20,000 rows a function does not square and sum as numpy does.

    **Arguments:**

    - `function`: from rows of shape `(rows, 3)` to sums of squares, shape `(rows,)`.
    """
    import jax

    rows = np.random.default_rng(0).standard_normal((ROWS, 3))
    with jax.enable_x64(True):
        found = np.asarray(function(rows))
    expected = np.sum(rows**2, axis=1)
    # Also NaN counts as wrong.
    return int(np.sum(~(np.abs(found - expected) <= 1e-12 * expected)))


def _check_version(version: str) -> tuple[bool, str]:
    if version in BAD_BUILDS:
        return False, f"jax {version} must not be used: {BAD_BUILDS[version]}."
    return True, f"jax {version} is no build that is known to be bad."


def _check_numbers() -> tuple[bool, str]:
    wrong = count_wrong_rows(compiled_squares())
    if wrong:
        return False, (
            f"{wrong} of {ROWS} rows of a compiled matrix-vector product are wrong: no "
            "number from this jax on this device can be trusted; install another version."
        )
    return True, f"{ROWS} rows of a compiled matrix-vector product agree with numpy."


def _describe_cache(folder: Path | None) -> str:
    if folder is None:
        return "off"
    if not folder.is_dir():
        return f"{folder} (not made yet)"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} (cannot be written to, so every run compiles anew)"
    files = [item.stat().st_size for item in folder.iterdir() if item.is_file()]
    return f"{folder} ({len(files)} files, {sum(files) / 1e6:.1f} MB)"
