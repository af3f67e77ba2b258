"""The interpreter of PTX: arithmetic against exact rules, control flow, and every kind of fault that it must catch."""

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from ptx import Fault, Module, Pointer, UnsupportedError, launch, numerics

PROGRAMS = Path(__file__).parent / "ptx" / "programs"
FLOATS = [0.0, -0.0, 1.0, -1.5, 3.0, 0.1, -7e8, 2.5, 1e-40, -1e-45, 3e38, np.inf, -np.inf, np.nan]
INTEGERS = [0, 1, 2, 3, 7, 31, 32, 33, 255, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
LONG = [*INTEGERS, 1 << 33, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 0x9E3779B97F4A7C15]


def program(name, *changes):
    """A committed kernel, with pieces of its text replaced; each must be there."""
    text = (PROGRAMS / f"{name}.ptx").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return Module(text).kernel()


# ---- one instruction at a time ---------------------------------------------------------------------------------------
def bits(dtype):
    return f"{'f' if dtype.kind == 'f' else 'b'}{8 * dtype.itemsize}"


def apply(code, result, *inputs):
    """What threads make of their inputs a, b, c by ``code``, which puts it into d; p and q are predicates."""
    out = np.zeros(len(inputs[0]), result)
    arrays = {**dict(zip("abc", inputs, strict=False)), "d": out}
    parameters = ", ".join(f".param .u64 {name}_" for name in arrays)
    declared = "".join(f".reg .{bits(a.dtype)} {name};\n" for name, a in arrays.items())
    address = "ld.param.u64 base, [{0}_];\nmad.wide.u32 at, i, {1}, base;\n"
    loads = "".join(
        address.format(name, a.itemsize) + f"ld.global.{bits(a.dtype)} {name}, [at];\n"
        for name, a in arrays.items()
        if name != "d"
    )
    text = f"""
        .visible .entry one({parameters})
        {{
            .reg .b64 base, at; .reg .b32 i; .reg .pred p, q;
            {declared}
            mov.u32 i, %ctaid.x;
            {loads}
            {code}
            {address.format("d", out.itemsize)}
            st.global.{bits(out.dtype)} [at], d;
            ret;
        }}"""
    launch(Module(text).kernel(), len(out), 1, [Pointer(a) for a in arrays.values()])
    return out


def grid(*values):
    """All combinations, as one array for each."""
    return [np.array(column) for column in zip(*itertools.product(*values), strict=True)]


def same(got, expected):
    """Equal bits; any NaN equals any other."""
    expected = np.asarray(expected)
    assert got.dtype == expected.dtype
    different = got.view(f"u{got.itemsize}") != expected.view(f"u{got.itemsize}")
    if got.dtype.kind == "f":
        different &= ~(np.isnan(got) & np.isnan(expected))
    assert not different.any(), (np.flatnonzero(different), got[different], expected[different])


def signed(x):
    return x.view(f"i{x.itemsize}")


def exact(value, dtype, mode="rn"):
    """A fraction rounded to the nearest float, ties to even, or downwards or upwards."""
    near = dtype(float(value))
    candidates = sorted({near, np.nextafter(near, dtype(-np.inf)), np.nextafter(near, dtype(np.inf))})
    candidates = [c for c in candidates if np.isfinite(c)]
    if mode == "rm":
        return max(c for c in candidates if Fraction(float(c)) <= value)
    if mode == "rp":
        return min(c for c in candidates if Fraction(float(c)) >= value)
    return min(candidates, key=lambda c: (abs(Fraction(float(c)) - value), int(c.view(f"u{c.itemsize}")) & 1))


@pytest.mark.parametrize(
    ("code", "function"),
    [
        ("add.u32 d, a, b;", lambda a, b: a + b),
        ("sub.s32 d, a, b;", lambda a, b: a - b),
        ("mul.lo.s32 d, a, b;", lambda a, b: a * b),
        ("mul.hi.u32 d, a, b;", lambda a, b: (a.astype("u8") * b >> np.uint64(32)).astype("u4")),
        ("mul.hi.s32 d, a, b;", lambda a, b: (signed(a).astype("i8") * signed(b) >> 32).astype("u4")),
        ("min.s32 d, a, b;", lambda a, b: np.minimum(signed(a), signed(b)).view("u4")),
        ("max.u32 d, a, b;", np.maximum),
        ("and.b32 d, a, b;", np.bitwise_and),
        ("or.b32 d, a, b;", np.bitwise_or),
        ("xor.b32 d, a, b;", np.bitwise_xor),
        ("not.b32 d, a;", lambda a, b: ~a),
        ("neg.s32 d, a;", lambda a, b: -a),
        ("abs.s32 d, a;", lambda a, b: np.abs(signed(a)).view("u4")),
        ("popc.b32 d, a;", lambda a, b: [bin(x).count("1") for x in a]),
        ("clz.b32 d, a;", lambda a, b: [32 - int(x).bit_length() for x in a]),
        ("brev.b32 d, a;", lambda a, b: [int(f"{x:032b}"[::-1], 2) for x in a]),
        ("shl.b32 d, a, b;", lambda a, b: [int(x) << min(int(n), 32) & 0xFFFFFFFF for x, n in zip(a, b, strict=True)]),
        ("shr.u32 d, a, b;", lambda a, b: [int(x) >> min(int(n), 32) for x, n in zip(a, b, strict=True)]),
        ("shr.s32 d, a, b;", lambda a, b: signed(a) >> np.minimum(b, 31).astype("i4")),
        ("div.u32 d, a, b;", lambda a, b: [int(x) // int(y) if y else 0xFFFFFFFF for x, y in zip(a, b, strict=True)]),
        ("rem.u32 d, a, b;", lambda a, b: [int(x) % int(y) if y else x for x, y in zip(a, b, strict=True)]),
        ("bfe.u32 d, a, 4, 9;", lambda a, b: (a >> 4) & 511),
        ("bfe.s32 d, a, 4, 9;", lambda a, b: signed(a << 19) >> 23),
        ("bfi.b32 d, a, b, 5, 3;", lambda a, b: (b & ~np.uint32(7 << 5)) | ((a & 7) << 5)),
        ("prmt.b32 d, a, b, 0x7210;", lambda a, b: (a & 0xFFFFFF) | (b & 0xFF000000)),
        ("shf.l.wrap.b32 d, a, b, 8;", lambda a, b: (b << 8) | (a >> 24)),
        ("lop3.b32 d, a, b, 0x1234, 0x6A;", lambda a, b: (a & b) ^ 0x1234),
        ("mad.lo.s32 d, a, b, 12345;", lambda a, b: a * b + 12345),
        ("setp.lt.s32 p, a, b; selp.b32 d, a, b, p;", lambda a, b: np.where(signed(a) < signed(b), a, b)),
        ("setp.hs.u32 p, a, b; @p mov.b32 d, a; @!p mov.b32 d, b;", np.maximum),
        ("setp.eq.u32 p, a, 1; setp.gt.or.u32 q, b, 31, p; selp.u32 d, 1, 0, q;", lambda a, b: (a == 1) | (b > 31)),
        ("setp.eq.u32 p|q, a, b; selp.u32 d, 1, 0, q;", lambda a, b: a != b),
        ("{ .reg .b32 t; add.u32 t, a, 1; add.u32 d, t, t; }", lambda a, b: 2 * (a + 1)),
        ("slct.u32.s32 d, a, b, a;", lambda a, b: np.where(signed(a) >= 0, a, b)),
    ],
)  # fmt: skip
def test_32_bit_integers(code, function):
    a, b = (x.astype("u4") for x in grid(INTEGERS, INTEGERS))
    expected = np.asarray(function(a, b))
    same(apply(code, "u4", a, b), expected.astype("u4"))


@pytest.mark.parametrize(
    ("code", "function"),
    [
        ("add.s64 d, a, b;", lambda a, b: a + b),
        ("mul.lo.u64 d, a, b;", lambda a, b: a * b),
        ("mul.hi.u64 d, a, b;", lambda a, b: a * b >> 64),
        ("mul.hi.s64 d, a, b;", lambda a, b: _signed64(a) * _signed64(b) >> 64),
        ("div.s64 d, a, b;", lambda a, b: _quotient(_signed64(a), _signed64(b)) if b else -1),
        ("rem.s64 d, a, b;", lambda a, b: _signed64(a) - (b and _quotient(_signed64(a), _signed64(b)) * _signed64(b))),
        ("shr.s64 d, a, 40;", lambda a, b: _signed64(a) >> 40),
        ("shr.u64 d, a, 63;", lambda a, b: a >> 63),
        ("max.s64 d, a, b;", lambda a, b: max(_signed64(a), _signed64(b))),
        ("cvt.s64.s32 d, a;", lambda a, b: _signed32(a)),
        ("cvt.u64.u32 d, a;", lambda a, b: a & 0xFFFFFFFF),
        ("cvt.u64.u8 d, a;", lambda a, b: a & 0xFF),
        ("{ .reg .b32 l, h; mov.b64 {l, h}, a; mov.b64 d, {h, l}; }", lambda a, b: a >> 32 | a << 32),
        ("{ .reg .b32 l; cvt.u32.u64 l, a; mul.wide.s32 d, l, -3; }", lambda a, b: -3 * _signed32(a)),
        ("{ .reg .b32 l; cvt.u32.u64 l, a; mad.wide.u32 d, l, 5, b; }", lambda a, b: 5 * (a & 0xFFFFFFFF) + b),
    ],
)  # fmt: skip
def test_64_bit_integers(code, function):
    a, b = (x.astype("u8") for x in grid(np.array(LONG, "u8"), np.array(LONG, "u8")))
    expected = [function(int(x), int(y)) % (1 << 64) for x, y in zip(a, b, strict=True)]
    same(apply(code, "u8", a, b), np.array(expected, "u8"))


def _signed32(x):
    return (x & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def _signed64(x):
    return x - (1 << 64) if x >> 63 else x


def _quotient(a, b):
    q = abs(a) // abs(b)
    return -q if (a < 0) != (b < 0) else q


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    ("code", "function"),
    [
        ("add.F d, a, b;", np.add),
        ("sub.rn.F d, a, b;", np.subtract),
        ("mul.F d, a, b;", np.multiply),
        ("div.rn.F d, a, b;", np.divide),
        ("min.F d, a, b;", lambda a, b: np.where(np.isnan(a), b, np.where(np.isnan(b), a, np.minimum(a, b)))),
        ("max.F d, a, b;", lambda a, b: np.where(np.isnan(a), b, np.where(np.isnan(b), a, np.maximum(a, b)))),
        ("neg.F d, a;", lambda a, b: -a),
        ("abs.F d, a;", lambda a, b: np.abs(a)),
        ("sqrt.rn.F d, a;", lambda a, b: np.sqrt(a)),
        ("rcp.rn.F d, a;", lambda a, b: (1 / a).astype(a.dtype)),
        ("copysign.F d, a, b;", lambda a, b: np.copysign(b, a)),
        ("setp.lt.F p, a, b; selp.F d, a, b, p;", lambda a, b: np.where(a < b, a, b)),
        ("setp.geu.F p, a, b; selp.F d, a, b, p;", lambda a, b: np.where(~(a < b), a, b)),
        ("setp.neu.F p, a, b; selp.F d, a, b, p;", lambda a, b: np.where(a != b, a, b)),
        ("setp.ne.F p, a, b; selp.F d, a, b, p;", lambda a, b: np.where((a < b) | (a > b), a, b)),
        ("setp.nan.F p, a, b; selp.F d, a, b, p;", lambda a, b: np.where(np.isnan(a) | np.isnan(b), a, b)),
        ("setp.num.F p, a, b; selp.F d, a, b, p;", lambda a, b: np.where(np.isnan(a) | np.isnan(b), b, a)),
    ],
)  # fmt: skip
def test_floats(code, function, dtype):
    a, b = (x.astype(dtype) for x in grid(FLOATS, FLOATS))
    same(apply(code.replace("F", {"f4": "f32", "f8": "f64"}[dtype]), dtype, a, b), function(a, b).astype(dtype))


@pytest.mark.parametrize("mode", ["rn", "rm", "rp"])
def test_fma_of_float32_is_exact(mode):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((2, 3000)) * 2.0 ** rng.integers(-70, 60, (2, 3000))).astype("f4")
    c = (-(a * b) * np.float32(1 + 2.0**-20)).astype("f4")  # nearly all is cancelled
    c[::2] = (rng.standard_normal(1500) * 2.0 ** rng.integers(-140, 100, 1500)).astype("f4")
    # Half way between two float32 numbers but for a bit far below the last of a float64.
    a[:2], b[:2], c[:2] = np.float32(1 + 2.0**-12), np.float32(1 + 2.0**-12), [2.0**-80, -(2.0**-80)]
    with np.errstate(under="ignore"):
        a[2:4], b[2:4], c[2:4] = np.float32(2.0**-75), np.float32(2.0**-75), [2.0**-149, 1]
    expected = [
        exact(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)), np.float32, mode)
        for x, y, z in zip(a, b, c, strict=True)
    ]
    same(apply(f"fma.{mode}.f32 d, a, b, c;", "f4", a, b, c), np.array(expected))


