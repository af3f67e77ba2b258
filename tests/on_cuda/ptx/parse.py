"""The text of a PTX module as data: kernels, their parameters, variables, registers and instructions."""

import re
import struct
from dataclasses import dataclass, field

import numpy as np

TYPES = {f"{kind}{8 * size}": np.dtype(f"u{size}") for kind in "bu" for size in (1, 2, 4, 8)}
TYPES |= {f"s{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)}
TYPES |= {f"f{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)}
TYPES["pred"] = np.dtype(bool)
TYPES["bf16"] = np.dtype("u2")  # the upper half of a float32; only conversions know it

_DECLARED = re.compile(
    r"(?P<space>\.(?:param|shared|local|global|const))\s+(?:\.align\s+(?P<align>\d+)\s+)?(?:\.ptr\s[^,]*?)?"
    r"\.(?P<type>\w+)\s+(?:\.ptr\b[^,]*?\s)?(?P<name>[\w$%]+)\s*(?P<count>(?:\[\d*\])*)\s*(?:=\s*(?P<values>.*))?$",
    re.S,
)


class UnsupportedError(NotImplementedError):
    """PTX that this interpreter does not know."""


@dataclass(eq=False)
class Variable:
    """A declared piece of memory; ``size`` is None for dynamic shared memory."""

    name: str
    size: int | None
    align: int
    initial: bytes = b""
    offset: int = 0


@dataclass(eq=False)
class Instruction:
    text: str
    op: str
    mods: tuple[str, ...]
    operands: list
    guard: str | None = None  # the predicate register before it
    negated: bool = False
    line: str = ""  # of the source, if the module says so

    @property
    def types(self):
        return [m for m in self.mods if m in TYPES]


@dataclass(eq=False)
class Kernel:
    name: str
    parameters: list[Variable]
    constants: list[Variable]
    shared: list[Variable] = field(default_factory=list)
    local: list[Variable] = field(default_factory=list)
    registers: dict = field(default_factory=dict)  # name -> dtype
    code: list[Instruction] = field(default_factory=list)
    labels: dict = field(default_factory=dict)  # name -> index into code

    @property
    def shared_bytes(self):
        """Static shared memory."""
        return max((v.offset + v.size for v in self.shared if v.size is not None), default=0)

    @property
    def local_bytes(self):
        return max((v.offset + v.size for v in self.local), default=0)


class Module:
    """A PTX text with its kernels."""

    def __init__(self, text):
        text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.S)
        files = dict(re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text))
        self.kernels, shared, constants = {}, [], []
        bodies, outside = [], []
        at = 0
        for entry in re.finditer(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{", text):
            outside.append(text[at : entry.start()])
            at = _closing(text, entry.end())
            bodies.append((entry.group(1), entry.group(2), text[entry.end() : at - 1]))
        outside.append(text[at:])
        if ".func" in "".join(outside):
            raise UnsupportedError("functions that are called, not inlined")
        for statement in re.sub(r"\.(file|section|version|target|address_size)[^\n]*", "", "".join(outside)).split(";"):
            variable = _variable(statement)
            if variable:
                space, variable = variable
                (shared if space == "shared" else constants).append(variable)
        for name, parameters, body in bodies:
            kernel = Kernel(name, [_variable(p)[1] for p in parameters.split(",") if p.strip()], constants)
            kernel.shared = [v for v in shared if v.name in body]
            _Body(kernel, files).read(body)
            _place(kernel.shared)
            _place(kernel.local)
            self.kernels[name] = kernel

    def kernel(self, name=None):
        """The kernel of this name, or the only one."""
        if name is None:
            (name,) = self.kernels
        return self.kernels[name]


def _closing(text, at):
    depth = 1
    while depth:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return at


def _variable(text):
    found = _DECLARED.search(text.strip())
    if not found:
        return None
    item = TYPES[found["type"]]
    counts = re.findall(r"\[(\d*)\]", found["count"])
    size = None if "" in counts else item.itemsize * int(np.prod([int(n) for n in counts] or [1]))
    initial = b""
    if found["values"]:
        numbers = [constant(v.strip(), item) for v in found["values"].strip("{} \n").split(",")]
        initial = np.array(numbers, item).tobytes()
    return found["space"][1:], Variable(found["name"], size, int(found["align"] or item.itemsize), initial)


def _place(variables):
    """Give each variable its offset; dynamic shared memory comes last."""
    end = 0
    for variable in sorted(variables, key=lambda v: v.size is None):
        variable.offset = -(-end // variable.align) * variable.align
        end = variable.offset + (variable.size or 0)


def constant(text, dtype):
    """A literal as a NumPy scalar of this type."""
    if text[:2] in ("0f", "0F"):
        return dtype.type(struct.unpack(">f", bytes.fromhex(text[2:]))[0])
    if text[:2] in ("0d", "0D"):
        return dtype.type(struct.unpack(">d", bytes.fromhex(text[2:]))[0])
    if dtype.kind == "f" and re.search(r"[.eE]", text):
        return dtype.type(float(text))
    number = int(text.rstrip("U"), 0)
    if dtype.kind == "b":
        return np.bool_(number)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    return unsigned.type(number % (1 << 8 * dtype.itemsize)).view(dtype)


class _Body:
    """Reads the statements of a kernel; inner scopes, such as inline assembly has, get names of their own."""

    def __init__(self, kernel, files):
        self.kernel, self.files, self.line = kernel, files, ""
        self.scopes, self.count = [{}], 0

    def read(self, text):
        statement, depth = "", 0
        for c in re.sub(r"(\.loc\b[^\n]*)", r"\1;", text):
            if c == "{" and not statement.strip() and not depth:
                self.count += 1
                self.scopes.append({})
                statement = ""
            elif c == "}" and not depth:
                self.scopes.pop()
            elif c == ";" and not depth:
                self.statement(statement.strip())
                statement = ""
            elif c == ":" and not depth and re.fullmatch(r"\s*[\w$]+", statement) and "::" not in statement:
                self.kernel.labels[self.renamed(statement.strip())] = len(self.kernel.code)
                statement = ""
            else:
                depth += {"{": 1, "}": -1}.get(c, 0)
                statement += c

    def renamed(self, name):
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return name

    def declare(self, name):
        own = name if len(self.scopes) == 1 else f"{name}@{self.count}"
        self.scopes[-1][name] = own
        return own

    def statement(self, text):
        if not text:
            return
        if text.split()[0] == ".loc":
            number, line = text.split()[1:3]
            self.line = f"{self.files.get(number, '?')}:{line}" if line != "0" else self.line
        elif text.startswith(".reg"):
            kind, names = re.match(r"\.reg\s+\.(\w+)\s+(.*)", text, re.S).groups()
            for name in names.split(","):
                base, count = re.match(r"([%\w$]+)(?:<(\d+)>)?", name.strip()).groups()
                for n in [base] if count is None else [f"{base}{i}" for i in range(int(count))]:
                    self.kernel.registers[self.declare(n)] = TYPES[kind]
        elif text.startswith("."):
            found = _variable(text)
            if found:
                space, variable = found
                {"shared": self.kernel.shared, "local": self.kernel.local}[space].append(variable)
            elif not text.startswith((".pragma", ".branchtargets")):
                raise UnsupportedError(text)
        else:
            self.kernel.code.append(self.instruction(" ".join(text.split())))

    def instruction(self, text):
        guard, name, mods, rest = re.match(r"(@!?[%\w$]+\s+)?([a-z]\w*)((?:[.:]+\w+)*)\s*(.*)$", text, re.S).groups()
        operands = [self.operand(o) for o in _split(rest)]
        made = Instruction(text, name, tuple(m for m in re.split(r"[.:]+", mods) if m), operands, line=self.line)
        if guard:
            made.negated = guard[1] == "!"
            made.guard = self.renamed(guard.strip().lstrip("@!"))
        return made

    def operand(self, text):
        """A name or literal; a list for ``{a, b}``; ("at", name, offset) for ``[name+offset]``."""
        if text.startswith("{"):
            return [self.operand(o) for o in _split(text[1:-1])]
        if text.startswith("["):
            base, sign, offset = re.match(r"\[\s*([%\w$.]+)\s*(?:([+-])\s*(-?\w+))?\s*\]", text).groups()
            return "at", self.renamed(base), int(offset or "0", 0) * (-1 if sign == "-" else 1)
        return self.renamed(text)


def _split(text):
    """At commas that are in no brackets."""
    parts, depth, part = [], 0, ""
    for c in text:
        depth += {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}.get(c, 0)
        if c == "," and not depth:
            parts.append(part.strip())
            part = ""
        else:
            part += c
    return [*parts, part.strip()] if part.strip() else parts
