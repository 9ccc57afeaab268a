"""Normal numbers from counters: they depend on a member's key and its step alone.

Philox4x32-10 gives the bits and the method of Box and Muller the normal numbers. One block
of bits serves one Wiener process in two steps, an even one and the next.

References: J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, *Parallel random numbers:
as easy as 1, 2, 3*, SC11 (2011); G. E. P. Box and M. E. Muller, Ann. Math. Stat. 29, 610
(1958).
"""

import math
from typing import Any

from llvmlite import ir

from solvers.ensemble.native.build import I64, Build, nearest_bits
from solvers.ensemble.native.functions import COS, LN2_HIGH, LOG, ROUNDER, SIN, split
from solvers.ensemble.native.worker import Worker


ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
LOW = (1 << 32) - 1

WORDS = 4
"""Words of a key that count."""


def load_key(w: Worker, member: Any, lane: Any) -> None:
    """Read a member's key into a lane; words that it does not have are zero."""
    b = w.build
    part, given = w.memory.part("key"), w.word("key_words")
    row = b.ir.mul(member, given)
    for i in range(WORDS):
        place = part.lane(i, lane)
        b.store(b.count(0), place)
        with b.ir.if_then(b.ir.icmp_signed("<", b.count(i), given)):
            word = b.load(ir.IntType(32), w.word("keys"), b.ir.add(row, b.count(i)))
            b.store(b.ir.zext(word, I64), place)


def normal_pair(w: Worker, process: int) -> tuple[Any, Any]:
    """Normal numbers of a Wiener process for this step, an even one, and the next."""
    b, memory = w.build, w.memory
    words = [b.load(b.wholes, memory.part("key").pointer, i) for i in range(WORDS)]
    pair = b.mul(memory.get("accepted"), b.real(0.5))
    bits = b.to_bits(b.add(pair, b.real(2.0**52)))
    bits = b.ir.and_(bits, b.whole((1 << 52) - 1))
    index = b.ir.xor(b.whole(process), words[2])
    counter = [bits, b.ir.lshr(bits, b.whole(32)), index, words[3]]
    first, second = philox(b, counter, words[:2])
    return box_muller(b, first, second)


def philox(b: Build, counter: list[Any], key: list[Any]) -> tuple[Any, Any]:
    """128 random bits as two whole numbers; of all words given the low 32 bits count."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0 = _product(b, MULTIPLIERS[0], c0)
        product1 = _product(b, MULTIPLIERS[1], c2)
        c0 = b.ir.xor(b.ir.xor(_high(b, product1), c1), k0)
        c2 = b.ir.xor(b.ir.xor(_high(b, product0), c3), k1)
        c1, c3 = product1, product0
        k0 = b.ir.add(k0, b.whole(KEY_STEPS[0]))
        k1 = b.ir.add(k1, b.whole(KEY_STEPS[1]))
    return _join(b, c0, c1), _join(b, c2, c3)


def _product(b: Build, multiplier: int, word: Any) -> Any:
    return b.ir.mul(b.whole(multiplier), b.ir.and_(word, b.whole(LOW)))


def _high(b: Build, word: Any) -> Any:
    return b.ir.lshr(word, b.whole(32))


def _join(b: Build, low: Any, high: Any) -> Any:
    return b.ir.or_(b.ir.and_(low, b.whole(LOW)), b.ir.shl(high, b.whole(32)))


def _from_one_to_two(b: Build, bits: Any) -> Any:
    fraction = b.ir.lshr(bits, b.whole(12))
    return b.from_bits(b.ir.or_(fraction, b.whole(nearest_bits(1.0))))


def box_muller(b: Build, first: Any, second: Any) -> tuple[Any, Any]:
    """Two independent normal numbers from two random whole numbers."""
    uniform = b.sub(b.real(2.0), _from_one_to_two(b, first))
    radius = b.sqrt(b.mul(b.real(-2.0), _log(b, uniform)))
    turn = b.sub(_from_one_to_two(b, second), b.real(1.5))
    sine, cosine = _of_turn(b, turn)
    return b.mul(radius, cosine), b.mul(radius, sine)


def _log(b: Build, x: Any) -> Any:
    """The logarithm of numbers from 2^-52 to 1; never positive."""
    k, m = split(b, x)
    f = b.sub(m, b.real(1.0))
    s = b.div(f, b.add(b.real(2.0), f))
    z = b.mul(s, s)
    series = b.fma(b.mul(s, z), b.polynomial(z, LOG), b.add(s, s))
    return b.minimum(b.fma(k, b.real(LN2_HIGH), series), b.real(0.0))


def _of_turn(b: Build, turn: Any) -> tuple[Any, Any]:
    """Sine and cosine of an angle in turns, from -1/2 to 1/2."""
    shifted = b.fma(turn, b.real(4.0), b.real(ROUNDER))
    quadrant = b.to_bits(shifted)
    rest = b.fma(b.sub(shifted, b.real(ROUNDER)), b.real(-0.25), turn)
    r = b.mul(rest, b.real(2 * math.pi))
    z = b.mul(r, r)
    sine = b.fma(b.mul(z, r), b.polynomial(z, SIN), r)
    cosine = b.fma(z, b.fma(z, b.polynomial(z, COS), b.real(-0.5)), b.real(1.0))
    odd = b.ir.icmp_unsigned("!=", b.ir.and_(quadrant, b.whole(1)), b.whole(0))
    first, second = b.select(odd, cosine, sine), b.select(odd, sine, cosine)
    # The second lowest bit of the quadrant becomes the sign.
    sign = b.ir.shl(b.ir.lshr(quadrant, b.whole(1)), b.whole(63))
    turned = b.ir.shl(b.ir.lshr(b.ir.add(quadrant, b.whole(1)), b.whole(1)), b.whole(63))
    return (
        b.from_bits(b.ir.xor(b.to_bits(first), sign)),
        b.from_bits(b.ir.xor(b.to_bits(second), turned)),
    )