def test_fma_of_float64_has_one_rounding():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 2000))
    c = np.where(np.arange(2000) % 2, -(a * b), rng.standard_normal(2000))  # half of them leave only the rounding error
    expected = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in np.stack([a, b, c], 1).tolist()]
    same(apply("fma.rn.f64 d, a, b, c;", "f8", a, b, c), np.array(expected))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("code", "have", "want", "function"),
    [
        ("cvt.rzi.s32.f32 d, a;", "f4", "i4", lambda x: _clip(np.trunc(x), -(2.0**31), 2.0**31 - 1)),
        ("cvt.rni.s32.f64 d, a;", "f8", "i4", lambda x: _clip(np.rint(x), -(2.0**31), 2.0**31 - 1)),
        ("cvt.rmi.u32.f32 d, a;", "f4", "u4", lambda x: _clip(np.floor(x), 0, 2.0**32 - 1)),
        ("cvt.rpi.f32.f32 d, a;", "f4", "f4", np.ceil),
        ("cvt.rn.f32.f64 d, a;", "f8", "f4", lambda x: x),
        ("cvt.f64.f32 d, a;", "f4", "f8", lambda x: x),
        ("cvt.sat.f32.f32 d, a;", "f4", "f4", lambda x: np.where(np.isnan(x), 0, np.clip(x, 0, 1))),
        ("cvt.rn.f16.f32 d, a;", "f4", "f2", lambda x: x),
    ],
)  # fmt: skip
def test_conversions_of_floats(code, have, want, function):
    x = np.array(FLOATS, have)
    same(apply(code, want, x), function(x).astype(want))


