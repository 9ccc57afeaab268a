"""The handler that XLA calls, written as LLVM code: it finds a kernel and runs it on threads.

It speaks XLA's typed foreign function interface, whose structures are laid out as in
`xla/ffi/api/c_api.h` of jaxlib; `OFFSETS` has what is used of them, and a call with known
numbers at start-up checks them. Programs name a kernel by a number that is the same in all
processes, and the handler looks it up in a table: a kernel that is not there is an error of
the call.

There are two ways to be called. `handle` is for ensembles: its arrays are those of
`worker.CALL`, and the kernel is the work of one thread. `handle_arrays` takes any number of
arrays: the kernel runs on the calling thread alone, and spreads work over threads itself;
`array_call` says what it is given.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from solvers.ensemble.native.build import F64, I1, I32, I64, POINTER, Build
from solvers.ensemble.native.worker import CALL


OFFSETS = {
    "frame.extension": 8,
    "frame.api": 16,
    "frame.args.size": 56,
    "frame.args": 72,
    "frame.rets.size": 96,
    "frame.rets": 112,
    "frame.attrs.size": 136,
    "frame.attrs": 160,
    "extension.type": 8,
    "extension.metadata": 24,
    "metadata.major": 24,
    "metadata.minor": 28,
    "metadata.traits": 32,
    "buffer.data": 24,
    "buffer.rank": 32,
    "buffer.dims": 40,
    "scalar.value": 8,
    "api.create_error": 48,
}
"""Bytes from the begin of each structure."""

VERSION = (0, 1)
"""Of the interface, the oldest that XLA takes."""

OPERANDS, RESULTS = 8, 6
SLOTS = 1 << 13
"""Kernels that can be alive in a process, a power of two."""

ROW = 3
"""Words of the table for each kernel: its number, its address, and how many run it."""

MEMBERS_OF_A_THREAD = 16
"""Fewer members are not worth a thread."""

MOST_THREADS = 256
MOST_ARRAYS = 64
"""Operands and results of one call in all."""

NOT_FOUND, INTERNAL = 5, 13


def handler_module() -> ir.Module:
    """The handlers, `insert`, `remove`, `probe`, and the words `cores` and `busy`."""
    module = ir.Module("handler")
    table = _variable(module, "table", ir.ArrayType(I64, SLOTS * ROW))
    cores, busy = _variable(module, "cores", I64), _variable(module, "busy", I64)
    find = _find(module, table)
    _insert(module, find)
    _remove(module, find)
    _probe(module)
    spread = _spread(module, cores, busy)

    def run_members(b: Build, frame: Any, kernel: Any) -> None:
        call = _fill_call(b, frame)
        members = b.load(I64, call, CALL.index("members"))
        worth = b.ir.sdiv(members, b.count(MEMBERS_OF_A_THREAD))
        b.ir.call(spread, [kernel, call, worth])

    def run_arrays(b: Build, frame: Any, kernel: Any) -> None:
        _call_pointer(b, kernel, POINTER, [_arrays_of(b, frame, spread)])

    _handle(module, "handle", find, _check_sizes, run_members)
    _handle(module, "handle_arrays", find, _check_number, run_arrays)
    return module


def _variable(module: ir.Module, name: str, kind: Any) -> Any:
    made: Any = ir.GlobalVariable(module, kind, name)
    made.initializer = ir.Constant(kind, None if isinstance(kind, ir.ArrayType) else 0)
    made.align = 8
    made.type = POINTER
    return made


def _function(module: ir.Module, name: str, result: Any, *kinds: Any) -> Any:
    return ir.Function(module, ir.FunctionType(result, kinds), name)


def _field(b: Build, base: Any, name: str, kind: Any) -> Any:
    """A field of a structure, by its offset."""
    place = b.ir.gep(base, [b.count(OFFSETS[name])], source_etype=ir.IntType(8))
    return b.ir.load(place, typ=kind, align=4)


def _put_field(b: Build, base: Any, name: str, value: int) -> None:
    place = b.ir.gep(base, [b.count(OFFSETS[name])], source_etype=ir.IntType(8))
    b.ir.store(ir.Constant(I32, value), place, align=4)


def _find(module: ir.Module, table: Any) -> Any:
    """`find(number, free)`: the row of a kernel, else null.

    With `free`, a row that it can have: the first in its chain that is not in use.
    """
    find = _function(module, "find", POINTER, I64, I1)
    find.linkage = "internal"
    b = Build(find, 1)
    number, free = find.args
    usable = b.space(POINTER)
    null = ir.Constant(POINTER, None)
    b.store(null, usable)
    before = b.ir.block
    head, used, on, end = (b.block(name) for name in ("head", "used", "on", "end"))
    b.ir.branch(head)
    b.ir.position_at_end(head)
    step = b.ir.phi(I64)
    step.add_incoming(b.count(0), before)
    slot = b.ir.and_(b.ir.add(number, step), b.count(SLOTS - 1))
    row = b.at(I64, table, b.ir.mul(slot, b.count(ROW)))
    found = b.ir.load_atomic(row, "seq_cst", 8, typ=I64)
    matching = b.ir.icmp_signed("==", found, number)
    with b.ir.if_then(matching):
        b.ir.ret(row)
    empty = b.ir.icmp_signed("==", found, b.count(0))
    b.ir.cbranch(empty, end, used)
    b.ir.position_at_end(used)
    address = b.ir.load_atomic(b.at(I64, row, 1), "seq_cst", 8, typ=I64)
    running = b.ir.load_atomic(b.at(I64, row, 2), "seq_cst", 8, typ=I64)
    left = b.ir.icmp_signed("==", b.ir.or_(address, running), b.count(0))
    first = b.ir.icmp_unsigned("==", b.load(POINTER, usable), null)
    with b.ir.if_then(b.ir.and_(left, first)):
        b.store(row, usable)
    b.ir.branch(on)
    b.ir.position_at_end(on)
    following = b.ir.add(step, b.count(1))
    step.add_incoming(following, b.ir.block)
    full = b.ir.icmp_signed("==", following, b.count(SLOTS))
    last = b.block("last")
    b.ir.cbranch(full, last, head)
    b.ir.position_at_end(end)
    first = b.ir.icmp_unsigned("==", b.load(POINTER, usable), null)
    with b.ir.if_then(first):
        b.store(row, usable)
    b.ir.branch(last)
    b.ir.position_at_end(last)
    b.finish(b.ir.select(free, b.load(POINTER, usable), null))
    return find


def _insert(module: ir.Module, find: Any) -> None:
    """`insert(number, address)`: whether there was room; one caller at a time."""
    insert = _function(module, "insert", I64, I64, I64)
    b = Build(insert, 1)
    number, address = insert.args
    row = b.ir.call(find, [number, ir.Constant(I1, 1)])
    none = b.ir.icmp_unsigned("==", row, ir.Constant(POINTER, None))
    with b.ir.if_then(none):
        b.ir.ret(b.count(0))
    b.ir.atomic_rmw("xchg", b.at(I64, row, 1), address, "seq_cst")
    b.ir.atomic_rmw("xchg", row, number, "seq_cst")
    b.finish(b.count(1))


def _remove(module: ir.Module, find: Any) -> None:
    """`remove(number)`: how many calls still run the kernel, which no more can begin."""
    remove = _function(module, "remove", I64, I64)
    b = Build(remove, 1)
    row = b.ir.call(find, [remove.args[0], ir.Constant(I1, 0)])
    none = b.ir.icmp_unsigned("==", row, ir.Constant(POINTER, None))
    with b.ir.if_then(none):
        b.ir.ret(b.count(0))
    b.ir.atomic_rmw("xchg", b.at(I64, row, 1), b.count(0), "seq_cst")
    b.finish(b.ir.load_atomic(b.at(I64, row, 2), "seq_cst", 8, typ=I64))


def _probe(module: ir.Module) -> None:
    """A kernel that tells what it was called with, to check `OFFSETS`."""
    probe = _function(module, "probe", POINTER, POINTER)
    b = Build(probe, 1)

    def word(name: str, kind: Any = I64) -> Any:
        return b.load(kind, probe.args[0], CALL.index(name))

    def at(name: str, i: int, kind: Any = F64) -> Any:
        return b.load(kind, word(name, POINTER), i)

    setting = b.ir.fsub(at("settings", 0), F64(11.0))
    sums = [b.ir.fadd(b.ir.fadd(at("start", i), at("stop", i)), setting) for i in range(2)]
    for i, value in enumerate(sums):
        b.store(value, word("final_time", POINTER), i)
    for i, name in enumerate(("initial", "varied", "shared", "times")):
        b.store(at(name, 0), word("saved", POINTER), i)
    sizes = [word(name) for name in ("members", "saves", "times_stride", "key_words")]
    b.store(sizes[0], word("accepted", POINTER), 0)
    b.store(sizes[1], word("accepted", POINTER), 1)
    b.store(sizes[2], word("rejected", POINTER), 0)
    b.store(sizes[3], word("rejected", POINTER), 1)
    b.store(at("keys", 0, I32), word("status", POINTER), 0)
    b.store(at("keys", 1, I32), word("status", POINTER), 1)
    for i in range(2):
        b.store(F64(7.0 + i), word("final_state", POINTER), i)
    b.finish(ir.Constant(POINTER, None))


def _handle(
    module: ir.Module,
    name: str,
    find: Any,
    check: Callable[[Build, Any], None],
    run: Callable[[Build, Any, Any], None],
) -> None:
    """A handler: metadata, or one call, checked and run from the frame of XLA."""
    handle = _function(module, name, POINTER, POINTER)
    b = Build(handle, 1)
    frame = handle.args[0]
    null = ir.Constant(POINTER, None)
    extension = _field(b, frame, "frame.extension", POINTER)
    with b.ir.if_then(b.ir.icmp_unsigned("!=", extension, null)):
        kind = _field(b, extension, "extension.type", I32)
        with b.ir.if_then(b.ir.icmp_signed("==", kind, ir.Constant(I32, 1))):
            metadata = _field(b, extension, "extension.metadata", POINTER)
            _put_field(b, metadata, "metadata.major", VERSION[0])
            _put_field(b, metadata, "metadata.minor", VERSION[1])
            _put_field(b, metadata, "metadata.traits", 0)
            b.ir.ret(null)
    check(b, frame)
    attributes = _field(b, frame, "frame.attrs", POINTER)
    scalar = b.load(POINTER, attributes, 0)
    number = b.load(I64, _field(b, scalar, "scalar.value", POINTER), 0)
    row = b.ir.call(find, [number, ir.Constant(I1, 0)])
    missing = "The compiled kernel of this program is not in this process; trace it anew."
    with b.ir.if_then(b.ir.icmp_unsigned("==", row, null)):
        b.ir.ret(_error(b, frame, missing, NOT_FOUND))
    running = b.at(I64, row, 2)
    b.ir.atomic_rmw("add", running, b.count(1), "seq_cst")
    address = b.ir.load_atomic(b.at(I64, row, 1), "seq_cst", 8, typ=I64)
    with b.ir.if_then(b.ir.icmp_signed("==", address, b.count(0))):
        b.ir.atomic_rmw("sub", running, b.count(1), "seq_cst")
        b.ir.ret(_error(b, frame, missing, NOT_FOUND))
    run(b, frame, b.ir.inttoptr(address, POINTER))
    b.ir.atomic_rmw("sub", running, b.count(1), "seq_cst")
    b.finish(null)


def _check_sizes(b: Build, frame: Any) -> None:
    for name, expected in (("args", OPERANDS), ("rets", RESULTS), ("attrs", 1)):
        size = _field(b, frame, f"frame.{name}.size", I64)
        _refuse_if(b, frame, b.ir.icmp_signed("!=", size, b.count(expected)))


def _check_number(b: Build, frame: Any) -> None:
    sizes = [_field(b, frame, f"frame.{name}.size", I64) for name in ("args", "rets")]
    most = b.count(MOST_ARRAYS)
    _refuse_if(b, frame, b.ir.icmp_unsigned(">", b.ir.add(*sizes), most))
    attributes = _field(b, frame, "frame.attrs.size", I64)
    _refuse_if(b, frame, b.ir.icmp_signed("!=", attributes, b.count(1)))


def _refuse_if(b: Build, frame: Any, wrong: Any) -> None:
    with b.ir.if_then(wrong):
        message = "This version of XLA lays out its calls in an unknown way."
        b.ir.ret(_error(b, frame, message, INTERNAL))


def _error(b: Build, frame: Any, message: str, code: int) -> Any:
    """An error of XLA's."""
    text = bytearray(message.encode() + b"\0")
    kind = ir.ArrayType(ir.IntType(8), len(text))
    known = f"message{code}"
    holder: Any = b.module.globals.get(known)
    if holder is None:
        holder = ir.GlobalVariable(b.module, kind, known)
        holder.initializer = ir.Constant(kind, text)
        holder.global_constant = True
    arguments = b.space(I64, 4)
    # The size of the structure, an empty extension, the message and the code.
    b.store(b.count(28), arguments, 0)
    b.store(b.count(0), arguments, 1)
    b.store(holder, arguments, 2)
    b.store(b.count(code), arguments, 3)
    api = _field(b, frame, "frame.api", POINTER)
    create = _field(b, api, "api.create_error", POINTER)
    return _call_pointer(b, create, POINTER, [arguments])


