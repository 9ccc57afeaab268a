"""Peers in processes and an environment of their own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Peer(NamedTuple):
    """A library that is compared with: its script, what it imports, which laws it takes."""

    name: str
    script: str
    module: str
    laws: tuple[str, ...]


STIFF = ("van_der_pol", "robertson", "hires")
PEERS = (
    Peer("heyoka, batches, sorted", "heyoka_peer.py", "heyoka", ("lorenz",)),
    Peer("numbalsoda LSODA", "numbalsoda_peer.py", "numbalsoda", ("lorenz", *STIFF)),
    Peer("torchode Tsit5", "torchode_peer.py", "torchode", ("lorenz",)),
    Peer("SUNDIALS CVODE", "sundae_peer.py", "sksundae", ("lorenz", *STIFF)),
    Peer("SciPy DOP853, LSODA", "scipy_peer.py", "scipy", ("lorenz", *STIFF)),
)

LONGEST = 300
"""Seconds after which a peer is given up."""


def interpreter() -> str:
    """The Python of the peers' environment, else this one."""
    given = os.environ.get("SIMKIT_PEERS_PYTHON", "")
    return given if given else sys.executable


def ask(peer: Peer, case: dict[str, Any]) -> dict[str, Any] | str:
    """What a peer found (see `protocol`), or in words why it found nothing."""
    python = interpreter()
    probe = subprocess.run([python, "-c", f"import {peer.module}"], capture_output=True)
    if probe.returncode:
        return "not installable here"
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder, "case.npz"), Path(folder, "result.npz")
        np.savez(question, **case)
        script = Path(__file__).with_name(peer.script)
        command = [python, str(script), str(question), str(answer)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
        except subprocess.TimeoutExpired:
            return f"not done in {LONGEST} s"
        if done.returncode:
            return f"failed: {done.stderr.strip().splitlines()[-1]}"
        with np.load(answer) as file:
            return {name: file[name] for name in file.files}
