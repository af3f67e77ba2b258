"""The threads of a launch."""

import functools

import numpy as np

from ptx.memory import LOCAL, SHARED, WINDOW, Fault, Memory
from ptx.translate import WORK, translate


class Pointer:
    """An argument that is an array's address alone, as C passes it."""

    def __init__(self, array):
        self.array = array


_translated = functools.lru_cache(maxsize=256)(lambda kernel: translate(kernel))


def launch(kernel, grid, block, arguments, *, dynamic=0, watch=True):
    """Run a kernel on NumPy arrays, which it changes in place.

    Parameters
    ----------
    kernel : Kernel
        Of `Module.kernel`.
    grid, block : int or tuple of int
        Blocks, and threads of a block, in up to three directions.
    arguments : sequence or dict
        Arrays and scalars, laid out as Numba passes them: an array is 0, 0, its size, the size of an item, its address,
        its shape and its strides; a Python int is 8 bytes, a float is a float64. A `Pointer` is the address alone. The
        names of a dict appear in faults.
    dynamic : int
        Bytes of dynamic shared memory.
    watch : bool
        Whether to look for races and for reads of unwritten shared memory. Bounds are always checked.

    Returns
    -------
    Machine
        With ``runs``, how many threads ran each basic block, and `work`.

    Raises
    ------
    Fault
    UnsupportedError
        If the kernel has instructions that are not known here.
    """
    named = arguments if isinstance(arguments, dict) else {f"argument {i}": a for i, a in enumerate(arguments)}
    grid, block = _three(grid), _three(block)
    memory = Memory(
        kernel,
        int(np.prod(grid)),
        int(np.prod(grid)) * int(np.prod(block)),
        dynamic,
        {n: a.array if isinstance(a, Pointer) else a for n, a in _leaves(named) if isinstance(a, np.ndarray | Pointer)},
    )
    machine = Machine(kernel, grid, block, memory, _words(named, memory), watch)
    machine.special["%dynamic_smem_size"] = np.array(dynamic, np.uint32)
    with np.errstate(all="ignore"):
        machine.run()
    memory.write_back()
    return machine


def _three(size):
    size = (size,) if isinstance(size, int | np.integer) else tuple(size)
    return (*map(int, size), *(1,) * (3 - len(size)))


def _leaves(named):
    """(name, value) with tuples taken apart."""
    for name, value in named.items():
        if isinstance(value, tuple):
            yield from _leaves({f"{name}[{i}]": v for i, v in enumerate(value)})
        else:
            yield name, value


def _words(named, memory):
    """The bytes of each parameter, in order."""
    words = []
    for name, value in _leaves(named):
        if isinstance(value, np.ndarray):
            numbers = [0, 0, value.size, value.itemsize, memory.pointers[name], *value.shape, *value.strides]
            words += [np.int64(n).tobytes() for n in numbers]
        elif isinstance(value, Pointer):
            words.append(np.int64(memory.pointers[name]).tobytes())
        elif isinstance(value, bool | np.bool_):
            words.append(bytes([value]))
        elif isinstance(value, int):
            words.append(np.int64(value).tobytes())
        else:
            words.append((np.float64(value) if isinstance(value, float) else value).tobytes())
    return words