def test_subnormal_numbers_are_flushed_where_the_instruction_says_so():
    small = np.float32([1e-40, -1e-45, 2e-38, -2e-38])
    assert apply("mul.ftz.f32 d, a, 0f3F800000;", "f4", small).tolist() == [0, 0, small[2], small[3]]
    assert apply("mul.ftz.f32 d, a, 0f3F000000;", "f4", small).tolist() == [0] * 4
    same(apply("mul.f32 d, a, 0f3F800000;", "f4", small), small)


def _clip(x, low, high):
    return np.where(np.isnan(x), 0, np.clip(x.astype("f8"), low, high))


def test_conversions_of_integers():
    long = np.array(LONG, "u8")
    same(apply("cvt.rn.f32.u64 d, a;", "f4", long), long.astype("f4"))
    same(apply("cvt.rn.f32.s64 d, a;", "f4", long), long.view("i8").astype("f4"))
    same(apply("cvt.rn.f64.s32 d, a;", "f8", long), (long & 0xFFFFFFFF).astype("u4").view("i4").astype("f8"))
    same(apply("cvt.sat.u8.s64 d, a;", "u8", long), np.clip(long.view("i8"), 0, 255).astype("u8"))


@pytest.mark.parametrize("name", numerics.APPROXIMATE)
def test_approximate_instructions_err_as_much_as_they_may(name):
    function, relative, absolute = numerics.APPROXIMATE[name]
    x = np.random.default_rng(2).uniform(0.1, 3, 1000).astype("f4")
    y = apply(f"{name}.approx.f32 d, a;", "f4", x).astype("f8")
    right = function(x.astype("f8"))
    error, allowed = np.abs(y - right), np.maximum(np.abs(right) * relative, absolute)
    assert (error <= allowed + 2.0**-24 * np.abs(y)).all()
    assert error.max() > 0.4 * allowed.max()
    assert apply("ex2.approx.f32 d, a;", "f4", np.float32([0, 3, -2])).tolist() == [1, 8, 0.25]


