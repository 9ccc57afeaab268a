"""Elementary functions of vectors, by range reduction and polynomials.

Errors are 1 to 2 units in the last place. What is rare, or rarely asked for, is left to the
C library, lane by lane. The reductions and rational forms are those of FDLIBM (Sun
Microsystems, 1993); fused products make most of its split constants needless.
"""

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from solvers.ensemble.native.build import F64, Build, nearest_bits


INFINITY = math.inf
LN2_HIGH = float.fromhex("0x1.62e42fefa39efp-1")
LN2_LOW = float.fromhex("0x1.abc9e3b39803fp-56")
HALF_PI = tuple(
    map(
        float.fromhex,
        ("0x1.921fb54442d18p+0", "0x1.1a62633145c07p-54", "-0x1.f1976b7ed8fbcp-110"),
    )
)
ROUNDER = 1.5 * 2.0**52
"""Added to a number, it leaves the nearest whole number in the lowest bits."""

GPU_TRIPLE = "nvptx64-nvidia-cuda"
"""What LLVM calls NVIDIA's GPUs."""

LARGEST_ANGLE = 1e9
"""Beyond it, angles are reduced by the C library."""

EXPM1 = (
    2.5105313423078524e-08,
    2.76202026313159e-07,
    2.7557255168123062e-06,
    2.4801521055364205e-05,
    0.00019841269875003973,
    0.0013888888917368964,
    0.008333333333326082,
    0.04166666666662382,
    0.1666666666666667,
    0.5000000000000001,
)
"""`(exp(r) - 1 - r) / r^2` for |r| up to log(2) / 2, economised by Chebyshev polynomials."""

LOG = (
    1.479819860511658591e-01,
    1.531383769920937332e-01,
    1.818357216161805012e-01,
    2.222219843214978396e-01,
    2.857142874366239149e-01,
    3.999999999940941908e-01,
    6.666666666666735130e-01,
)

SIN = (
    1.58969099521155010221e-10,
    -2.50507602534068634195e-08,
    2.75573137070700676789e-06,
    -1.98412698298579493134e-04,
    8.33333333332248946124e-03,
    -1.66666666666666324348e-01,
)

COS = (
    -1.13596475577881948265e-11,
    2.08757232129817482790e-09,
    -2.75573143513906633035e-07,
    2.48015872894767294178e-05,
    -1.38888888888741095749e-03,
    4.16666666666666019037e-02,
)


def _below(b: Build, a: Any, limit: float) -> Any:
    """The number, but not above the limit; no number stays so."""
    return b.select(b.less(b.real(limit), a), b.real(limit), a)


def _above(b: Build, a: Any, limit: float) -> Any:
    return b.select(b.less(a, b.real(limit)), b.real(limit), a)


def _power_of_two(b: Build, n: Any) -> Any:
    """`2^n` for whole `n` from -1022 to 1023."""
    shifted = b.to_bits(b.add(n, b.real(ROUNDER + 1023)))
    return b.from_bits(b.ir.shl(shifted, b.whole(52)))


def _nearest(b: Build, a: Any) -> Any:
    return b.sub(b.add(a, b.real(ROUNDER)), b.real(ROUNDER))


def _exp_reduced(b: Build, x: Any) -> tuple[Any, Any]:
    """Whole `n` and small `r` with `x = n log(2) + r`."""
    n = _nearest(b, b.mul(x, b.real(1 / math.log(2))))
    minus = b.neg(n)
    return n, b.fma(minus, b.real(LN2_LOW), b.fma(minus, b.real(LN2_HIGH), x))


def _expm1_small(b: Build, r: Any) -> Any:
    return b.fma(b.mul(r, r), b.polynomial(r, EXPM1), r)


def _exp_scaled(b: Build, p: Any, n: Any) -> Any:
    """`(1 + p) 2^n`, in two factors for what overflows or is denormal."""
    half = b.intrinsic("floor", b.mul(n, b.real(0.5)))
    first, second = _power_of_two(b, half), _power_of_two(b, b.sub(n, half))
    return b.mul(b.mul(b.add(b.real(1.0), p), first), second)


def exp(b: Build, x: Any) -> Any:
    """The exponential function."""
    n, r = _exp_reduced(b, _above(b, _below(b, x, 710.0), -750.0))
    return _exp_scaled(b, _expm1_small(b, r), n)


