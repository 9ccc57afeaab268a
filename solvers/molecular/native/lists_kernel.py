"""The kernel of neighbour lists: particles sorted into cells, then rows on threads."""

import functools
from typing import Any

from llvmlite import ir

from solvers.ensemble.native.array_call import NOTHING, WORK, ArrayCall
from solvers.ensemble.native.build import F32, F64, I64
from solvers.ensemble.native.compile import host
from solvers.ensemble.native.driver import KERNEL
from solvers.ensemble.native.registry import Kernel, registry
from solvers.molecular.native.lists_arrays import FACTS, ListArrays
from solvers.molecular.native.lists_cells import CellSorter
from solvers.molecular.native.lists_code import PERMUTED, ListBuild
from solvers.molecular.native.lists_rows import ARGUMENT, RowWriter


def list_module(kind: Any, lanes: int, permutes: bool) -> ir.Module:
    """The code for positions of type `kind`; see `ListBuild` for the rest."""
    module = ir.Module("neighbour lists")
    rows = ListBuild(ir.Function(module, WORK, "rows"), lanes, permutes)
    rows.function.linkage = "internal"
    RowWriter(rows).write()
    rows.finish(NOTHING)
    b = ListBuild(ir.Function(module, WORK, KERNEL), lanes, permutes)
    call = ArrayCall(b, b.function.args[0])
    arrays = ListArrays(b, call)
    CellSorter(b, arrays, kind).write()
    b.put(b.index(0), arrays["facts"], b.count(FACTS.index("most")))
    argument = b.space(I64, len(ARGUMENT))
    words = (call.pointer, b.count(0), b.count(0))
    for place, word in enumerate(words):
        b.store(word, argument, place)
    call.spread(rows.function, argument, arrays.size("buffers", 0))
    b.finish(NOTHING)
    return module


@functools.cache
def list_kernel(double: bool) -> Kernel:
    """The compiled kernel for positions in double or in single precision.

    **Raises:** `EngineRefusal` if this processor is not served.
    """
    permutes = host().lanes >= 4
    kind = F64 if double else F32
    module = list_module(kind, PERMUTED if permutes else 4, permutes)
    return registry.kernel(str(module))
