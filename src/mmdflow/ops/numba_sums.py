"""Sums of radial kernels, compiled by numba: one fused loop a dimension up to 16, and the elementwise pass of the product path.

All compiled code of the sums is in this one file, whose time of change decides whether numba's cache on disk still holds: after
a change of profiles.py, or of what numba_ranks.py and numba_hadamard.py take from here, touch them too.

The arithmetic is written out for LLVM's vectoriser, which stops at calls. For float32 the polynomials are minimax in relative
error (fitted by Lawson's iteration): 2^f on [-1/2, 1/2] to 9.1e-8 with 2^0 = 1, log2 on [sqrt(1/2), sqrt(2)] to 7e-10; for
float64 they are Taylor's, to 1e-16.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, no_type_check

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

from mmdflow.kernels.profiles import LOG2E, Decay, Distance, Exponential, InverseRoot, Power


def compiled(fastmath: set[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that compiles functions at their first call, and keeps the code on disk where numba may write to one."""

    def jit(function: Callable[..., Any]) -> Callable[..., Any]:
        options = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache can be written
            return njit(**options)(function)

    return jit


#: Sums may be reordered and products fused; NaN and infinity keep their meaning.
jit = compiled({"reassoc", "contract", "nsz", "arcp"})

_inlined = functools.partial(overload, jit_options={"forceinline": True})

_FLOAT = {types.int32: types.float32, types.int64: types.float64}
_BITS = {real: integer for integer, real in _FLOAT.items()}


@intrinsic
@no_type_check
def as_float(typing, bits):
    """The floating number of these bits."""
    return _FLOAT[bits](bits), _bitcast


@intrinsic
@no_type_check
def as_bits(typing, value):
    """The bits of a floating number."""
    return _BITS[value](value), _bitcast


@no_type_check
def _bitcast(context, builder, signature, args):
    return builder.bitcast(args[0], context.get_value_type(signature.return_type))


@intrinsic
@no_type_check
def use_widest_vectors(typing):
    """Let LLVM take 512 bits where the machine has them, in the function that calls this first; it would take 256."""

    def code(context, builder, signature, args):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite lists no attributes with values
        return context.get_dummy_value()

    return types.void(), code


_f4, _i4, _i8 = np.float32, np.int32, np.int64

_E1, _E2, _E3, _E4, _E5 = map(
    _f4, (0.6931469775991634, 0.24022242085375908, 0.05550733743250334, 0.009671512639612951, 0.0013264727197691056)
)
_T1, _T2, _T3, _T4, _T5, _T6, _T7, _T8, _T9, _T10, _T11, _T12, _T13 = (
    math.log(2) ** k / math.factorial(k) for k in range(1, 14)
)
_L0, _L1, _L2, _L3 = map(_f4, (2.8853900797888254, 0.9617988476928035, 0.5767143789467201, 0.43173600666588574))
_D0, _D1, _D2, _D3, _D4, _D5, _D6, _D7, _D8, _D9, _D10 = (2 * LOG2E / (2 * k + 1) for k in range(11))


@no_type_check
def exp2(t):
    """2^t for t < 127 (float32) or 1023; 0 below the normal numbers."""
    raise NotImplementedError


@_inlined(exp2)
@no_type_check
def _exp2(t):
    if t == types.float32:
        one, low, turn, shift, bias, place = _f4(1), _f4(-127), _f4(128.5), _i4(128), _i4(127), _i4(23)

        def single(t):
            t = low if t < low else t
            n = _i4(_i4(t - turn) + shift)  # numbers below 0 are truncated up: the nearest integer
            f = t - _f4(n)
            p = one + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * _E5))))
            return p * as_float(_i4(_i4(n + bias) << place))

        return single

    shift, bias, place = _i8(1024), _i8(1023), _i8(52)

    def double(t):
        t = -1023.0 if t < -1023.0 else t
        n = _i8(t - 1024.5) + shift
        f = t - np.float64(n)
        p = _T8 + f * (_T9 + f * (_T10 + f * (_T11 + f * (_T12 + f * _T13))))
        p = 1.0 + f * (_T1 + f * (_T2 + f * (_T3 + f * (_T4 + f * (_T5 + f * (_T6 + f * (_T7 + f * p)))))))
        return p * as_float((n + bias) << place)

    return double


@no_type_check
def log2(u):
    """The binary logarithm of a normal u > 0; -127 (float32) or -1023 at 0."""
    raise NotImplementedError