def expm1(b: Build, x: Any) -> Any:
    """`exp(x) - 1` without loss for small `x`."""
    n, r = _exp_reduced(b, _above(b, _below(b, x, 710.0), -700.0))
    # One power less, so that the largest results do not overflow on the way.
    scale = _power_of_two(b, b.sub(n, b.real(1.0)))
    half = b.fma(scale, _expm1_small(b, r), b.sub(scale, b.real(0.5)))
    result = b.add(half, half)
    return b.select(b.compare("==", x, b.real(0.0)), x, result)


def split(b: Build, x: Any) -> tuple[Any, Any]:
    """Whole `k` and `m` between sqrt(1/2) and sqrt(2) with `x = 2^k m`; positive normal."""
    root = nearest_bits(math.sqrt(0.5))
    moved = b.ir.sub(b.to_bits(x), b.whole(root))
    exponent = b.ir.lshr(b.ir.add(moved, b.whole(1 << 62)), b.whole(52))
    # The bits of 2^52 + exponent: whole numbers become reals by a subtraction.
    real = b.from_bits(b.ir.or_(exponent, b.whole(nearest_bits(2.0**52))))
    k = b.sub(real, b.real(2.0**52 + 1024))
    fraction = b.ir.and_(moved, b.whole((1 << 52) - 1))
    return k, b.from_bits(b.ir.add(fraction, b.whole(root)))


def _log_series(b: Build, k: Any, f: Any, correction: Any | None = None) -> Any:
    """`k log(2) + log(1 + f)`, with a small correction added."""
    s = b.div(f, b.add(b.real(2.0), f))
    z = b.mul(s, s)
    rest = b.mul(z, b.polynomial(z, LOG))
    half_square = b.mul(b.real(0.5), b.mul(f, f))
    low = b.mul(k, b.real(LN2_LOW))
    if correction is not None:
        low = b.add(low, correction)
    inner = b.sub(half_square, b.fma(s, b.add(half_square, rest), low))
    return b.fma(k, b.real(LN2_HIGH), b.sub(f, inner))


def _normal(b: Build, x: Any) -> tuple[Any, Any]:
    """The number times a power of two that makes it normal, and what to add to `k`."""
    tiny = b.less(x, b.real(2.0**-1022))
    scaled = b.select(tiny, b.mul(x, b.real(2.0**54)), x)
    return scaled, b.select(tiny, b.real(-54.0), b.real(0.0))


def log(b: Build, x: Any) -> Any:
    """The natural logarithm."""
    scaled, more = _normal(b, x)
    k, m = split(b, scaled)
    result = _log_series(b, b.add(k, more), b.sub(m, b.real(1.0)))
    return _log_edges(b, x, x, result)


def _log_edges(b: Build, x: Any, argument: Any, result: Any) -> Any:
    """Infinite at the ends, and no number beyond them."""
    zero = b.real(0.0)
    usual = b.both(b.less(zero, argument), b.less(argument, b.real(INFINITY)))
    at_zero = b.compare("==", argument, zero)
    ends = b.select(at_zero, b.real(-INFINITY), b.add(x, b.sqrt(argument)))
    return b.select(usual, result, ends)


def log1p(b: Build, x: Any) -> Any:
    """`log(1 + x)` without loss for small `x`."""
    one = b.real(1.0)
    u = b.add(one, x)
    k, m = split(b, u)
    close = b.compare("==", k, b.real(0.0))
    f = b.select(close, x, b.sub(m, one))
    # What rounding took from 1 + x.
    back = b.sub(u, one)
    lost = b.add(b.sub(x, back), b.sub(one, b.sub(u, back)))
    correction = b.select(close, b.real(0.0), b.div(lost, u))
    result = _log_edges(b, x, u, _log_series(b, k, f, correction))
    return b.select(b.compare("==", x, b.real(0.0)), x, result)


def _angle(b: Build, x: Any) -> tuple[Any, Any, Any]:
    """The quadrant's bits, and the angle in it with what rounding took."""
    shifted = b.fma(x, b.real(2 / math.pi), b.real(ROUNDER))
    minus = b.neg(b.sub(shifted, b.real(ROUNDER)))
    first = b.fma(minus, b.real(HALF_PI[0]), x)
    # The second part of the product is exact as two numbers, as little may be left of it.
    part = b.mul(minus, b.real(HALF_PI[1]))
    part_low = b.fma(minus, b.real(HALF_PI[1]), b.neg(part))
    r = b.add(first, part)
    lost = b.add(b.add(b.sub(first, r), part), part_low)
    return b.to_bits(shifted), r, b.fma(minus, b.real(HALF_PI[2]), lost)


def _sine_series(b: Build, r: Any, low: Any) -> Any:
    z = b.mul(r, r)
    rest = b.fma(b.mul(z, r), b.polynomial(z, SIN), low)
    return b.add(r, rest)


