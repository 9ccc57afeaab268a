"""What the tables of a molecular case file share."""

from typing import Annotated

import msgspec
from msgspec import Meta


Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
PositiveByPair = Positive | tuple[Positive | tuple[Positive, ...], ...]
"""A number; or a list by species, where there is a mixing rule; or a symmetric matrix."""
ByPair = float | tuple[float | tuple[float, ...], ...]
NotNegativeByPair = NotNegative | tuple[NotNegative | tuple[NotNegative, ...], ...]


class Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A table of the case file; a key that is not listed is an error."""


class Typed(Table, frozen=True, tag_field="type", tag=True):
    """A table whose `type` is the name of a class in Python, and its keys the arguments."""

    @property
    def options(self) -> dict[str, object]:
        """Its values by name; those that were left out and have no default are missing."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in values.items() if value is not None}
