"""What every analysis gives: plain values, and tables for files."""

import dataclasses
from typing import Any

from simkit.tabular import FlatTable


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What was found out about a result.

    - `values`: plain values by name, as `simkit analyse --json` prints them.
    - `tables`: the same as flat tables; the first is the one that most will want.
    """

    values: dict[str, Any]
    tables: tuple[FlatTable, ...]
