"""Basic blocks of PTX as Python functions.

A block ``add.s64 %rd3, %rd1, %rd2; shl.b64 %rd4, %rd3, 2;`` becomes::

    def block(m, R, g, ix):
        rd1 = R["%rd1"][ix].view(i8)
        rd2 = R["%rd2"][ix].view(i8)
        rd3 = rd1 + rd2
        rd4 = N.shift_left(rd3.view(u8), c0)
        R["%rd4"][ix] = rd4

where each name is an array over the threads of the group that runs (or a scalar, where all threads agree), R is the
file of registers, which only those that outlive a block are read from and written to, and m does memory. Registers have
a size but hardly a type in PTX, so a name's type is that of the instruction that made it, and other uses see it through
a view.
"""

import re
from dataclasses import dataclass

import numpy as np

from ptx import numerics
from ptx.parse import TYPES, UnsupportedError, constant

_ENDS = ("bra", "ret", "exit", "bar", "barrier", "trap")
_NO_EFFECT = ("membar", "fence", "pragma", "prefetch", "nanosleep")
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_COMPARISONS |= {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
_DIRECTED = {"rm", "rp", "rz"}
SPECIAL = {f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"}
SPECIAL |= {"%laneid", "%warpid", "%dynamic_smem_size"}
WORK = ("instructions", "flops", "shared_read", "shared_written", "global_read", "global_written")


@dataclass
class Block:
    """A basic block: what to call, and what comes after."""

    run: object  # (machine, registers, group, index) -> mask of the threads that branch, or None
    end: str  # "bra", "ret", "bar" or "" (falls through)
    target: int  # block of a taken branch
    source: str
    last: int  # its last instruction
    work: dict  # of one thread


def translate(kernel):
    """The blocks of a kernel, in the order of the program."""
    starts = {0, *kernel.labels.values()}
    starts |= {i + 1 for i, made in enumerate(kernel.code) if made.op in _ENDS}
    starts = sorted(s for s in starts if s < len(kernel.code))
    number = {s: i for i, s in enumerate(starts)}
    number[len(kernel.code)] = len(starts)  # a label at the very end
    pieces = [range(a, b) for a, b in zip(starts, [*starts[1:], len(kernel.code)], strict=True)]
    outlive = set().union(*(_read_first(kernel, piece) for piece in pieces))
    blocks = []
    for piece in pieces:
        writer = _Writer(kernel, piece, outlive)
        last = kernel.code[piece[-1]]
        end = {"exit": "ret", "barrier": "bar"}.get(last.op, last.op) if last.op in _ENDS else ""
        target = number[kernel.labels[last.operands[0]]] if end == "bra" else -1
        made = Block(writer.function(), end, target, writer.source, piece[-1], work([kernel.code[i] for i in piece]))
        blocks.append(made)
    return blocks


def work(code):
    """Instructions, floating point operations (a fused multiply-add is two) and bytes moved, as if all guards held."""
    total = dict.fromkeys(WORK, 0) | {"instructions": len(code)}
    for made in code:
        if made.op in ("add", "sub", "mul", "fma", "mad", "div") and made.types[-1][0] == "f":
            total["flops"] += 2 if made.op in ("fma", "mad") else 1
        elif made.op in ("ld", "st"):
            space = next((s for s in ("shared", "global") if s in made.mods), None)
            if space:
                count = next((int(m[1:]) for m in made.mods if m in ("v2", "v4")), 1)
                way = "read" if made.op == "ld" else "written"
                total[f"{space}_{way}"] += count * TYPES[made.types[-1]].itemsize
    return total


def _names(operand):
    if isinstance(operand, list):
        return [n for o in operand for n in _names(o)]
    return [operand[1]] if isinstance(operand, tuple) else operand.lstrip("!-").split("|")


def _written(made):
    """Operands that an instruction writes."""
    if made.op in ("st", "red", *_ENDS, *_NO_EFFECT):
        return []
    return _names(made.operands[0])


def _read(made):
    first = 0 if made.op in ("st", "red", *_ENDS) else 1
    names = [n for o in made.operands[first:] for n in _names(o)]
    if made.guard:
        names += [made.guard, *_written(made)]
    return names


def _read_first(kernel, piece):
    """Registers that a block reads before it writes them."""
    seen, first = set(), set()
    for i in piece:
        first |= {n for n in _read(kernel.code[i]) if n in kernel.registers} - seen
        seen |= set(_written(kernel.code[i]))
    return first


class _Writer:
    """Writes the function of one block."""

    def __init__(self, kernel, piece, outlive):
        self.kernel, self.piece, self.outlive = kernel, piece, outlive
        self.space = {"np": np, "N": numerics} | {f"{t.kind}{t.itemsize}": t for t in set(TYPES.values())}
        self.lines, self.types, self.names, self.constants = [], {}, {}, {}

    # ---- operands ----
    def local(self, register):
        if register not in self.names:
            self.names[register] = re.sub(r"\W", "_", register.lstrip("%"))
            if self.names[register] in self.space or not self.names[register].isidentifier():
                self.names[register] += "_"
        return self.names[register]

    def use(self, operand, dtype):
        """Code for an operand seen as this type."""
        if operand.startswith("!"):
            return f"~{self.use(operand[1:], dtype)}"
        if operand in self.types:
            return self.cast(self.local(operand), self.types[operand], dtype)
        if operand.startswith("%"):
            if operand not in SPECIAL:
                raise UnsupportedError(operand)
            return self.cast(f"g.special({operand!r})", np.dtype("u4"), dtype)
        if operand in self.symbols():
            return self.cast(f"m.symbol({operand!r})", np.dtype("u8"), dtype)
        key = (operand, dtype)
        if key not in self.constants:
            self.constants[key] = f"c{len(self.constants)}"
            self.space[self.constants[key]] = constant(operand, dtype)
        return self.constants[key]

    def symbols(self):
        return {v.name for v in (*self.kernel.shared, *self.kernel.local, *self.kernel.constants)}

    @staticmethod
    def spell(dtype):
        return f"{dtype.kind}{dtype.itemsize}"

    def cast(self, code, have, want):
        if have == want:
            return code
        if have.itemsize == want.itemsize:
            return f"{code}.view({self.spell(want)})"
        if have.itemsize > want.itemsize:
            bits = code if have.kind in "iu" else f"{code}.view(u{have.itemsize})"
            cut = f"{bits}.astype(u{want.itemsize})"
            return cut if want.kind == "u" else f"{cut}.view({self.spell(want)})"
        raise UnsupportedError(f"a register of {have} used as {want}")

    # ---- statements ----
    def put(self, register, code, dtype, guard=None):
        """register = code, which is of this type; a wider register gets it extended."""
        if register == "_":
            return
        own = self.kernel.registers[register]
        if own.itemsize > dtype.itemsize and dtype.kind in "iu":
            wide = np.dtype(f"{dtype.kind}{own.itemsize}")
            code, dtype = f"({code}).astype({self.spell(wide)})", wide
        elif own.itemsize != dtype.itemsize:
            raise UnsupportedError(f"a result of {dtype} in a register of {own}")
        if guard:
            code = f"np.where({guard}, {code}, {self.use(register, dtype)})"
        self.lines.append(f"{self.local(register)} = {code}")
        self.types[register] = dtype

    def function(self):
        code = self.kernel.code
        first = _read_first(self.kernel, self.piece)
        stored = {n for i in self.piece for n in _written(code[i]) if n in self.outlive}
        for register in sorted(first):
            self.types[register] = self.kernel.registers[register]
            copy = ".copy()" if register in stored else ""
            self.lines.append(f"{self.local(register)} = R[{register!r}][ix]{copy}")
        last_use = {}
        for i in self.piece:
            last_use.update(dict.fromkeys([*_read(code[i]), *_written(code[i])], i))
        for i in self.piece:
            self.statement(i, code[i])
            done = [self.local(n) for n, at in last_use.items() if at == i and n in self.types and n not in stored]
            if done and i != self.piece[-1]:
                self.lines.append(f"del {', '.join(done)}")
        if self.lines and self.lines[-1].startswith("return"):
            tail = [self.lines.pop()]
        else:
            tail = []
        for register in sorted(stored):
            own = self.kernel.registers[register]
            value = self.cast(self.local(register), self.types[register], own)
            self.lines.append(f"R[{register!r}][ix] = {value}")
        self.source = "def block(m, R, g, ix):\n    " + "\n    ".join([*self.lines, *tail, "pass"])
        exec(compile(self.source, f"<{self.kernel.name}>", "exec"), self.space)
        return self.space["block"]

    def statement(self, i, made):
        guard = None
        if made.guard:
            guard = ("~" if made.negated else "") + self.use(made.guard, np.dtype(bool))
        if made.op == "bra":
            if guard:
                self.lines.append(f"return {guard}")
        elif made.op in _ENDS:
            if guard or made.op == "trap":
                raise UnsupportedError(made.text)
            if made.op == "barrier" and "aligned" in made.mods:
                made.operands = made.operands[:1]
            if made.op in ("bar", "barrier") and ("sync" not in made.mods or made.operands not in (["0"], [])):
                raise UnsupportedError(made.text)
        elif made.op in ("ld", "ldu", "st", "atom", "red"):
            self.memory(i, made, guard)
        elif made.op not in _NO_EFFECT:
            translator = getattr(self, f"op_{made.op}", None)
            if translator is None:
                raise UnsupportedError(f"{made.text} ({made.line})")
            translator(made, guard)

    # ---- memory ----
    def memory(self, i, made, guard):
        mods = made.mods
        space = next((s for s in ("param", "shared", "local", "global", "const") if s in mods), "generic")
        dtype = TYPES[made.types[-1]]
        _, base, offset = made.operands[0 if made.op in ("st", "red") else 1]
        if space == "param":
            for n, register in enumerate(_names(made.operands[0])):
                value = f"m.parameter({base!r}, {offset + n * dtype.itemsize}, {self.spell(dtype)})"
                self.put(register, value, dtype, guard)
            return
        wide = base in self.types and self.types[base].itemsize == 4
        address = self.use(base, np.dtype("u4" if wide else "u8"))
        if offset:
            address += f" + {self.use(str(offset), np.dtype('u4' if wide else 'u8'))}"
        place = f"g, {i}, {space!r}, {self.spell(dtype)}"
        mask = f", {guard}" if guard else ""
        if made.op in ("ld", "ldu"):
            registers = made.operands[0] if isinstance(made.operands[0], list) else [made.operands[0]]
            loaded = [f"l{n}_" for n in range(len(registers))]
            self.lines.append(f"{', '.join(loaded)}, = m.load({place}, {len(registers)}, {address}{mask})")
            for register, name in zip(registers, loaded, strict=True):
                self.put(register, name, dtype, guard)
        elif made.op == "st":
            values = made.operands[1] if isinstance(made.operands[1], list) else [made.operands[1]]
            values = ", ".join(self.use(v, dtype) for v in values)
            self.lines.append(f"m.store({place}, ({values},), {address}{mask})")
        else:
            kind = next(k for k in ("add", "min", "max", "and", "or", "xor", "exch", "cas") if k in mods)
            values = ", ".join(self.use(v, dtype) for v in made.operands[1 + (made.op == "atom") :])
            call = f"m.atomic({place}, {kind!r}, ({values},), {address}{mask})"
            if made.op == "atom":
                self.put(made.operands[0], call, dtype, guard)
            else:
                self.lines.append(call)

    # ---- arithmetic ----
    def inputs(self, made, dtype, count=2, first=1):
        codes = [self.use(o, dtype) for o in made.operands[first : first + count]]
        return [f"N.flush({c})" for c in codes] if "ftz" in made.mods and dtype == np.float32 else codes

    def result(self, made, code, dtype, guard):
        if "ftz" in made.mods and dtype == np.float32:
            code = f"N.flush({code})"
        if "sat" in made.mods and dtype.kind == "f":
            code = f"N.saturate({code})"
        self.put(made.operands[0], code, dtype, guard)

    def simple(self, made, guard, count, pattern):
        dtype = TYPES[made.types[-1]]
        self.result(made, pattern.format(*self.inputs(made, dtype, count)), dtype, guard)

    def arithmetic(self, made, guard, pattern, function):
        if "cc" in made.mods:
            raise UnsupportedError(made.text)
        mode = _DIRECTED & set(made.mods)
        if mode and made.types[-1][0] == "f":
            pattern = f"N.arithmetic({function}, {{0}}, {{1}}, {mode.pop()!r})"
        self.simple(made, guard, 2, pattern)

    def op_add(self, made, guard):
        self.arithmetic(made, guard, "{0} + {1}", "np.add")

    def op_sub(self, made, guard):
        self.arithmetic(made, guard, "{0} - {1}", "np.subtract")

    def op_mul(self, made, guard):
        dtype = TYPES[made.types[-1]]
        if dtype.kind == "f":
            self.arithmetic(made, guard, "{0} * {1}", "np.multiply")
        else:
            code, dtype = self.product(made, dtype)
            self.put(made.operands[0], code, dtype, guard)

    def product(self, made, dtype):
        a, b = self.inputs(made, dtype)
        if "wide" in made.mods:
            return f"N.wide_product({a}, {b})", np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
        return (f"N.high_product({a}, {b})" if "hi" in made.mods else f"{a} * {b}"), dtype

    def op_mad(self, made, guard):
        dtype = TYPES[made.types[-1]]
        if dtype.kind == "f":
            return self.op_fma(made, guard)
        if "cc" in made.mods:
            raise UnsupportedError(made.text)
        code, dtype = self.product(made, dtype)
        self.put(made.operands[0], f"{code} + {self.use(made.operands[3], dtype)}", dtype, guard)

    def op_fma(self, made, guard):
        mode = next((m for m in made.mods if m in _DIRECTED), "rn")
        self.simple(made, guard, 3, f"N.fma({{0}}, {{1}}, {{2}}, {mode!r})")

    def op_div(self, made, guard):
        if made.types[-1][0] != "f":
            self.simple(made, guard, 2, "N.quotient({0}, {1})")
        elif {"approx", "full"} & set(made.mods):
            self.simple(made, guard, 2, "N.approximate_quotient({0}, {1})")
        else:
            self.arithmetic(made, guard, "{0} / {1}", "np.divide")

    def op_rem(self, made, guard):
        self.simple(made, guard, 2, "N.remainder({0}, {1})")

    def op_min(self, made, guard):
        self.simple(made, guard, 2, ("np.minimum" if "NaN" in made.mods else "np.fmin") + "({0}, {1})")

    def op_max(self, made, guard):
        self.simple(made, guard, 2, ("np.maximum" if "NaN" in made.mods else "np.fmax") + "({0}, {1})")

    def op_and(self, made, guard):
        self.simple(made, guard, 2, "{0} & {1}")

    def op_or(self, made, guard):
        self.simple(made, guard, 2, "{0} | {1}")

    def op_xor(self, made, guard):
        self.simple(made, guard, 2, "{0} ^ {1}")

    def op_not(self, made, guard):
        self.simple(made, guard, 1, "~{0}")

    def op_neg(self, made, guard):
        self.simple(made, guard, 1, "-{0}")

    def op_abs(self, made, guard):
        self.simple(made, guard, 1, "np.abs({0})")

    def op_copysign(self, made, guard):
        self.simple(made, guard, 2, "np.copysign({1}, {0})")

    def op_testp(self, made, guard):
        test = {"finite": "np.isfinite({0})", "infinite": "np.isinf({0})", "notanumber": "np.isnan({0})"}[made.mods[0]]
        code = test.format(*self.inputs(made, TYPES[made.types[-1]], 1))
        self.put(made.operands[0], code, np.dtype(bool), guard)

    def op_popc(self, made, guard):
        code = f"N.population({self.use(made.operands[1], TYPES[made.types[-1]])})"
        self.put(made.operands[0], code, np.dtype("u4"), guard)

    def op_clz(self, made, guard):
        code = f"N.leading_zeros({self.use(made.operands[1], TYPES[made.types[-1]])})"
        self.put(made.operands[0], code, np.dtype("u4"), guard)

    def op_brev(self, made, guard):
        self.simple(made, guard, 1, "N.reversed_bits({0})")

    def shift(self, made, guard, function):
        dtype = TYPES[made.types[-1]]
        a, n = self.use(made.operands[1], dtype), self.use(made.operands[2], np.dtype("u4"))
        if made.operands[2] not in self.kernel.registers and int(made.operands[2], 0) < 8 * dtype.itemsize:
            code = f"{a} {'<<' if made.op == 'shl' else '>>'} {self.use(made.operands[2], dtype)}"
        else:
            code = f"{function}({a}, {n})"
        self.put(made.operands[0], code, dtype, guard)

    def op_shl(self, made, guard):
        self.shift(made, guard, "N.shift_left")

    def op_shr(self, made, guard):
        self.shift(made, guard, "N.shift_right")

    def op_bfe(self, made, guard):
        dtype, u4 = TYPES[made.types[-1]], np.dtype("u4")
        a, start, length = (self.use(o, t) for o, t in zip(made.operands[1:], (dtype, u4, u4), strict=True))
        self.put(made.operands[0], f"N.extracted({a}, {start}, {length})", dtype, guard)

    def op_bfi(self, made, guard):
        dtype, u4 = TYPES[made.types[-1]], np.dtype("u4")
        codes = [self.use(o, t) for o, t in zip(made.operands[1:], (dtype, dtype, u4, u4), strict=True)]
        self.put(made.operands[0], f"N.inserted({', '.join(codes)})", dtype, guard)

    def op_prmt(self, made, guard):
        self.simple(made, guard, 3, "N.permuted({0}, {1}, {2})")

    def op_shf(self, made, guard):
        self.simple(made, guard, 3, f"N.funnel({{0}}, {{1}}, {{2}}, {'l' in made.mods}, {'clamp' in made.mods})")

    def op_lop3(self, made, guard):
        self.simple(made, guard, 3, f"N.logic3({{0}}, {{1}}, {{2}}, {made.operands[4]})")

    def approximation(self, made, guard, exact=None):
        dtype = TYPES[made.types[-1]]
        (x,) = self.inputs(made, dtype, 1)
        code = exact.format(x) if exact and "approx" not in made.mods else f"N.approximate({made.op!r}, {x})"
        self.result(made, code, dtype, guard)

    op_ex2 = op_lg2 = op_rsqrt = op_sin = op_cos = op_tanh = approximation

    def op_rcp(self, made, guard):
        self.approximation(made, guard, "np.reciprocal({0})")

    def op_sqrt(self, made, guard):
        self.approximation(made, guard, "np.sqrt({0})")

    # ---- comparing, choosing, moving, converting ----
    def op_setp(self, made, guard):
        dtype = TYPES[made.types[-1]]
        a, b = self.inputs(made, dtype)
        kind, boolean = made.mods[0], None
        if made.mods[1] in ("and", "or", "xor"):
            boolean = made.mods[1]
        if kind in ("num", "nan"):
            code = f"np.isnan({a}) | np.isnan({b})"
            code = f"~({code})" if kind == "num" else code
        elif kind == "ne" and dtype.kind == "f":  # ordered
            code = f"({a} < {b}) | ({a} > {b})"
        elif kind in _COMPARISONS:
            code = f"{a} {_COMPARISONS[kind]} {b}"
        else:
            code = f"({a} {_COMPARISONS[kind[:-1]]} {b}) | np.isnan({a}) | np.isnan({b})"
        code = f"({code})"
        register, *second = made.operands[0].split("|")
        sign = {"and": "&", "or": "|", "xor": "^"}.get(boolean)
        for name, value in [(register, code), *((s, f"~{code}") for s in second)]:
            if boolean:
                value = f"{value} {sign} {self.use(made.operands[3], np.dtype(bool))}"
            self.put(name, value, np.dtype(bool), guard)

    def op_selp(self, made, guard):
        dtype = TYPES[made.types[-1]]
        a, b = (self.use(o, dtype) for o in made.operands[1:3])
        self.put(made.operands[0], f"np.where({self.use(made.operands[3], np.dtype(bool))}, {a}, {b})", dtype, guard)

    def op_slct(self, made, guard):
        dtype, condition = TYPES[made.types[0]], TYPES[made.types[1]]
        a, b = (self.use(o, dtype) for o in made.operands[1:3])
        c = self.use(made.operands[3], condition)
        self.put(made.operands[0], f"np.where({c} >= 0, {a}, {b})", dtype, guard)

    def op_mov(self, made, guard):
        target, value = made.operands[:2]
        if isinstance(value, list):  # {low, high} into one register
            size = self.kernel.registers[target].itemsize
            part, whole = np.dtype(f"u{size // len(value)}"), np.dtype(f"u{size}")
            codes = [
                f"({self.use(v, part)}.astype(u{size}) << u{size}.type({8 * part.itemsize * k}))"
                for k, v in enumerate(value)
            ]
            self.put(target, " | ".join(codes), whole, guard)
        elif isinstance(target, list):
            whole = TYPES[made.types[-1]]
            part = np.dtype(f"u{whole.itemsize // len(target)}")
            code = self.use(value, np.dtype(f"u{whole.itemsize}"))
            for k, register in enumerate(target):
                shifted = f"({code} >> u{whole.itemsize}.type({8 * part.itemsize * k})).astype(u{part.itemsize})"
                self.put(register, shifted, part, guard)
        else:
            dtype = TYPES[made.types[-1]]
            self.put(target, self.use(value, dtype), dtype, guard)

    def op_cvta(self, made, guard):
        space = next((s for s in ("shared", "local") if s in made.mods), None)
        code = self.use(made.operands[1], np.dtype("u8"))
        if space:
            code += f" {'-' if 'to' in made.mods else '+'} m.window({space!r})"
        self.put(made.operands[0], code, np.dtype("u8"), guard)

    def op_cvt(self, made, guard):
        if "bf16" in made.types:
            return self.convert_bf16(made, guard)
        want, have = (TYPES[t] for t in made.types)
        if "ftz" in made.mods and have == np.float32:
            x = f"N.flush({self.use(made.operands[1], have)})"
        else:
            x = self.use(made.operands[1], have)
        mode = next((m for m in made.mods if m in ("rni", "rzi", "rmi", "rpi", *_DIRECTED)), None)
        if want.kind in "iu" and have.kind == "f":
            code = f"N.to_integer({x}, {self.spell(want)}, {mode!r})"
        elif have.kind == "f" and mode in ("rni", "rzi", "rmi", "rpi"):
            code = f"N.whole({x}, {mode!r}).astype({self.spell(want)})"
        elif want.kind == "f" and mode in _DIRECTED:
            if have.itemsize > 4 and have.kind != "f":
                raise UnsupportedError(made.text)
            code = f"N.narrow(({x}).astype(f8), {self.spell(want)}, {mode!r})"
        elif "sat" in made.mods and want.kind in "iu":
            code = f"N.clipped({x}, {self.spell(want)})"
        else:
            code = f"({x}).astype({self.spell(want)})"
        self.result(made, code, want, guard)

    def convert_bf16(self, made, guard):
        want, have = made.types
        if (want, have) == ("bf16", "f32"):
            self.put(made.operands[0], f"N.to_bf16({self.use(made.operands[1], TYPES['f32'])})", TYPES["b16"], guard)
        elif (want, have) == ("f32", "bf16"):
            self.put(made.operands[0], f"N.from_bf16({self.use(made.operands[1], TYPES['b16'])})", TYPES["f32"], guard)
        else:
            raise UnsupportedError(made.text)