def _call_pointer(b: Build, address: Any, result: Any, operands: list[Any]) -> Any:
    """Call a function by its address."""
    kind = ir.FunctionType(result, [x.type for x in operands])
    # Only so does llvmlite know what is called.
    typed = b.ir.inttoptr(b.ir.ptrtoint(address, I64), kind.as_pointer())
    return b.ir.call(typed, operands)


def _fill_call(b: Build, frame: Any) -> Any:
    """The words of a call, from the buffers of XLA."""
    call = b.space(I64, len(CALL))
    inputs = _field(b, frame, "frame.args", POINTER)
    results = _field(b, frame, "frame.rets", POINTER)
    buffers = [b.load(POINTER, inputs, i) for i in range(OPERANDS)]
    buffers += [b.load(POINTER, results, i) for i in range(RESULTS)]
    for i, buffer in enumerate(buffers):
        b.store(_field(b, buffer, "buffer.data", POINTER), call, i)

    def size(name: str, axis: Any) -> Any:
        dims = _field(b, buffers[CALL.index(name)], "buffer.dims", POINTER)
        return b.load(I64, dims, axis)

    rank = _field(b, buffers[CALL.index("times")], "buffer.rank", I64)
    own = b.ir.icmp_signed("==", rank, b.count(2))
    saves = size("times", b.ir.zext(own, I64))
    words = {
        "members": size("start", 0),
        "saves": saves,
        "times_stride": b.ir.select(own, saves, b.count(0)),
        "key_words": size("keys", 1),
        "queue": b.count(0),
    }
    for name, value in words.items():
        b.store(value, call, CALL.index(name))
    return call


