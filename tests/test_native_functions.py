"""Elementary functions of kernels against NumPy, over wide ranges and at all edges."""

import ctypes
from typing import Any

import numpy as np
import pytest


pytest.importorskip("llvmlite", reason="kernels need llvmlite (the extra `native`)")

from llvmlite import ir

from solvers.ensemble.native.build import I64, POINTER, Build
from solvers.ensemble.native.compile import Machine, object_code
from solvers.ensemble.native.driver import kernel_module
from solvers.ensemble.native.emit import apply, emit
from solvers.ensemble.native.functions import LIBRARY, VECTORS, quick_power
from solvers.ensemble.native.noise import box_muller, philox
from solvers.ensemble.scalarise.constants import FUNCTIONS
from solvers.ensemble.scalarise.program import Operation, Program


LANES = 8
TWO_OPERANDS = ("pow", "atan2", "rem", "min", "max")
ONE_OPERAND = (
    *(name for name in (*VECTORS, *LIBRARY) if name not in (*TWO_OPERANDS, "lgamma")),
    "sqrt", "floor", "ceil", "round", "sign", "abs", "neg",
)  # fmt: skip
EDGES = np.array(
    [
        0.0, np.inf, np.nan, 5e-324, 1e-310, 2.3e-308, 1e-300, 1e-17, 1e-8, 0.5, 0.999999, 1,
        1.5, 2, 3, 22, 708.5, 709.7, 709.79, 710.5, 745, 745.2, 746, 1e300, 1.7e308,
    ]
)  # fmt: skip


def _add_function(module, name, operands, body):
    """`name(x..., result, count)`: arrays of reals through a body, vector by vector."""
    kinds = [POINTER] * (operands + 1) + [I64]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), f"test_{name}")
    b = Build(function, LANES)

    def one(i):
        values = [b.load(b.reals, place, i) for place in function.args[:operands]]
        b.store(body(b, *values), function.args[operands], i)

    b.loop(function.args[-1], one)
    b.finish()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    module = ir.Module("functions")
    for name in (*ONE_OPERAND, *TWO_OPERANDS, "lgamma"):
        count = 2 if name in TWO_OPERANDS else 1
        _add_function(module, name, count, lambda b, *x, name=name: apply(b, name, list(x)))
    _add_function(module, "quick", 1, lambda b, x: quick_power(b, x, -0.1))
    _add_function(
        module,
        "normal",
        2,
        lambda b, key, i: box_muller(
            b,
            *philox(
                b,
                [b.to_bits(i), b.whole(0), b.whole(0), b.whole(0)],
                [b.to_bits(key), b.whole(7)],
            ),
        )[0],
    )
    product = Program(
        3,
        (Operation("mul", (0, 1)), Operation("sub", (2, 3)), Operation("sub", (4, 1.0))),
        (5,),
    )
    _add_function(module, "fused", 2, lambda b, x, y: emit(b, product, [x, y, b.real(1.0)])[0])
    machine = Machine(object_code(str(module)))

    def call(name, *operands):
        arrays = [np.ascontiguousarray(x, dtype=float) for x in np.broadcast_arrays(*operands)]
        size = arrays[0].size
        padded = [np.concatenate([x, np.ones(-size % LANES)]) for x in arrays]
        result = np.empty_like(padded[0])
        kinds = [ctypes.c_void_p] * (len(arrays) + 1)
        function = ctypes.CFUNCTYPE(None, *kinds, ctypes.c_int64)(
            machine.address(f"test_{name}")
        )
        places = [x.ctypes.data for x in (*padded, result)]
        function(*places, result.size // LANES)
        return result[:size]

    yield call
    machine.close()


def _units(found, right):
    """Differences in units in the last place; equal and equally undefined is none."""
    with np.errstate(all="ignore"):
        units = np.abs(found - right) / np.spacing(np.abs(right))
    same = (found == right) | (np.isnan(found) & np.isnan(right))
    return np.where(same, 0.0, np.nan_to_num(units, nan=np.inf))


def _numbers(rng):
    both = np.concatenate([EDGES, -EDGES])
    wide = rng.uniform(-1, 1, 20_000) * 10.0 ** rng.integers(-300, 300, 20_000)
    ranges = [rng.uniform(-size, size, 20_000) for size in (1, 40, 750)]
    return np.concatenate([both, wide, *ranges])


@pytest.mark.parametrize("name", ONE_OPERAND)
def test_functions_of_one_number_are_right_to_the_last_places(run, name):
    rng = np.random.default_rng(0)
    x = _numbers(rng)
    if name in ("sin", "cos", "tan"):
        near_roots = np.arange(2000) * (np.pi / 2)
        x = np.concatenate([x, rng.uniform(-1e9, 1e9, 20_000), near_roots])
    with np.errstate(all="ignore"):
        right = FUNCTIONS[name](x)
    found = run(name, x)
    assert _units(found, right).max() <= 3
    numbers = (right != 0) & ~np.isnan(right) if name == "sign" else ~np.isnan(right)
    np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(right[numbers]))


