"""Problems of CUTEst from the package sif2jax, without what it does for all the others."""

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any


KINDS = ("unconstrained", "bounded")


def read_cutest(kind: str) -> list[Any]:
    """All problems of a kind: `unconstrained`, or with `bounded` parameters.

    `import sif2jax` makes more than a thousand problems, some of them term by term, which
    takes minutes. The folder of one kind takes seconds, so empty packages stand for the two
    above it. Raises `ImportError` where sif2jax is not installed.
    """
    if kind not in KINDS:
        raise ValueError(f"The kind of problems is {kind!r}, expected one of {KINDS}.")
    spec = importlib.util.find_spec("sif2jax") if "sif2jax" not in sys.modules else None
    if spec is not None and spec.submodule_search_locations:
        folder = next(iter(spec.submodule_search_locations))
        for name, path in (("sif2jax", folder), ("sif2jax.cutest", f"{folder}/cutest")):
            package = types.ModuleType(name)
            package.__path__ = [path]
            package.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
            sys.modules[name] = package
    module = importlib.import_module(f"sif2jax.cutest._{kind}_minimisation")
    return list(getattr(module, f"{kind}_minimisation_problems"))