def _arrays_of(b: Build, frame: Any, spread: Any) -> Any:
    """What a kernel of arrays is called with: see `array_call`."""
    call = b.space(I64, 1 + 2 * MOST_ARRAYS)
    b.store(spread, call, 0)
    made = b.space(I64)
    b.store(b.count(1), made)
    for name in ("args", "rets"):
        buffers = _field(b, frame, f"frame.{name}", POINTER)

        def one(i: Any, buffers: Any = buffers) -> None:
            buffer = b.load(POINTER, buffers, i)
            place = b.load(I64, made)
            b.store(_field(b, buffer, "buffer.data", POINTER), call, place)
            b.store(
                _field(b, buffer, "buffer.dims", POINTER), call, b.ir.add(place, b.count(1))
            )
            b.store(b.ir.add(place, b.count(2)), made)

        b.loop(_field(b, frame, f"frame.{name}.size", I64), one)
    return call


def _spread(module: ir.Module, cores: Any, busy: Any) -> Any:
    """`spread(work, argument, most)`: run `work(argument)` on this thread and on others.

    There are as many as there are idle cores, and `most` at most; it returns when all are
    done. With no idle core the work runs once, on this thread: it must take its parts from
    a counter.
    """
    spread = _function(module, "spread", ir.VoidType(), POINTER, POINTER, I64)
    spread.linkage = "internal"
    b = Build(spread, 1)
    kernel, call, worth = spread.args
    one, null = b.count(1), ir.Constant(POINTER, None)
    create = _function(b.module, "pthread_create", I32, POINTER, POINTER, POINTER, POINTER)
    join = _function(b.module, "pthread_join", I32, I64, POINTER)

    def smaller(x: Any, y: Any) -> Any:
        return b.ir.select(b.ir.icmp_signed("<", x, y), x, y)

    taken = b.ir.load_atomic(busy, "seq_cst", 8, typ=I64)
    idle = b.ir.sub(b.ir.load_atomic(cores, "seq_cst", 8, typ=I64), taken)
    wanted = smaller(smaller(idle, worth), b.count(MOST_THREADS))
    wanted = b.ir.select(b.ir.icmp_signed("<", wanted, one), one, wanted)
    b.ir.atomic_rmw("add", busy, wanted, "seq_cst")
    threads, made = b.space(I64, MOST_THREADS), b.space(I64)
    b.store(b.count(0), made)

    def start(i: Any) -> None:
        del i
        number = b.load(I64, made)
        place = b.at(I64, threads, number)
        failed = b.ir.call(create, [place, null, kernel, call])
        # Without a thread the others do its work.
        started = b.ir.icmp_signed("==", failed, ir.Constant(I32, 0))
        b.store(b.ir.add(number, b.ir.zext(started, I64)), made)

    b.loop(b.ir.sub(wanted, one), start)
    _call_pointer(b, kernel, POINTER, [call])
    b.loop(
        b.load(I64, made),
        lambda i: b.ir.call(join, [b.load(I64, threads, i), null]),
    )
    b.ir.atomic_rmw("sub", busy, wanted, "seq_cst")
    b.finish()
    return spread
