"""What a kernel of arrays is called with: any operands and results, and a way to threads.

Such a kernel is a function `kernel` of a module of LLVM code, from one address to an address
that means nothing (null). It runs once a call, on the calling thread. Where the work is
worth it, it hands a function of its own to `spread`, as often as it likes; between two of
these it is alone again.
"""

from typing import Any

from llvmlite import ir

from solvers.ensemble.native.build import F64, I64, POINTER, Build
from solvers.ensemble.native.driver import KERNEL


WORK = ir.FunctionType(POINTER, [POINTER])
"""A kernel, and what runs on threads."""


def array_kernel(name: str, kind: Any = F64, lanes: int = 1) -> tuple[Build, "ArrayCall"]:
    """A module with an empty kernel, and what it is called with.

    **Arguments:**

    - `name`: of the module.
    - `kind`, `lanes`: the reals of the kernel's vectors.

    End it by `build.finish(NOTHING)`; `str(build.module)` is what the registry takes.
    """
    module = ir.Module(name)
    build = Build(ir.Function(module, WORK, KERNEL), lanes, kind)
    return build, ArrayCall(build, build.function.args[0])


def worker(module: ir.Module, name: str, kind: Any = F64, lanes: int = 1) -> Build:
    """A function of a module for `spread`; its one argument is `build.function.args[0]`."""
    function = ir.Function(module, WORK, name)
    function.linkage = "internal"
    return Build(function, lanes, kind)


NOTHING = ir.Constant(POINTER, None)
"""What kernels and workers return."""


class ArrayCall:
    """The arrays of a call; number 0 is the first operand, results come after operands.

    - `pointer`: where it stands; may be handed to a worker, which makes its own `ArrayCall`.
    """

    def __init__(self, build: Build, pointer: Any):
        self._build = build
        self.pointer = pointer

    def data(self, array: int) -> Any:
        """The address of an array's numbers, the last axis running fastest."""
        return self._build.load(POINTER, self.pointer, 1 + 2 * array)

    def size(self, array: int, axis: int) -> Any:
        """How long an axis is, a whole number of 64 bits."""
        sizes = self._build.load(POINTER, self.pointer, 2 + 2 * array)
        return self._build.load(I64, sizes, axis)

    def spread(self, work: ir.Function, argument: Any, most: Any) -> None:
        """Run `work(argument)` on this thread, and at once on others if cores are idle.

        It must take its parts from a counter in memory (`atomic_rmw("add", ...)`), as it may
        run any number of times, from 1 to `most`. When this comes back, all are done, and
        what they wrote can be read.
        """
        b = self._build
        address = b.load(I64, self.pointer, 0)
        kind = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, I64])
        b.ir.call(b.ir.inttoptr(address, kind.as_pointer()), [work, argument, most])
