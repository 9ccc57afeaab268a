"""The kernels of this process: compiled once, found by number, freed when nobody is left.

This is the one mutable state of the room. A kernel lives as long as a traced or compiled
program of jax names it (they hold the `Kernel` object), or it is among the `RECENT` last
ones; then it is taken from the handler's table, and its code is freed once no call runs
it. After a fork the child has the table and the code as they were.
"""

import ctypes
import functools
import hashlib
import os
import weakref
from collections import OrderedDict
from typing import Any, NamedTuple

import jax

from solvers.ensemble.law import EngineRefusal
from solvers.ensemble.native.compile import LOCK, Machine, host, object_code
from solvers.ensemble.native.driver import KERNEL
from solvers.ensemble.native.handler import handler_module


TARGET = "simkit_ensemble"
ARRAYS_TARGET = "simkit_arrays"
"""The names under which XLA knows the two ways to call a kernel; see `handler`."""

RECENT = 64
"""Kernels that are kept although no program names them: a program that is dropped may
still have calls that wait."""


class Handler:
    """The handler in this process, with its table."""

    def __init__(self) -> None:
        host()
        self._machine = Machine(object_code(str(handler_module())))
        whole = ctypes.c_int64
        self.insert = ctypes.CFUNCTYPE(whole, whole, whole)(self._machine.address("insert"))
        self.remove = ctypes.CFUNCTYPE(whole, whole)(self._machine.address("remove"))
        self.probe = self._machine.address("probe")
        self._cores = self._word("cores")
        self._busy = self._word("busy")
        self.set_threads(_usable_cores())
        for target, name in ((TARGET, "handle"), (ARRAYS_TARGET, "handle_arrays")):
            address = ctypes.c_void_p(self._machine.address(name))
            capsule = jax.ffi.pycapsule(address)
            jax.ffi.register_ffi_target(target, capsule, platform="cpu")
        os.register_at_fork(after_in_child=self._forget_calls)

    def _word(self, name: str) -> Any:
        return ctypes.c_int64.from_address(self._machine.variable(name))

    def set_threads(self, count: int) -> None:
        """How many threads kernels may run on in all."""
        self._cores.value = count

    def _forget_calls(self) -> None:
        """A child of a fork has no threads but one."""
        self._busy.value = 0


class Kernel:
    """Compiled code that programs name; equal to any other of the same code.

    - `number`: by which the handler finds it.
    """

    def __init__(self, digest: str, number: int):
        self.digest = digest
        self.number = number

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kernel) and other.digest == self.digest

    def __repr__(self) -> str:
        return f"Kernel({self.digest[:12]})"


class _Code(NamedTuple):
    """The code of a kernel; each object stands for one time that it was handed out."""

    digest: str
    machine: Machine


class Registry:
    """All kernels of the process, by the digest of their code."""

    def __init__(self) -> None:
        self._kernels: weakref.WeakValueDictionary[str, Kernel] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[str, Kernel] = OrderedDict()
        # By number: code in use, and code that may still run although no program names it.
        self._used: dict[int, _Code] = {}
        self._left: dict[int, _Code] = {}

    def kernel(self, text: str, thorough: bool = True) -> Kernel:
        """The kernel of this LLVM code, compiled if it is not there.

        **Raises:** `EngineRefusal` if there are too many kernels.
        """
        digest = hashlib.sha256(text.encode()).hexdigest()
        with LOCK:
            found = self._kernels.get(digest)
            if found is None:
                found = self._make(text, digest, thorough)
            self._recent[digest] = found
            self._recent.move_to_end(digest)
            while len(self._recent) > RECENT:
                self._recent.popitem(last=False)
            return found

    def address(self, kernel: Kernel) -> int:
        """Where the code of a kernel begins: the work of one thread on a call."""
        return self._used[kernel.number].machine.address(KERNEL)

    def _make(self, text: str, digest: str, thorough: bool) -> Kernel:
        self.sweep()
        # Never below two: zero marks empty rows of the table, and one is the probe.
        number = int(digest[:16], 16) % (2**63 - 2) + 2
        code = self._used.pop(number, None) or self._left.pop(number, None)
        if code is None:
            code = _Code(digest, Machine(object_code(text, thorough)))
        elif code.digest != digest:
            raise EngineRefusal("Two different kernels have the same number.")
        code = _Code(digest, code.machine)
        if not handler().insert(number, code.machine.address(KERNEL)):
            code.machine.close()
            raise EngineRefusal("There are too many compiled kernels in this process.")
        kernel = Kernel(digest, number)
        self._used[number] = code
        self._kernels[digest] = kernel
        weakref.finalize(kernel, self._release, number, code).atexit = False
        return kernel

    def _release(self, number: int, code: _Code) -> None:
        with LOCK:
            # It may have been handed out again since.
            if self._used.get(number) is code:
                self._left[number] = self._used.pop(number)
                self.sweep()

    def sweep(self) -> None:
        """Free the code of kernels that are gone and that no call runs any more."""
        with LOCK:
            for number, code in list(self._left.items()):
                if not handler().remove(number):
                    del self._left[number]
                    code.machine.close()

    def alive(self) -> int:
        """How many kernels have code."""
        return len(self._used) + len(self._left)

    def forget(self) -> None:
        """Keep no kernel for being recent alone."""
        with LOCK:
            self._recent.clear()


registry = Registry()


@functools.cache
def handler() -> Handler:
    """The handler, made and registered at first use."""
    return Handler()


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1