def _cosine_series(b: Build, r: Any, low: Any) -> Any:
    z = b.mul(r, r)
    half = b.mul(b.real(0.5), z)
    main = b.sub(b.real(1.0), half)
    lost = b.sub(b.sub(b.real(1.0), main), half)
    rest = b.sub(b.mul(b.mul(z, z), b.polynomial(z, COS)), b.mul(r, low))
    return b.add(main, b.add(lost, rest))


def _bit(b: Build, bits: Any, place: int) -> Any:
    one = b.ir.and_(bits, b.whole(1 << place))
    return b.ir.icmp_unsigned("!=", one, b.whole(0))


def sines_small(b: Build, x: Any) -> tuple[Any, Any]:
    """The sine and the cosine of angles below `LARGEST_ANGLE`."""
    quadrant, r, low = _angle(b, x)
    sine, cosine = _sine_series(b, r, low), _cosine_series(b, r, low)
    odd = _bit(b, quadrant, 0)
    first, second = b.select(odd, cosine, sine), b.select(odd, sine, cosine)
    flipped = _bit(b, b.ir.add(quadrant, b.whole(1)), 1)
    return (
        b.select(_bit(b, quadrant, 1), b.neg(first), first),
        b.select(flipped, b.neg(second), second),
    )


def _of_angle(b: Build, x: Any, name: str, small: Callable[[Any, Any], Any]) -> Any:
    result = small(*sines_small(b, x))
    far = b.both(b.less(b.real(LARGEST_ANGLE), b.abs(x)), b.is_finite(x))
    return by_library_where(b, far, name, (x,), result)


def sin(b: Build, x: Any) -> Any:
    """The sine."""
    result = _of_angle(b, x, "sin", lambda sine, cosine: sine)
    return b.select(b.compare("==", x, b.real(0.0)), x, result)


def cos(b: Build, x: Any) -> Any:
    """The cosine."""
    return _of_angle(b, x, "cos", lambda sine, cosine: cosine)


def tan(b: Build, x: Any) -> Any:
    """The tangent."""
    result = _of_angle(b, x, "tan", lambda sine, cosine: b.div(sine, cosine))
    return b.select(b.compare("==", x, b.real(0.0)), x, result)


def tanh(b: Build, x: Any) -> Any:
    """The hyperbolic tangent."""
    size = _below(b, b.abs(x), 22.0)
    n, r = _exp_reduced(b, b.add(size, size))
    scale = _power_of_two(b, n)
    grown = b.fma(scale, _expm1_small(b, r), b.sub(scale, b.real(1.0)))
    return b.copy_sign(b.div(grown, b.add(grown, b.real(2.0))), x)


def power(b: Build, x: Any, y: Any) -> Any:
    """`x` to the power of `y`."""
    k, m = split(b, x)
    high, low = _log_pair(b, k, b.sub(m, b.real(1.0)))
    product = b.mul(y, high)
    rest = b.fma(y, low, b.fma(y, high, b.neg(product)))
    bounded = _above(b, _below(b, product, 710.0), -750.0)
    n, r = _exp_reduced(b, bounded)
    result = _exp_scaled(b, _expm1_small(b, b.add(r, rest)), n)
    usual = b.both(
        b.both(b.compare(">=", x, b.real(2.0**-1022)), b.less(x, b.real(INFINITY))),
        b.less(b.abs(product), b.real(700.0)),
    )
    return by_library_where(b, b.opposite(usual), "pow", (x, y), result)


def _log_pair(b: Build, k: Any, f: Any) -> tuple[Any, Any]:
    """`k log(2) + log(1 + f)` as a sum of two numbers, the second small."""
    below = b.add(b.real(2.0), f)
    below_lost = b.sub(f, b.sub(below, b.real(2.0)))
    inverse = b.div(b.real(1.0), below)
    s = b.mul(f, inverse)
    remainder = b.sub(b.fma(b.neg(s), below, f), b.mul(s, below_lost))
    s_low = b.mul(remainder, inverse)
    z = b.mul(s, s)
    series = b.mul(b.mul(z, s), b.polynomial(z, ATANH))
    # The third power is large enough to need more digits than one number has.
    cube = b.mul(z, s)
    third = b.mul(cube, b.real(2 / 3))
    lost = b.fma(cube, b.real(2 / 3), b.neg(third))
    lost = b.fma(b.fma(z, s, b.neg(cube)), b.real(2 / 3), lost)
    lost = b.fma(b.mul(b.fma(s, s, b.neg(z)), s), b.real(2 / 3), lost)
    lost = b.fma(cube, b.real(TWO_THIRDS_LOW), lost)
    first, first_low = _two_sum(b, b.add(s, s), third)
    whole = b.mul(k, b.real(LN2_HIGH))
    whole_low = b.fma(k, b.real(LN2_HIGH), b.neg(whole))
    high, high_low = _two_sum(b, whole, first)
    small = b.fma(k, b.real(LN2_LOW), b.fma(b.real(2.0), s_low, b.add(whole_low, lost)))
    small = b.fma(b.mul(b.mul(b.real(2.0), z), s_low), b.real(1.0), small)
    small = b.add(b.add(small, b.mul(series, z)), b.add(first_low, high_low))
    return high, small


