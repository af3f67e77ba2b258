"""The address space of a launch, and the watch over it.

A 64-bit address is a window (its upper bits) and an offset. Window 0 is null; shared and local memory have one each;
every global array has one of its own, so that no overrun of an array lands in its neighbour. Arrays that overlap in
host memory, such as two views of one buffer, share a window.
"""

import numpy as np

U64 = np.uint64
WINDOW = 36  # bits of an offset
SHARED, LOCAL, GLOBAL = 1, 2, 3  # the first global array's window is GLOBAL, the next one's GLOBAL + 1
_NOBODY, _SEVERAL = -1, -2


class Fault(RuntimeError):
    """A kernel did what it must not. ``kind`` is a word for tests; the message has the thread and the instruction."""

    def __init__(self, kind, message):
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Space:
    """Bytes of one window, seen as arrays of any type; ``each`` bytes per owner (block or thread) one after another."""

    def __init__(self, name, size, owners=1):
        self.name, self.size, self.first = name, size, 0  # offsets below `first` are no part of it
        self.each = -(-size // 16) * 16
        self.bytes = np.zeros(max(16, self.each * owners), np.uint8)
        self.views = {}
        self.watch = None

    def view(self, dtype):
        if dtype not in self.views:
            self.views[dtype] = self.bytes.view(dtype)
        return self.views[dtype]


class Watch:
    """Finds races in a space.

    Accesses are noted as they happen and compared when threads have met at a barrier, or have finished: between two
    barriers, no thread may touch a word that another one writes. Two blocks never meet: none may touch a word that
    another one writes, at any time. Atomic operations are not noted.
    """

    _ENOUGH = 1 << 24  # noted words; more are thinned out

    def __init__(self, space, granule, across_blocks):
        words = len(space.bytes) // granule
        self.space, self.granule = space, granule
        self.owner = np.full(words, _NOBODY, np.int32)
        self.written = np.zeros(words, bool)
        self.blocks = {k: np.full(words, _NOBODY, np.int32) for k in ("read", "write")} if across_blocks else None
        self.notes = {"read": [], "write": []}
        self.noted = 0

    def words(self, byte, size):
        """Indices of the words in ``size`` bytes from each of these offsets: (accesses, words of one)."""
        first = byte // self.granule
        count = max(1, size // self.granule)
        return first if count == 1 else (first[:, None] + np.arange(count)).ravel()

    def note(self, kind, words, threads, instruction):
        if len(words) != len(threads):
            threads = np.repeat(threads, len(words) // len(threads))
        self.notes[kind].append((words, threads, instruction))
        if kind == "write":
            self.written[words] = True
        self.noted += len(words)
        if self.noted > self._ENOUGH:
            self._thin()

    def _thin(self):
        """Forget repeated notes of one word by one thread."""
        for kind, notes in self.notes.items():
            if notes:
                keys = np.concatenate([w.astype(np.int64) << 32 | t for w, t, _ in notes])
                labels = np.repeat(np.arange(len(notes)), [len(w) for w, _, _ in notes])
                keys, at = np.unique(keys, return_index=True)
                texts = [i for _, _, i in notes]
                self.notes[kind] = [
                    (keys[m] >> 32, (keys[m] & 0xFFFFFFFF).astype(np.int32), texts[n])
                    for n in np.unique(labels[at])
                    for m in [labels[at] == n]
                ]
        self.noted = sum(len(w) for notes in self.notes.values() for w, _, _ in notes)
        self._ENOUGH = max(self._ENOUGH, 2 * self.noted)

    def settle(self, machine):
        """Compare what was noted since the last barrier; begin anew."""
        owner = self.owner
        for words, threads, _ in self.notes["write"]:
            owner[words] = threads
        for words, threads, instruction in self.notes["write"]:
            self._refuse(machine, owner[words] != threads, words, threads, owner, "write", instruction)
        for words, threads, instruction in self.notes["read"]:
            by = owner[words]
            self._refuse(machine, (by != _NOBODY) & (by != threads), words, threads, owner, "read", instruction)
        for words, _, _ in self.notes["write"]:
            owner[words] = _NOBODY
        if self.blocks is not None:
            self._settle_blocks(machine)
        self.notes = {"read": [], "write": []}
        self.noted = 0

    def _refuse(self, machine, bad, words, threads, others, kind, instruction):
        if bad.any():
            i = np.flatnonzero(bad)[0]
            raise Fault(
                "race",
                f"{machine.who(threads[i])} and {machine.who(others[words[i]])} touch {self.space.name} at byte "
                f"{words[i] * self.granule} with no barrier between them, one of them writing; "
                f"{kind} by: {machine.where(instruction)}",
            )

    def _settle_blocks(self, machine):
        for kind in ("read", "write"):
            for words, threads, instruction in self.notes[kind]:
                block = threads // machine.block_size
                for other in ("write",) if kind == "read" else ("read", "write"):
                    seen = self.blocks[other][words]
                    bad = (seen != _NOBODY) & (seen != block)
                    if bad.any():
                        i = np.flatnonzero(bad)[0]
                        other = "several blocks" if seen[i] == _SEVERAL else f"block {machine.block(seen[i])}"
                        raise Fault(
                            "race",
                            f"{machine.who(threads[i])} and {other} touch {self.space.name} at byte "
                            f"{words[i] * self.granule}, one of them writing; blocks never wait for each other; "
                            f"{kind} by: {machine.where(instruction)}",
                        )
                table = self.blocks[kind]
                seen = table[words]
                table[words] = np.where((seen == _NOBODY) | (seen == block), block, _SEVERAL)
                mixed = (table[words] != block) & (table[words] != _SEVERAL)
                table[words[mixed]] = _SEVERAL


class Memory:
    """All spaces of a launch.

    Parameters
    ----------
    kernel : Kernel
    blocks, threads : int
        Of the launch; shared memory there is once a block, local memory once a thread.
    dynamic : int
        Bytes of dynamic shared memory.
    arrays : dict of name -> array
        Changed by `write_back`.
    """

    def __init__(self, kernel, blocks, threads, dynamic, arrays):
        self.symbols, size = {}, kernel.shared_bytes
        for v in kernel.shared:
            self.symbols[v.name] = v.offset
            size = max(size, v.offset + (dynamic if v.size is None else v.size))
        for v in kernel.local:
            self.symbols[v.name] = v.offset
        self.spaces = {
            SHARED: Space("shared memory", size, blocks),
            LOCAL: Space("local memory", kernel.local_bytes, threads),
        }
        self.spaces[SHARED].watch = Watch(self.spaces[SHARED], _granule(kernel, "shared"), False)
        self.globals, self.pointers = [], {}
        self._register(arrays, _granule(kernel, "global"))
        for v in kernel.constants:
            if v.size is not None and (v.initial or v.name in " ".join(i.text for i in kernel.code)):
                space = self._new(f"constant {v.name}", v.size)
                space.bytes[: len(v.initial)] = np.frombuffer(v.initial, np.uint8)
                self.symbols[v.name] = (GLOBAL + len(self.globals) - 1) << WINDOW

    def _new(self, name, size):
        space = Space(name, size)
        self.spaces[GLOBAL + len(self.globals)] = space
        self.globals.append(space)
        return space

    def _register(self, arrays, granule):
        self.copies, group = [], []
        spans = sorted((*np.lib.array_utils.byte_bounds(a), name) for name, a in arrays.items() if a.size)
        for low, high, name in [*spans, (1 << 64, 1 << 64, None)]:
            if group and low >= max(h for _, h, _ in group):
                self._place(group, arrays, granule)
                group = []
            group.append((low, high, name))
        for name, a in arrays.items():
            if not a.size:
                self._new(name, 0)
                self.pointers[name] = (GLOBAL + len(self.globals) - 1) << WINDOW

    def _place(self, group, arrays, granule):
        """One window for arrays that overlap."""
        start, end = group[0][0], max(h for _, h, _ in group)
        # A device allocation is aligned to 256 bytes; a view keeps its distance from the start of its buffer.
        buffer = arrays[group[0][2]]
        while isinstance(buffer.base, np.ndarray):
            buffer = buffer.base
        shift = (start - np.lib.array_utils.byte_bounds(buffer)[0]) % 256
        names = ", ".join(f"{n} {arrays[n].dtype}{list(arrays[n].shape)}" for _, _, n in group)
        space = self._new(names, shift + end - start)
        space.first = shift
        space.watch = Watch(space, granule, True)
        window = (GLOBAL + len(self.globals) - 1) << WINDOW
        for low, _, name in group:
            self.pointers[name] = window + shift + arrays[name].ctypes.data - start
            self.copies.append((arrays[name], space, shift + low - start))
        for array, place, at in self.copies[-len(group) :]:
            _window_of(array, place, at)[...] = array

    def write_back(self):
        for array, space, at in self.copies:
            if array.flags.writeable:
                array[...] = _window_of(array, space, at)

    def watches(self):
        return [s.watch for s in self.spaces.values() if s.watch is not None]


def _window_of(array, space, at):
    """The bytes of a space from ``at`` on as an array with the shape and strides of this one."""
    low = np.lib.array_utils.byte_bounds(array)[0]
    offset = at + array.ctypes.data - low
    return np.ndarray(array.shape, array.dtype, space.bytes, offset, array.strides)


def _granule(kernel, space):
    """Bytes that are watched as one: 4, or fewer if the kernel has narrower accesses."""
    sizes = [4]
    for i in kernel.code:
        if i.op in ("ld", "st", "ldu", "atom", "red") and (space in i.mods or not {"shared", "global"} & set(i.mods)):
            kind = next((t for t in reversed(i.mods) if t[-1].isdigit() and t[0] in "bsuf"), None)
            if kind and "param" not in i.mods and "local" not in i.mods:
                sizes.append(int(kind.lstrip("bsuf")) // 8)
    return min(sizes)
