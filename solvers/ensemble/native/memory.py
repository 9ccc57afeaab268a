"""Where numbers of lanes stand: in registers, or in memory as vectors."""

from collections.abc import Mapping
from typing import Any, Protocol

from solvers.ensemble.native.build import F64, Build


class Storage(Protocol):
    """Vectors by number."""

    def load(self, i: Any) -> Any:
        """The vector of this number."""
        ...

    def store(self, value: Any, i: Any) -> None:
        """Put a vector there."""
        ...


class Registers:
    """Vectors that are values of the code; numbers are known when it is built."""

    def __init__(self, count: int):
        self._values: list[Any] = [None] * count

    def load(self, i: Any) -> Any:
        """The vector of this number."""
        return self._values[i]

    def store(self, value: Any, i: Any) -> None:
        """Put a vector there."""
        self._values[i] = value


class Vectors:
    """Vectors in memory; numbers may be values of the code."""

    def __init__(self, build: Build, pointer: Any):
        self._build = build
        self.pointer = pointer

    def load(self, i: Any) -> Any:
        """The vector of this number."""
        return self._build.load(self._build.reals, self.pointer, i)

    def store(self, value: Any, i: Any) -> None:
        """Put a vector there."""
        self._build.store(value, self.pointer, i)

    def lane(self, i: Any, lane: Any) -> Any:
        """The address of the number of one lane."""
        b = self._build
        row = b.ir.mul(b.count(i) if isinstance(i, int) else i, b.count(b.lanes))
        return b.at(F64, self.pointer, b.ir.add(row, lane))


def make_storage(build: Build, count: int, registers: bool) -> Any:
    """Room for so many vectors."""
    if registers:
        return Registers(count)
    return Vectors(build, build.space(build.reals, max(count, 1)))


class LaneMemory:
    """What is known of the members in the lanes, one vector after the other.

    - `sizes`: how many vectors stand under each name.
    """

    def __init__(self, build: Build, sizes: Mapping[str, int]):
        self._build = build
        self._places: dict[str, int] = {}
        total = 0
        for name, size in sizes.items():
            self._places[name] = total
            total += size
        self._pointer = build.space(build.reals, total)

    def part(self, name: str) -> Vectors:
        """The vectors under a name."""
        b = self._build
        return Vectors(b, b.at(b.reals, self._pointer, self._places[name]))

    def get(self, name: str) -> Any:
        """The one vector under a name."""
        return self._build.load(self._build.reals, self._pointer, self._places[name])

    def put(self, name: str, value: Any) -> None:
        """Write the one vector under a name."""
        self._build.store(value, self._pointer, self._places[name])

    def blend(self, name: str, where: Any, value: Any) -> None:
        """Write it in some lanes."""
        self.put(name, self._build.select(where, value, self.get(name)))

    def get_lane(self, name: str, lane: Any, kind: Any = F64) -> Any:
        """The number of one lane."""
        return self._build.load(kind, self.part(name).lane(0, lane))

    def put_lane(self, name: str, lane: Any, value: Any) -> None:
        """Write the number of one lane."""
        self._build.store(value, self.part(name).lane(0, lane))

    def is_set(self, name: str) -> Any:
        """The lanes where a flag, kept as a real, is not zero."""
        b = self._build
        return b.compare("!=", self.get(name), b.real(0.0))