def _two_sum(b: Build, x: Any, y: Any) -> tuple[Any, Any]:
    """A sum and what rounding took from it."""
    total = b.add(x, y)
    back = b.sub(total, x)
    return total, b.add(b.sub(x, b.sub(total, back)), b.sub(y, back))


ATANH = tuple(2 / (2 * k + 1) for k in range(10, 1, -1))
"""`log((1 + s) / (1 - s)) = 2 s + 2/3 s^3 + s^5 (2/5 + 2/7 s^2 + ...)`."""

TWO_THIRDS_LOW = 2.0**-53 / 3
"""2/3 less the number nearest to it."""


def quick_power(b: Build, x: Any, exponent: float) -> Any:
    """`x` to a constant power for normal positive `x`, to some 12 digits: for step sizes."""
    k, m = split(b, x)
    f = b.sub(m, b.real(1.0))
    s = b.div(f, b.add(b.real(2.0), f))
    z = b.mul(s, s)
    series = [2 / math.log(2) * exponent / (2 * i + 1) for i in range(8, -1, -1)]
    whole = b.mul(k, b.real(exponent))
    logarithm = b.fma(s, b.polynomial_by_pairs(z, series), whole)
    n = _nearest(b, logarithm)
    return b.mul(b.polynomial_by_pairs(b.sub(logarithm, n), EXP2), _power_of_two(b, n))


EXP2 = (
    1.0208690835930368e-07,
    1.3259646250270447e-06,
    1.5252657257186038e-05,
    0.00015403433746224193,
    0.0013333558230170625,
    0.009618129193942166,
    0.055504108664447674,
    0.240226506956403,
    0.69314718055995,
    1.0000000000000135,
)


def by_library(b: Build, name: str, operands: tuple[Any, ...]) -> Any:
    """A function of the C library, lane by lane."""
    function = library_function(b.module, name, len(operands))
    result = b.real(0.0)
    for lane in range(b.lanes):
        place = ir.Constant(ir.IntType(32), lane)
        scalars = [b.ir.extract_element(x, place) for x in operands]
        result = b.ir.insert_element(result, b.ir.call(function, scalars), place)
    return result


def library_function(module: ir.Module, name: str, operands: int) -> ir.Function:
    """The declaration of a function of the C library, or on a GPU of libdevice."""
    if module.triple == GPU_TRIPLE:
        name = f"__nv_{name}"
    found = module.globals.get(name)
    if found is None:
        found = ir.Function(module, ir.FunctionType(F64, [F64] * operands), name)
    return found


def by_library_where(
    b: Build, rare: Any, name: str, operands: tuple[Any, ...], result: Any
) -> Any:
    """The result, but that of the C library where it is asked for."""
    before = b.ir.block
    calling, after = b.block("library"), b.block("known")
    some = b.ir.icmp_unsigned("!=", b.bits(rare), b.count(0))
    b.ir.cbranch(some, calling, after)
    b.ir.position_at_end(calling)
    exact = b.select(rare, by_library(b, name, operands), result)
    calling = b.ir.block
    b.ir.branch(after)
    b.ir.position_at_end(after)
    merged = b.ir.phi(b.reals)
    merged.add_incoming(result, before)
    merged.add_incoming(exact, calling)
    return merged


VECTORS: dict[str, Callable[..., Any]] = {
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "sin": sin,
    "cos": cos,
    "tan": tan,
    "tanh": tanh,
    "pow": power,
}
"""By the name of the operation of a program; each takes a `Build` and vectors."""

LIBRARY = {
    "cbrt": "cbrt",
    "asin": "asin",
    "acos": "acos",
    "atan": "atan",
    "atan2": "atan2",
    "sinh": "sinh",
    "cosh": "cosh",
    "asinh": "asinh",
    "acosh": "acosh",
    "atanh": "atanh",
    "erf": "erf",
    "erfc": "erfc",
    "lgamma": "lgamma",
    "rem": "fmod",
}
"""Functions of the C library by the name of the operation."""
