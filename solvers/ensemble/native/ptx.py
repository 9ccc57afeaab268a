"""The same kernels for NVIDIA's GPUs, as text of PTX: each thread takes whole members.

Nothing here loads or launches them. A launcher fills a call as `worker.CALL` says, with
addresses on the device, and starts as many threads as are worth it; they take members from
the call's queue until there are none, so that a thread never waits for a slow member.
Functions that kernels for the CPU take from the C library are those of libdevice here
(`__nv_...`), with which the text has to be linked.
"""

import llvmlite.binding as llvm
from llvmlite import ir

from solvers.ensemble.law import EngineRefusal
from solvers.ensemble.native.build import POINTER
from solvers.ensemble.native.compile import optimise
from solvers.ensemble.native.driver import KERNEL, kernel_module
from solvers.ensemble.native.functions import GPU_TRIPLE
from solvers.ensemble.native.plan import Plan


ENTRY = "simkit_entry"
"""The kernel's name in the text; it takes the address of a call."""


def ptx_text(plan: Plan, processor: str = "sm_90") -> str:
    """The text of a kernel.

    **Arguments:**

    - `processor`: the oldest kind of GPU that it is for.

    **Raises:** `EngineRefusal` if this llvmlite knows no GPUs.
    """
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple(GPU_TRIPLE)
    except RuntimeError as error:
        raise EngineRefusal("This build of llvmlite has no target for GPUs.") from error
    machine = target.create_target_machine(cpu=processor, opt=3)
    module = kernel_module(plan, 1, GPU_TRIPLE)
    _add_entry(module)
    parsed = llvm.parse_assembly(str(module))
    parsed.triple = GPU_TRIPLE
    parsed.data_layout = str(machine.target_data)
    optimise(parsed, machine, thorough=True)
    return machine.emit_assembly(parsed)


def _add_entry(module: ir.Module) -> None:
    """A function that is called from outside and gives nothing back."""
    worker = module.globals[KERNEL]
    worker.linkage = "internal"
    entry = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), ENTRY)
    entry.calling_convention = "ptx_kernel"
    build = ir.IRBuilder(entry.append_basic_block())
    build.call(worker, entry.args)
    build.ret_void()