@_inlined(log2)
@no_type_check
def _log2(u):
    if u == types.float32:
        one, root, place = _f4(1), _i4(0x3F3504F3), _i4(23)  # sqrt(1/2)

        def single(u):
            bits = as_bits(u)
            e = _i4(_i4(bits - root) >> place)
            m = as_float(_i4(bits - _i4(e << place)))
            t = (m - one) / (m + one)
            t2 = t * t
            return _f4(e) + t * (_L0 + t2 * (_L1 + t2 * (_L2 + t2 * _L3)))

        return single

    root, place = _i8(0x3FE6A09E667F3BCD), _i8(52)

    def double(u):
        bits = as_bits(u)
        e = (bits - root) >> place
        m = as_float(bits - (e << place))
        t = (m - 1.0) / (m + 1.0)
        t2 = t * t
        p = _D5 + t2 * (_D6 + t2 * (_D7 + t2 * (_D8 + t2 * (_D9 + t2 * _D10))))
        return np.float64(e) + t * (_D0 + t2 * (_D1 + t2 * (_D2 + t2 * (_D3 + t2 * (_D4 + t2 * p)))))

    return double


@no_type_check
def rsqrt(u):
    """u^-1/2 for u >= 0; large and finite at 0, so that its product with 0 is 0."""
    raise NotImplementedError


@_inlined(rsqrt)
@no_type_check
def _rsqrt(u):
    if u == types.float32:
        one, least, greatest = _f4(1), _f4(1e-36), _f4(3e38)

        def single(u):  # LLVM takes the machine's estimate and a Newton step, as `arcp` lets it
            u = least if u < least else (greatest if u > greatest else u)  # so that no square overflows
            return one / _f4(math.sqrt(u))

        return single

    def double(u):
        return 1.0 / math.sqrt(1e-300 if u < 1e-300 else u)

    return double


@no_type_check
def evaluate(r2, profile):
    """Return (value, slope) of a profile at r2; finite at 0."""
    raise NotImplementedError


@_inlined(evaluate)
@no_type_check
def _evaluate(r2, profile):
    zero, far = (_f4(0), _f4(1e37)) if r2 == types.float32 else (0.0, 1e300)
    if profile.instance_class is Exponential:

        def both(r2, profile):
            value = exp2(profile.rate * r2)
            return value, value

    elif profile.instance_class is Decay:

        def both(r2, profile):
            r2 = far if r2 > far else r2
            inverse = rsqrt(r2)
            r = r2 * inverse
            decay = exp2(profile.rate * r)
            value = profile.p0 + r * (profile.p1 + r * profile.p2)
            return decay * value, decay * (profile.q0 + r * profile.q1 + profile.inverse * inverse)

    elif profile.instance_class is Power:

        def both(r2, profile):
            u = profile.base + profile.rate * r2
            logarithm = log2(u)
            value, slope = exp2(profile.exponent * logarithm), exp2(profile.below * logarithm)
            return value if u > zero else zero, slope

    elif profile.instance_class is InverseRoot:

        def both(r2, profile):
            value = rsqrt(profile.base + r2)
            return value, value * value * value

    else:
        assert profile.instance_class is Distance

        def both(r2, profile):
            inverse = rsqrt(r2)
            return r2 * inverse, inverse

    return both


@no_type_check
def bend(r2, profile):
    """Return (slope, 2 d slope / d r2) of a smooth profile at r2; finite at 0."""
    raise NotImplementedError


_LN2 = math.log(2)


@_inlined(bend)
@no_type_check
def _bend(r2, profile):
    far = _f4(1e37) if r2 == types.float32 else 1e300
    two, three, ln2 = (_f4(2), _f4(3), _f4(_LN2)) if r2 == types.float32 else (2.0, 3.0, _LN2)
    if profile.instance_class is Exponential:

        def both(r2, profile):
            slope = exp2(profile.rate * r2)
            return slope, two * ln2 * profile.rate * slope

    elif profile.instance_class is Decay:

        def both(r2, profile):
            r2 = far if r2 > far else r2
            inverse = rsqrt(r2)
            r, a = r2 * inverse, ln2 * profile.rate
            decay = exp2(profile.rate * r)
            slope = profile.q0 + r * profile.q1
            return decay * slope, decay * ((profile.q1 + a * profile.q0) * inverse + a * profile.q1)

    elif profile.instance_class is Power:

        def both(r2, profile):
            u = profile.base + profile.rate * r2
            slope = exp2(profile.below * log2(u))
            return slope, two * profile.below * profile.rate * slope / u

    else:
        assert profile.instance_class is InverseRoot

        def both(r2, profile):
            value = rsqrt(profile.base + r2)
            cube = value * value * value
            return cube, -three * cube * value * value

    return both


#: Points of a block: with their weights they stay in the first-level cache while all rows pass over them.
CHUNK = 1024