def test_vectors_and_narrow_types():
    text = """
        .entry four(.param .u64 x, .param .u64 y, .param .u64 z) {
            .reg .f32 %f<5>; .reg .b64 %rd<4>; .reg .b16 %rs<3>; .reg .b32 %r<3>;
            ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; ld.param.u64 %rd3, [z];
            ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1+16];
            st.global.v4.f32 [%rd2], {%f4, %f3, %f2, %f1};
            ld.global.s8 %rs1, [%rd3];
            ld.global.u8 %r1, [%rd3+1];
            cvt.s32.s16 %r2, %rs1;
            add.s32 %r2, %r2, %r1;
            st.global.u8 [%rd3+2], %r2;
            ret;
        }"""
    x, y, z = np.arange(8, dtype="f4"), np.zeros(4, "f4"), np.array([-3, 100, 0], "i1")
    launch(Module(text).kernel(), 1, 1, [Pointer(x), Pointer(y), Pointer(z)])
    assert y.tolist() == [7, 6, 5, 4] and z.tolist() == [-3, 100, 97]
    for offset, kind in (("+4", "alignment"), ("+32", "bounds"), ("-16", "bounds")):
        with pytest.raises(Fault) as fault:
            launch(Module(text.replace("+16", offset)).kernel(), 1, 1, [Pointer(x), Pointer(y), Pointer(z)])
        assert fault.value.kind == kind


