"""What makes two runs the same, so that the segments of one serve the other.

Plain values by name. What a run shows of its result (title, figures, report) and what is
computed from it at the end (uncertainty) makes no difference.
"""

import hashlib
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from simkit.config.reader import LoadedCase, resolved_json
from simkit.provenance import versions


_AFTERWARDS = ("title", "output", "uncertainty")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def case_facts(command: str, loaded: LoadedCase) -> dict[str, Any]:
    """The facts of a run of a case: its tables, the data, the versions."""
    tables = json.loads(resolved_json(loaded.case))
    facts = {name: value for name, value in tables.items() if name not in _AFTERWARDS}
    files = _files_of(loaded.case)
    if files:
        content = {name: _digest((loaded.folder / name).read_bytes()) for name in files}
        facts["content"] = content
    return {"command": command, **facts, "versions": versions()}


def _files_of(case: Any) -> list[str]:
    """The files that a case names: data, or those of a molecular case."""
    molecules = getattr(case, "molecules", None)
    if molecules is None:
        return [] if case.data is None else [case.data.file]
    tables = (molecules, *molecules.terms)
    names = [molecules.file, *(getattr(table.potential, "file", None) for table in tables)]
    return [name for name in names if name is not None]


def result_facts(configuration: str) -> dict[str, Any]:
    """The tables of the case behind a finished result, for comparison with `case_tables`."""
    return _without_output(json.loads(configuration))


def case_tables(loaded: LoadedCase) -> dict[str, Any]:
    """The tables of a case on which its finished result depends."""
    return _without_output(json.loads(resolved_json(loaded.case)))


def object_facts(command: str, *things: Any) -> dict[str, Any]:
    """The facts of a run of what was made in Python: any pytrees of arrays."""
    import jax

    digest = hashlib.sha256()
    leaves, tree = jax.tree.flatten(things)
    digest.update(_ADDRESS.sub("", str(tree)).encode())
    for leaf in leaves:
        if isinstance(leaf, np.ndarray | np.generic | jax.Array):
            array = np.asarray(leaf)
            digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
        else:
            digest.update(_ADDRESS.sub("", repr(leaf)).encode())
    return {"command": command, "arguments": digest.hexdigest()[:16], "versions": versions()}


def live_facts(system: Any) -> dict[str, Any]:
    """What is known only with jax: the platform, and the code of a system of one's own."""
    import jax

    facts: dict[str, Any] = {"platform": jax.default_backend()}
    module = type(system).__module__
    if module.partition(".")[0] != "systems":
        source = getattr(sys.modules.get(module), "__file__", None)
        code = Path(source).read_bytes() if source else _source(type(system))
        facts["content"] = {module: _digest(code)}
    return {"live": facts}


def _source(kind: type) -> bytes:
    try:
        return inspect.getsource(kind).encode()
    except (OSError, TypeError):  # typed at a prompt
        return b""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _without_output(tables: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tables.items() if name != "output"}