# Sums over the points y [d, m] with weights [m] at the rows of x [n, d]: sum_j w_j value is added to `values` [n], and
# sum_j w_j slope (x_i - y_j) to `slopes` [n, d], each unless None. numba has no compile-time loops: lines with a # are written
# out for each dimension, so that differences live in registers. Blocks are summed in the points' precision, totals in float64.
_DIRECT = """
def direct_NAME(profile, x, y, weights, values, slopes):
    use_widest_vectors()
    zero = x.dtype.type(0)
    n, m = x.shape[0], y.shape[1]
    for start in range(0, m, CHUNK):
        size = min(CHUNK, m - start)
        w = weights[start : start + size]
        y# = y[#, start : start + size]
        for i in range(n):
            x# = x[i, #]
            s# = zero
            v = zero
            for j in range(size):
                r2 = zero
                t# = x# - y#[j]
                r2 += t# * t#
                value, slope = evaluate(r2, profile)
                if values is not None:
                    v += w[j] * value
                if slopes is not None:
                    slope *= w[j]
                    s# += slope * t#
            if values is not None:
                values[i] += v
            if slopes is not None:
                slopes[i, #] += s#
"""


# The same of mixed second derivatives: sum_j slope v_j + bend <x_i - y_j, v_j> (x_i - y_j) is added to `totals` [n, d].
_TANGENT = """
def tangent_NAME(profile, x, y, vectors, totals):
    use_widest_vectors()
    zero = x.dtype.type(0)
    n, m = x.shape[0], y.shape[1]
    for start in range(0, m, CHUNK):
        size = min(CHUNK, m - start)
        y# = y[#, start : start + size]
        v# = vectors[#, start : start + size]
        for i in range(n):
            x# = x[i, #]
            s# = zero
            for j in range(size):
                r2 = zero
                along = zero
                t# = x# - y#[j]
                r2 += t# * t#
                along += t# * v#[j]
                slope, curve = bend(r2, profile)
                curve *= along
                s# += slope * v#[j] + curve * t#
            totals[i, #] += s#
"""


def direct(dim: int) -> Callable[..., None]:
    """Return the compiled sums in this dimension (compiled at the first call, kept on disk after that)."""
    return _unrolled(_DIRECT, "direct", dim)


def tangent(dim: int) -> Callable[..., None]:
    """Return the compiled sums of mixed second derivatives in this dimension."""
    return _unrolled(_TANGENT, "tangent", dim)


@functools.cache
def _unrolled(source: str, name: str, dim: int) -> Callable[..., None]:
    lines: list[str] = []
    for line in source.replace("NAME", str(dim)).splitlines():
        lines += [line.replace("#", str(k)) for k in range(dim)] if "#" in line else [line]
    scope: dict[str, Callable[..., None]] = {}
    exec(
        compile("\n".join(lines), __file__, "exec"), globals(), scope
    )  # numba keeps its cache beside the file of that name
    return jit(scope[f"{name}_{dim}"])


#: Columns that are looked at for close pairs at a time.
PIECE = 256


@jit
@no_type_check
def weigh(profile, block, x, y, x_norms, y_norms, weights, close, values, sums, slopes):
    """Turn a block of products <x_i, y_j> [rows, m] into w_j slope in place; add w_j value to `values`, w_j slope to `sums`.

    Both totals are [rows]; x_norms, y_norms and the products are those of centred points. The squared distance
    |x|^2 + |y|^2 - 2 <x, y> cancels below `close` times the norms: such pairs are measured again from the rows of x [rows, d]
    and y [m, d] as given. Their w_j slope (x_i - y_j) is added to `slopes` [rows, d], and 0 takes its place in the block.
    """
    use_widest_vectors()
    zero = block.dtype.type(0)
    two = block.dtype.type(2)
    rows, m = block.shape
    pairs = np.empty(PIECE, np.int32)
    for i in range(rows):
        norm = x_norms[i]
        for start in range(0, m, PIECE):
            size = min(PIECE, m - start)
            r2 = block[i, start : start + size]
            w = weights[start : start + size]
            norms = y_norms[start : start + size]
            count = _i4(0)
            for j in range(size):
                both = norm + norms[j]
                distance = both - two * r2[j]
                r2[j] = distance
                count = _i4(count + _i4(distance <= close * both))
            if count > 0:
                count = _i4(0)
                for j in range(size):
                    if r2[j] <= close * (norm + norms[j]):
                        exact = zero
                        for k in range(x.shape[1]):
                            t = x[i, k] - y[start + j, k]
                            exact += t * t
                        r2[j] = exact
                        pairs[count] = j
                        count = _i4(count + 1)
            v = zero
            for j in range(size):
                value, slope = evaluate(r2[j], profile)
                v += w[j] * value
                if slopes is not None:
                    r2[j] = w[j] * slope if r2[j] > zero else zero
            if values is not None:
                values[i] += v
            if slopes is not None:
                for q in range(count):
                    j = pairs[q]
                    slope = r2[j]
                    r2[j] = zero
                    if slope != zero:
                        for k in range(x.shape[1]):
                            slopes[i, k] += slope * (x[i, k] - y[start + j, k])
                s = zero
                for j in range(size):
                    s += r2[j]
                sums[i] += s
