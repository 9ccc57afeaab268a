"""Engines that a case asks for by name and that cannot serve, said in its words."""

import contextlib
from collections.abc import Iterator

from simkit.config.errors import CaseError, described
from simkit.config.reader import LoadedCase
from solvers.ensemble.law import EngineRefusal


@contextlib.contextmanager
def asked_for(engine: str, key: str, loaded: LoadedCase) -> Iterator[None]:
    """Whatever is solved herein may refuse the engine that stands at a key of a case.

    That shows where a solve is traced, so before anything is computed.

    **Raises:** `CaseError` that says why.
    """
    try:
        yield
    except EngineRefusal as refusal:
        reason = str(refusal).removeprefix(f"engine='{engine}' cannot serve: ").rstrip(".")
        raise CaseError(
            loaded.source,
            key,
            f"is {described(engine)}, which cannot serve here ({reason})",
            "auto or another engine",
        ) from refusal