@pytest.mark.parametrize("name", TWO_OPERANDS)
def test_functions_of_two_numbers_are_right_to_the_last_places(run, name):
    rng = np.random.default_rng(1)
    both = np.concatenate([EDGES, -EDGES])
    x = np.concatenate([np.exp(rng.uniform(-300, 300, 20_000)), np.repeat(both, both.size)])
    y = np.concatenate([rng.uniform(-3, 3, 20_000), np.tile(both, both.size)])
    with np.errstate(all="ignore"):
        right = FUNCTIONS[name](x, y)
    assert _units(run(name, x, y), right).max() <= 2


def test_the_logarithm_of_the_gamma_function(run):
    # Near its roots Python's own, with which this is compared, loses digits.
    x = np.exp(np.random.default_rng(5).uniform(-20, 20, 5_000))
    np.testing.assert_allclose(run("lgamma", x), FUNCTIONS["lgamma"](x), 1e-13, 1e-15)


def test_the_power_of_step_sizes_has_twelve_digits(run):
    x = np.exp(np.random.default_rng(2).uniform(-130, 130, 20_000))
    np.testing.assert_allclose(run("quick", x), x**-0.1, rtol=1e-12)


def test_a_product_in_a_difference_is_fused(run):
    x = 1 + 2.0**-30
    # 1 - x x - 1 is -x x; with one rounding of 1 - x x, all digits of the product count.
    exact = -(2.0**-29 + 2.0**-60)
    assert run("fused", np.full(8, x), np.full(8, x))[0] == exact - 1


def test_noise_is_normal_and_keys_are_independent(run):
    count = 40_000
    numbers = np.arange(count, dtype=np.int64).view(float)
    key = np.full(count, 3, dtype=np.int64).view(float)
    z = run("normal", key, numbers)
    other = run("normal", np.full(count, 4, dtype=np.int64).view(float), numbers)
    assert np.isfinite(z).all()
    sigma = count**-0.5
    assert abs(z.mean()) < 4 * sigma
    assert abs(z.var() - 1) < 4 * np.sqrt(2) * sigma
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96) * sigma
    assert abs((z * other).mean()) < 4 * sigma
    assert abs((z[1:] * z[:-1]).mean()) < 4 * sigma


def test_philox_gives_the_published_bits():
    # Known answers of Random123 1.14, kat_vectors, philox4x32 10.
    module = ir.Module("philox")
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [POINTER, POINTER]), "test_philox"
    )
    b = Build(function, 1)
    words = [b.load(b.wholes, function.args[0], i) for i in range(6)]
    for i, value in enumerate(philox(b, words[:4], words[4:])):
        b.store(value, function.args[1], i)
    b.finish()
    machine = Machine(object_code(str(module)))
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(
        machine.address("test_philox")
    )
    for given, right in (
        ([0] * 6, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ([0xFFFFFFFF] * 6, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ):
        words_in, out = np.array(given, np.uint64), np.zeros(2, np.uint64)
        call(words_in.ctypes.data, out.ctypes.data)
        assert tuple(out.view(np.uint32).tolist()) == right
    machine.close()


def test_kernels_have_a_power_of_two_of_lanes() -> None:
    nothing: Any = None
    with pytest.raises(ValueError, match="12 lanes: expected a power of two"):
        kernel_module(nothing, 12)
