"""From LLVM code to machine code in this process, found again by the next one.

Object files are kept in the user's cache folder (`$XDG_CACHE_HOME/simkit/kernels`, or
`~/.cache/simkit/kernels`; set `SIMKIT_KERNEL_CACHE` to another folder, or to nothing to
keep none), under a digest of the code, the processor and the version of LLVM. Files
are written whole or not at all, and a file that is damaged is made anew.
"""

import functools
import hashlib
import os
import platform
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import llvmlite
import llvmlite.binding as llvm

from solvers.ensemble.law import EngineRefusal


counts: Counter[str] = Counter()
"""How many object files this process has `compiled` and how many it `found`."""

LOCK = threading.RLock()
"""Held by whoever compiles, loads or frees code: the one lock of the room. It may be taken
again by its holder, as freeing can begin wherever Python collects garbage."""

# A child of a fork must not find it held by a thread that it does not have.
os.register_at_fork(
    before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release
)

_MARK = b"simkit kernel 1\n"


class Host(NamedTuple):
    """The processor that code is made for.

    - `lanes`: doubles in one of its vectors.
    """

    cpu: str
    features: str
    lanes: int


@functools.cache
def host() -> Host:
    """This machine's processor.

    **Raises:** `EngineRefusal` if it cannot multiply and add with one rounding.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512dq"):
        lanes = 8
    elif features.get("avx2") and features.get("fma"):
        lanes = 4
    elif platform.machine().lower() in ("arm64", "aarch64"):
        lanes = 2
    else:
        raise EngineRefusal(
            "This processor has neither AVX2 with FMA, nor AVX-512, nor NEON instructions."
        )
    text = features.flatten()
    if lanes == 8:
        text += ",-prefer-256-bit"
    return Host(llvm.get_host_cpu_name(), text, lanes)


class Machine:
    """Code in memory; freed with the object."""

    def __init__(self, code: bytes):
        target = _target_machine()
        with LOCK:
            self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
            # The engine reads the object until it is finalised.
            holder = llvm.ObjectFileRef.from_data(code)
            self._engine.add_object_file(holder)
            self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where a function begins."""
        return self._engine.get_function_address(name)

    def variable(self, name: str) -> int:
        """Where a global variable stands."""
        return self._engine.get_global_value_address(name)

    def close(self) -> None:
        """Free the code, which nobody may be running."""
        with LOCK:
            self._engine.close()


def object_code(text: str, thorough: bool = True) -> bytes:
    """The machine code of a module of LLVM code, as an object file.

    **Arguments:**

    - `thorough`: whether all of LLVM's optimisations are tried; else a few that are quick,
      which suffice for code without calls.
    """
    found = host()
    key = "\n".join([text, found.cpu, found.features, llvmlite.__version__, _llvm_version()])
    path = _folder_path(hashlib.sha256(key.encode()).hexdigest())
    known = None if path is None else _read(path)
    if known is not None:
        counts["found"] += 1
        return known
    code = _compile(text, thorough)
    counts["compiled"] += 1
    if path is not None:
        _write(path, code)
    return code


def _llvm_version() -> str:
    return ".".join(map(str, llvm.llvm_version_info))


def _target_machine() -> llvm.TargetMachine:
    """A new one each time, as an engine takes its own over."""
    found = host()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=found.cpu, features=found.features, opt=2, reloc="static", codemodel="jitdefault"
    )


def _compile(text: str, thorough: bool) -> bytes:
    with LOCK:
        machine = _target_machine()
        module = llvm.parse_assembly(text)
        module.triple = machine.triple
        module.data_layout = str(machine.target_data)
        optimise(module, machine, thorough)
        return machine.emit_object(module)


def optimise(module: llvm.ModuleRef, machine: llvm.TargetMachine, thorough: bool) -> None:
    """What kernels need: the code is vector code already, and loops are as meant."""
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    if thorough:
        builder.getModulePassManager().run(module, builder)
        return
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    passes.add_new_gvn_pass()
    passes.add_dead_store_elimination_pass()
    passes.add_aggressive_dce_pass()
    passes.add_simplify_cfg_pass()
    passes.run(module, builder)


def _folder_path(digest: str) -> Path | None:
    given = os.environ.get("SIMKIT_KERNEL_CACHE")
    if given == "":
        return None
    if given is not None:
        return Path(given) / digest
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None
    return folder / "simkit" / "kernels" / digest


def _read(path: Path) -> bytes | None:
    """The object in a file, if it is whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[len(_MARK) : len(_MARK) + 32], content[len(_MARK) + 32 :]
    whole = content.startswith(_MARK) and hashlib.sha256(code).digest() == digest
    return code if whole else None


def _write(path: Path, code: bytes) -> None:
    """Keep an object for other processes; a folder that cannot be written keeps none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(_MARK + hashlib.sha256(code).digest() + code)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
            raise
    except OSError:
        return
