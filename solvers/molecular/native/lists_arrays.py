"""The arrays that the kernel of neighbour lists works on, by name."""

from typing import Any

from solvers.ensemble.native.array_call import ArrayCall
from solvers.ensemble.native.build import F64, I64


OPERANDS = ("positions", "vectors", "settings", "particles")
"""Positions `(N, 3)` of either precision, vectors of the box as rows (`(3, 3)`, double),
`SETTINGS`, and how many rows are particles, 32 bits."""

RESULTS = ("order", "indices", "facts")
"""The particles sorted by cell, the list, and `FACTS`, all of 32 bits."""

SCRATCH = ("cells", "inside", "starts", "columns", "members", "frame", "buffers")
"""Memory to work in: the cell of each particle `(N,)`; where it is in that cell
`(N, 4)`; where each cell begins `(cells + 3,)`; that place in the order of the cells
`(3, N + SPARE)`; the number of the particle there `(N + SPARE,)`; `FRAME`; and candidates
for each thread `(threads, 5, room)`."""

ARRAYS = OPERANDS + RESULTS + SCRATCH

SETTINGS = (
    "count_a",
    "count_b",
    "count_c",
    "capacity",
    "periodic",
    "divided",
    "orthorhombic",
    "radius",
    "range",
    "sorted",
)
"""Numbers of the array `settings`: cells along each axis and places in each, kinds of the
box and the grid as 0 or 1, lengths, and whether the list is for particles that are sorted
afterwards."""

FACTS = ("most", "largest", "faulty")
"""Numbers of the array `facts`: the most neighbours of one particle, the most particles in
one cell, and whether a position is no number or the box too narrow."""

FRAME = {"steps": 0, "vectors": 9, "inverses": 18, "limit": 21, "prune": 22}
"""Where numbers begin in the array `frame`: vectors from cell to cell and of the box as
rows, one over the diagonal of the box, and the squared distances within which particles are
neighbours of a particle and candidates of a cell."""

FRAME_SIZE = 32

SPARE = 16
"""Elements that vectors may read, or write, beyond the end of an array."""


class ListArrays:
    """Addresses and sizes of the arrays of a call, in one function."""

    def __init__(self, build: Any, call: ArrayCall):
        self._build, self._call = build, call
        self._data = {name: call.data(i) for i, name in enumerate(ARRAYS)}
        self.particles = self.size("positions", 0)
        self.capacity = self.size("indices", 1)

    def __getitem__(self, name: str) -> Any:
        return self._data[name]

    def size(self, name: str, axis: int) -> Any:
        """How long an axis is."""
        return self._call.size(ARRAYS.index(name), axis)

    def setting(self, name: str) -> Any:
        """A setting, a real."""
        b = self._build
        return b.get(F64, self["settings"], b.count(SETTINGS.index(name)))

    def whole(self, name: str) -> Any:
        """A setting that is a whole number."""
        return self._build.ir.fptosi(self.setting(name), I64)

    def holds(self, name: str) -> Any:
        """A setting that is yes or no."""
        b = self._build
        return b.ir.fcmp_ordered("!=", self.setting(name), F64(0.0))