class Group:
    """Threads that are at the same place of the program."""

    def __init__(self, machine, ids):
        self.machine, self.ids = machine, ids
        self.all = len(ids) == machine.threads
        self.index = slice(None) if self.all else ids
        self._owner = None

    def special(self, name):
        value = self.machine.special[name]
        return value[self.index] if value.ndim else value

    @property
    def block(self):
        if self._owner is None:
            self._owner = (self.ids // self.machine.block_size).astype(np.int64)
        return self._owner


class Machine:
    """State of a launch: registers, memory, and who waits where."""

    def __init__(self, kernel, grid, block, memory, words, watch):
        self.kernel, self.grid, self.block_shape, self.memory, self.watch = kernel, grid, block, memory, watch
        self.block_size = int(np.prod(block))
        self.threads = int(np.prod(grid)) * self.block_size
        if len(words) != len(kernel.parameters):
            raise TypeError(f"{kernel.name} takes {len(kernel.parameters)} words, got {len(words)}")
        for parameter, word in zip(kernel.parameters, words, strict=True):
            if parameter.size != len(word):
                raise TypeError(f"{kernel.name}: {parameter.name} has {parameter.size} bytes, got {len(word)}")
        self.words = {p.name: w for p, w in zip(kernel.parameters, words, strict=True)}
        self.blocks = _translated(kernel)
        self.registers = _Registers(kernel, self.threads)
        self.special = self._special()
        self.runs = [0] * len(self.blocks)

    def _special(self):
        i = np.arange(self.threads)
        thread, block, (bx, by, _), (gx, gy, _) = i % self.block_size, i // self.block_size, self.block_shape, self.grid
        values = {
            "%tid.x": thread % bx,
            "%tid.y": thread // bx % by,
            "%tid.z": thread // (bx * by),
            "%ctaid.x": block % gx,
            "%ctaid.y": block // gx % gy,
            "%ctaid.z": block // (gx * gy),
            "%laneid": thread % 32,
            "%warpid": thread // 32,
        }
        for n, axis in enumerate("xyz"):
            values |= {f"%ntid.{axis}": np.array(self.block_shape[n]), f"%nctaid.{axis}": np.array(self.grid[n])}
        return {name: v.astype(np.uint32) for name, v in values.items()}

    # ---- names, for messages ----
    def block(self, number):
        gx, gy, _ = self.grid
        return (int(number % gx), int(number // gx % gy), int(number // (gx * gy)))

    def who(self, thread):
        if thread < 0:
            return "another thread"
        bx, by, _ = self.block_shape
        n = int(thread) % self.block_size
        return f"thread {(n % bx, n // bx % by, n // (bx * by))} of block {self.block(int(thread) // self.block_size)}"

    def where(self, instruction):
        made = self.kernel.code[instruction]
        return f"{made.text}" + (f" ({made.line})" if made.line else "")

    # ---- running ----
    def run(self):
        """Run all threads to their end.

        The group that is lowest in the program goes first: the others meet it there, which is where the two sides of a
        branch come together again. Barriers open when no thread can go on.
        """
        ready, self.waiting = {0: np.arange(self.threads)}, np.full(self.threads, -1)
        watches = self.memory.watches() if self.watch else []
        while True:
            if not ready:
                ready = self._open_barriers()
                for watch in watches:
                    watch.settle(self)
                if not ready:
                    return
            at = min(ready)
            ids = ready.pop(at)
            if at == len(self.blocks):
                continue
            block, group = self.blocks[at], Group(self, ids)
            taken = block.run(self, self.registers, group, group.index)
            self.runs[at] += len(ids)
            if block.end == "bar":
                self.waiting[ids] = at
            elif block.end == "bra":
                if taken is None:
                    _join(ready, block.target, ids)
                else:
                    taken = np.broadcast_to(taken, len(ids))
                    _join(ready, block.target, ids[taken])
                    _join(ready, at + 1, ids[~taken])
            elif block.end == "":
                _join(ready, at + 1, ids)

    def _open_barriers(self):
        """Let the blocks go on whose threads all wait at the same barrier."""
        waiting = self.waiting.reshape(-1, self.block_size)
        some = (waiting >= 0).any(1)
        if not some.any():
            return {}
        bad = some & (waiting != waiting[:, :1]).any(1)
        if bad.any():
            block = np.flatnonzero(bad)[0]
            first = np.flatnonzero(waiting[block] >= 0)[0]
            at = waiting[block, first]
            other = np.flatnonzero(waiting[block] != at)[0]
            place = waiting[block, other]
            does = "has ended" if place < 0 else f"waits at {self.where(self.blocks[place].last)}, another one"
            raise Fault(
                "barrier",
                f"{self.who(block * self.block_size + first)} waits at {self.where(self.blocks[at].last)}, "
                f"thread {other} of the block {does}",
            )
        ready = {}
        for at in np.unique(self.waiting[self.waiting >= 0]):
            ready[int(at) + 1] = np.flatnonzero(self.waiting == at)
        self.waiting[:] = -1
        return ready

    def work(self):
        """What all threads together did; see `translate.work`."""
        return {key: sum(b.work[key] * n for b, n in zip(self.blocks, self.runs, strict=True)) for key in WORK}

    # ---- what the translated blocks call ----
    def parameter(self, name, offset, dtype):
        return np.frombuffer(self.words[name], dtype, 1, offset)[0]

    def symbol(self, name):
        return np.uint64(self.memory.symbols[name])

    def window(self, space):
        return np.uint64({"shared": SHARED, "local": LOCAL}[space] << WINDOW)

    def load(self, group, instruction, space, dtype, count, address, mask=None):
        """``count`` arrays, one value a thread; 0 where the mask is False."""
        results = None
        for place, byte, ids, part in self._places(group, instruction, space, dtype.itemsize * count, address, mask):
            if self.watch and place.watch is not None:
                words = place.watch.words(byte, dtype.itemsize * count)
                if place is self.memory.spaces[SHARED]:
                    self._written(place, words, ids, instruction)
                place.watch.note("read", words, ids, instruction)
            view, index = place.view(dtype), byte // dtype.itemsize
            values = [view[index + k] for k in range(count)]
            if part is None:
                return values
            if results is None:
                results = [np.zeros(len(group.ids), dtype) for _ in range(count)]
            for result, value in zip(results, values, strict=True):
                result[part] = value
        return results or [np.zeros(len(group.ids), dtype) for _ in range(count)]

    def _written(self, place, words, ids, instruction):
        unwritten = ~place.watch.written[words]
        if unwritten.any():
            i = np.flatnonzero(unwritten)[0]
            raise Fault(
                "unwritten",
                f"{self.who(ids[i * len(ids) // len(words)])} reads shared memory that nobody has written, byte "
                f"{words[i] * place.watch.granule % max(place.each, 1)}: {self.where(instruction)}",
            )

    def store(self, group, instruction, space, dtype, values, address, mask=None):
        size = dtype.itemsize * len(values)
        for place, byte, ids, part in self._places(group, instruction, space, size, address, mask):
            if place.name.startswith("constant"):
                raise Fault("bounds", f"{self.who(ids[0])} writes to a constant: {self.where(instruction)}")
            if self.watch and place.watch is not None:
                place.watch.note("write", place.watch.words(byte, size), ids, instruction)
            view, index = place.view(dtype), byte // dtype.itemsize
            for k, value in enumerate(values):
                view[index + k] = value if part is None or np.ndim(value) == 0 else value[part]

    def atomic(self, group, instruction, space, dtype, kind, values, address, mask=None):
        """Threads one after another, in their order; the values from before."""
        results = np.zeros(len(group.ids), dtype)
        values = [np.broadcast_to(v, len(group.ids)) for v in values]
        operation = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or}
        operation |= {"xor": np.bitwise_xor, "exch": lambda old, new: new}
        for place, byte, _, part in self._places(group, instruction, space, dtype.itemsize, address, mask):
            view, index = place.view(dtype), byte // dtype.itemsize
            part = np.arange(len(group.ids)) if part is None else part
            for i, j in zip(part, index, strict=True):
                results[i] = view[j]
                if kind == "cas":
                    view[j] = values[1][i] if view[j] == values[0][i] else view[j]
                else:
                    view[j] = operation[kind](view[j], values[0][i])
            if place.watch is not None:
                place.watch.written[place.watch.words(byte, dtype.itemsize)] = True
        return results

    def _places(self, group, instruction, space, size, address, mask):
        """(space, offsets in its bytes, threads, their positions in the group or None for all) of an access."""
        ids, part = group.ids, None
        address = np.broadcast_to(address, len(ids))
        if mask is not None:
            part = np.flatnonzero(np.broadcast_to(mask, len(ids)))
            ids, address = ids[part], address[part]
            if not len(ids):
                return
        if space in ("shared", "local"):
            number = SHARED if space == "shared" else LOCAL
            yield self._checked(group, instruction, number, address.astype(np.int64), size, ids, part)
            return
        windows = address >> np.uint64(WINDOW)
        offsets = (address & np.uint64((1 << WINDOW) - 1)).view(np.int64)
        if (windows == windows[0]).all():
            yield self._checked(group, instruction, int(windows[0]), offsets, size, ids, part)
            return
        part = np.arange(len(ids)) if part is None else part
        for window in np.unique(windows):
            m = windows == window
            yield self._checked(group, instruction, int(window), offsets[m], size, ids[m], part[m])

    def _checked(self, group, instruction, window, offset, size, ids, part):
        half = 1 << (WINDOW - 1)
        if offset.max() >= half and window + 1 in self.memory.spaces:  # just before the next array
            window, offset = window + 1, np.where(offset >= half, offset - 2 * half, offset)
        place = self.memory.spaces.get(window)
        if place is None:
            raise Fault("bounds", f"{self.who(ids[0])} uses a wild address: {self.where(instruction)}")
        bad = (offset < place.first) | (offset > place.size - size)
        if bad.any():
            i = np.flatnonzero(bad)[0]
            raise Fault(
                "bounds",
                f"{self.who(ids[i])} at bytes {offset[i] - place.first} to {offset[i] - place.first + size} of "
                f"{place.name}, which has {place.size - place.first}: {self.where(instruction)}",
            )
        if (offset & (size - 1)).any():
            i = np.flatnonzero(offset & (size - 1))[0]
            raise Fault(
                "alignment",
                f"{self.who(ids[i])} reads or writes {size} bytes at byte {offset[i]} of {place.name}: "
                f"{self.where(instruction)}",
            )
        if window == SHARED:
            owner = group.block if part is None else ids // self.block_size
            offset = offset + owner * place.each
        elif window == LOCAL:
            offset = offset + ids.astype(np.int64) * place.each
        return place, offset, ids, part


class _Registers(dict):
    """Made when first named: most registers never leave their basic block."""

    def __init__(self, kernel, threads):
        self.kernel, self.threads = kernel, threads

    def __missing__(self, name):
        self[name] = np.zeros(self.threads, self.kernel.registers[name])
        return self[name]


def _join(ready, at, ids):
    if len(ids):
        ready[at] = np.sort(np.concatenate([ready[at], ids])) if at in ready else ids