def test_generic_addresses_local_memory_and_dynamic_shared_memory():
    text = """
        .extern .shared .align 16 .b8 dynamic[];
        .global .align 4 .u32 table[3] = {10, 20, 30};
        .entry all(.param .u64 y) {
            .local .align 8 .b8 own[16];
            .reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .pred %p<2>;
            ld.param.u64 %rd1, [y];
            mov.u32 %r1, %tid.x;
            mul.wide.u32 %rd2, %r1, 4;
            mov.u64 %rd3, dynamic;
            cvta.shared.u64 %rd3, %rd3;
            add.s64 %rd3, %rd3, %rd2;
            st.u32 [%rd3], %r1;
            mov.u64 %rd4, own;
            cvta.local.u64 %rd4, %rd4;
            st.u32 [%rd4+12], %r1;
            setp.eq.u32 %p1, %r1, 1;
            selp.b64 %rd5, %rd3, %rd4, %p1;
            @!%p1 add.s64 %rd5, %rd5, 12;
            ld.u32 %r2, [%rd5];
            mov.u32 %r4, %dynamic_smem_size;
            add.u32 %r2, %r2, %r4;
            mov.u64 %rd6, table;
            add.s64 %rd6, %rd6, %rd2;
            ld.global.u32 %r3, [%rd6];
            add.u32 %r2, %r2, %r3;
            add.s64 %rd1, %rd1, %rd2;
            st.global.u32 [%rd1], %r2;
            ret;
        }"""
    y = np.zeros(3, "u4")
    launch(Module(text).kernel(), 1, 3, [Pointer(y)], dynamic=12)
    assert y.tolist() == [22, 33, 44]
    with pytest.raises(Fault, match="bounds: thread .2, 0, 0. of block .0, 0, 0. at bytes 8 to 12 of shared memory"):
        launch(Module(text).kernel(), 1, 3, [Pointer(y)], dynamic=8)


def test_what_is_unknown_is_refused():
    shuffle = "shfl.sync.bfly.b32 d, a, 1, 31, -1;"
    for code in (shuffle, "mov.u32 d, %smid;", "bar.sync 1;", "bar.sync 0, 64;", "mma.sync d, a, a, a;"):
        with pytest.raises(UnsupportedError):
            apply(code, "u4", np.zeros(1, "u4"))


# ---- whole kernels ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(8, 8, 8), (1, 1, 1), (19, 13, 30), (3, 25, 17)])
def test_tiled_product(shape):
    m, n, k = shape
    rng = np.random.default_rng(3)
    a, b, c = rng.standard_normal((m, k)).astype("f4"), rng.standard_normal((k, n)).astype("f4"), np.zeros((m, n), "f4")
    arguments = [*map(Pointer, (a, b, c)), *map(np.uint32, shape)]
    machine = launch(program("product"), (-(-n // 8), -(-m // 8)), (8, 8), arguments)
    assert np.abs(c - a.astype("f8") @ b).max() < 1e-5
    assert machine.work()["flops"] >= 2 * m * n * k


def test_work_is_counted():
    a = np.ones((16, 16), "f4")
    arguments = [Pointer(a), Pointer(a.copy()), Pointer(a.copy()), *[np.uint32(16)] * 3]
    work = launch(program("product"), (2, 2), (8, 8), arguments).work()
    assert work.pop("instructions") > work["flops"]
    read = 2 * 4 * 16**3 // 8  # each element of A and B by each of two tiles
    assert work == {
        "flops": 2 * 16**3, "global_read": read, "global_written": 4 * 16**2, "shared_written": read,
        "shared_read": 8 * 16**3,
    }  # fmt: skip


def test_arguments_as_numba_passes_them():
    """An array is seven words or more; a kernel is told so, not run on garbage."""
    names = ", ".join(f".param .u64 p{i}" for i in range(8)) + ", .param .f32 scale"
    text = f""".entry scaled({names}) {{
        .reg .b64 %rd<4>; .reg .f32 %f<4>; .reg .b32 %r<2>;
        ld.param.u64 %rd1, [p4]; ld.param.u64 %rd2, [p7]; ld.param.f32 %f1, [scale];
        mov.u32 %r1, %tid.x; cvt.u64.u32 %rd3, %r1; mul.lo.s64 %rd3, %rd3, %rd2; add.s64 %rd1, %rd1, %rd3;
        ld.global.f32 %f2, [%rd1]; mul.f32 %f2, %f2, %f1; st.global.f32 [%rd1], %f2; ret; }}"""
    kernel, x = Module(text.replace("p7]", "p6]")).kernel(), np.arange(6, dtype="f4")
    with pytest.raises(TypeError, match="scaled takes 9 words, got 8"):
        launch(kernel, 1, 3, [x[::2], np.float32(2)])
    with pytest.raises(TypeError, match="p7 has 8 bytes, got 1"):
        launch(kernel, 1, 3, [x[::2], True, np.float32(2)])
    launch(kernel, 1, 3, [x[::2], 5, np.float32(2)])
    assert x.tolist() == [0, 1, 4, 3, 8, 5]


def test_threads_of_a_loop_of_different_lengths_meet_again():
    text = """
        .entry sums(.param .u64 y) {
            .reg .b32 %r<4>; .reg .b64 %rd<3>; .reg .pred %p<2>;
            ld.param.u64 %rd1, [y]; mov.u32 %r1, %tid.x; mov.u32 %r2, 0; mov.u32 %r3, 0;
            $loop: setp.gt.u32 %p1, %r3, %r1; @%p1 bra $done;
            add.u32 %r2, %r2, %r3; add.u32 %r3, %r3, 1; bra.uni $loop;
            $done: mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r2; ret; }"""
    y = np.zeros(40, "u4")
    launch(Module(text).kernel(), 1, 40, [Pointer(y)])
    assert y.tolist() == [n * (n + 1) // 2 for n in range(40)]


# ---- planted faults --------------------------------------------------------------------------------------------------
def reverse(*changes, elements=96):
    x, y = np.arange(elements, dtype="f4"), np.zeros(elements, "f4")
    launch(program("reverse", *changes), 3, 32, {"x": Pointer(x), "y": Pointer(y)})
    return y


def test_the_kernel_without_a_fault():
    assert reverse().tolist() == np.arange(96).reshape(3, 32)[:, ::-1].ravel().tolist()


BARRIER = "    bar.sync 0;\n"
BRANCH = "    .reg .pred %p; setp.ne.u32 %p, %r1, 0; @%p bra $other;\n"
STORE = "    st.shared.f32 [%r5], %f1;\n"


@pytest.mark.parametrize(
    ("kind", "message", "changes"),
    [
        ("bounds", "thread (0, 0, 0) of block (2, 0, 0) at bytes 384 to 388 of x float32[96], which has 384",
         [("mov.u32 %r2, %ctaid.x;", "mov.u32 %r2, %ctaid.x; add.u32 %r2, %r2, 1;")]),
        ("bounds", "thread (0, 0, 0) of block (0, 0, 0) at bytes -4 to 0 of y float32[96]",
         [("st.global.f32 [%rd4], %f2", "st.global.f32 [%rd4-4], %f2")]),
        ("bounds", "thread (31, 0, 0) of block (0, 0, 0) at bytes 128 to 132 of shared memory, which has 128",
         [(STORE, "    st.shared.f32 [%r5+4], %f1;\n")]),
        ("bounds", "uses a wild address", [("add.s64 %rd3, %rd3, %rd5", "mov.u64 %rd3, %rd5")]),
        ("race", "touch shared memory at byte 124 with no barrier between them", [(BARRIER, "")]),
        ("race", "touch y float32[96] at byte 0", [("add.s64 %rd4, %rd4, %rd5;", "")]),
        ("unwritten", "reads shared memory that nobody has written, byte 124", [(STORE, "")]),
        ("unwritten", "byte 128", [("part[128]", "part[132]"), ("sub.u32 %r5, 31", "sub.u32 %r5, 32")]),
        ("barrier", "thread 1 of the block has ended", [(BARRIER, BRANCH + BARRIER), ("    ret;", "$other: ret;")]),
        ("barrier", "thread 1 of the block waits at bar.sync 0, another one",
         [(BARRIER, BRANCH + BARRIER + "bra $join; $other:" + BARRIER + "$join:\n")]),
    ],
)  # fmt: skip
def test_a_planted_fault_is_caught(kind, message, changes):
    with pytest.raises(Fault) as fault:
        reverse(*changes)
    assert fault.value.kind == kind and message in str(fault.value)


@pytest.mark.parametrize("which", ["the tiles are complete", "the tiles may be overwritten"])
def test_either_barrier_of_a_tiled_product_is_needed(which):
    a = np.ones((16, 16), "f4")
    line = next(x for x in (PROGRAMS / "product.ptx").read_text().splitlines() if which in x)
    with pytest.raises(Fault, match=r"race: .*\(product.py:1[04]\)"):
        arguments = [Pointer(a), Pointer(a.copy()), Pointer(a.copy()), *[np.uint32(16)] * 3]
        launch(program("product", (line + "\n", "")), (2, 2), (8, 8), arguments)


def test_a_missing_guard_of_a_tiled_product_is_caught():
    a = np.ones((9, 9), "f4")
    with pytest.raises(Fault, match="bounds: "):
        arguments = [Pointer(a), Pointer(a.copy()), Pointer(a.copy()), *[np.uint32(9)] * 3]
        launch(program("product", ("@%p3 ld.global", "ld.global")), (2, 2), (8, 8), arguments)


def test_blocks_do_not_wait_for_each_other():
    """What one block wrote before its barrier, another one must not read after its own."""
    text = """
        .entry neighbours(.param .u64 y) {
            .reg .b32 %r<3>; .reg .b64 %rd<3>;
            ld.param.u64 %rd1, [y]; mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2;
            st.global.u32 [%rd2], %r1; bar.sync 0; ld.global.u32 %r2, [%rd1]; bar.sync 0; ret; }"""
    launch(Module(text).kernel(), 1, 1, [Pointer(np.zeros(2, "u4"))])
    with pytest.raises(Fault, match="race: .*blocks never wait for each other"):
        launch(Module(text).kernel(), 2, 1, [Pointer(np.zeros(2, "u4"))])


def test_views_of_one_buffer_are_one_memory():
    buffer = np.arange(96, dtype="f4")
    x, y = buffer, buffer[:]
    launch(program("reverse"), 3, 32, {"x": Pointer(x), "y": Pointer(y)})
    assert buffer.tolist() == np.arange(96).reshape(3, 32)[:, ::-1].ravel().tolist()
    with pytest.raises(Fault, match="race"):
        launch(program("reverse"), 2, 32, {"x": Pointer(buffer[:64]), "y": Pointer(buffer[32:])})


def test_noting_is_thinned_out_and_still_finds_races(monkeypatch):
    monkeypatch.setattr("ptx.memory.Watch._ENOUGH", 10)
    assert reverse()[0] == 31
    with pytest.raises(Fault, match="race"):
        reverse((BARRIER, ""))
