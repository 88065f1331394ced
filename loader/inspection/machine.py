"""An unpickler that does nothing: its stack and memo, and the opcodes that are rare.

Both are followed as an unpickler keeps them, with values only as far as `values` knows them: enough to name what
GLOBAL, INST and STACK_GLOBAL import, and to find the end of an array that joblib wrote into the stream. What is not
known stays unknown and is counted.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from loader.bundle.pickles import WRAPPER
from loader.inspection.values import LONGEST_TEXT, LOST, OPAQUE, Dtype, Known, Memo, State, Wrapper, forget
from loader.inspection.window import NotFollowed, Window

_DEEPEST_STACK = 16_000_000
_MOST_MARKS = 1_000_000
_KEPT_STACK = 1000  # values below its top that are still known when it grows deep: a pickler's batches have as many
_MOST_GLOBALS = 10_000
_HIGHEST_PROTOCOL = 5

_KNOWN = {
    ("numpy", "dtype"): Known.DTYPE,
    ("copyreg", "_reconstructor"): Known.RECONSTRUCTOR,
    ("copy_reg", "_reconstructor"): Known.RECONSTRUCTOR,
}

# Opcodes with an argument whose size comes first, in so many bytes, by whether it may be a text.
_SIZED = {"X": 4, "\x8d": 8, "T": 4, "B": 4, "\x8e": 8, "\x96": 8, "C": 1, "U": 1, "\x8a": 1, "\x8b": 4}
_TEXTS = "X\x8dTU"


@dataclass
class Found:
    """What the pickles of one stream hold, as far as they were walked.

    Attributes:
        globals: (module, name, opcode, whether Python 2's names are translated) -> how often.
    """

    pickles: int = 0
    protocol: int = 0
    opcodes: int = 0
    calls: int = 0
    builds: int = 0
    persistent_ids: int = 0
    unknown_globals: int = 0
    arrays: int = 0
    array_bytes: int = 0
    globals: dict[tuple[str, str, str, bool], int] = field(default_factory=dict)
    extension_codes: dict[int, int] = field(default_factory=dict)


class Machine(ABC):
    """One pickle's stack and memo, over a window on its opcodes.

    Args:
        window: where the pickle is.
        found: what to add to.
        inlined: arrays follow their wrappers in the stream, as joblib reads them.
    """

    def __init__(self, window: Window, found: Found, *, inlined: bool) -> None:
        self._window, self._found, self._inlined = window, found, inlined
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo = Memo()
        self._protocol = self._frame_end = self._forgotten = 0
        self._wrappers = 0  # times that joblib's wrapper was pushed, less those that it was used as joblib does
        self._rare = {
            **dict.fromkeys(map(ord, _SIZED), self._sized),
            **dict.fromkeys(b"ILFSVgpPci", self._line),
            **dict.fromkeys(b"\x82\x83\x84", self._extension),
            0x80: self._proto,
            0x92: self._newobj_ex,
            0x93: self._stack_global,
            0x95: self._frame,
            0x98: self._nothing,
            ord("b"): self._build,
            ord("o"): self._obj,
            ord("d"): self._dict,
            ord("l"): self._from_mark,
            0x91: self._from_mark,
            ord("0"): self._pop,
            ord("1"): self._pop_mark,
            ord("2"): self._dup,
            ord("Q"): self._persistent,
        }

    @abstractmethod
    def run(self) -> None:
        """Follow opcodes up to STOP; the window's position ends after the last one that was followed.

        Raises:
            NotFollowed: the pickle is broken or not understood from some byte on.
        """

    def _bound_memory(self) -> None:
        """Forget what lies deep in the stack. A pickler's lists and dicts come in batches; a tuple may be that deep."""
        if len(self._stack) > _DEEPEST_STACK or len(self._marks) > _MOST_MARKS:
            raise NotFollowed("its stack grows without end")
        self._forgotten = min(self._forgotten, len(self._stack))
        if (top := len(self._stack) - _KEPT_STACK) > self._forgotten:
            self._stack[self._forgotten : top] = forget(self._stack[self._forgotten : top])
            self._forgotten = top

    # Each of these follows one opcode, whose argument begins at `pos`, and returns the index after it.

    def _nothing(self, _code: int, pos: int) -> int:
        return pos

    def _pop(self, _code: int, pos: int) -> int:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()
        return pos

    def _pop_mark(self, _code: int, pos: int) -> int:
        del self._stack[self._marks.pop() :]
        return pos

    def _dup(self, _code: int, pos: int) -> int:
        self._stack.append(self._stack[-1])
        self._wrappers += self._stack[-1] is Known.WRAPPER
        return pos

    def _from_mark(self, _code: int, pos: int) -> int:
        self._stack[self._marks.pop() :] = [OPAQUE]
        return pos

    def _dict(self, _code: int, pos: int) -> int:
        index = self._marks.pop()
        wrapping = index > 0 and type(self._stack[index - 1]) is Wrapper and index == len(self._stack)
        self._stack[index:] = [State() if wrapping else OPAQUE]
        return pos

    def _obj(self, code: int, pos: int) -> int:
        self._found.calls += 1
        return self._from_mark(code, pos)

    def _newobj_ex(self, _code: int, pos: int) -> int:
        self._found.calls += 1
        del self._stack[-2:]
        self._stack[-1] = OPAQUE
        return pos

    def _persistent(self, _code: int, pos: int) -> int:
        self._found.persistent_ids += 1
        self._stack[-1] = OPAQUE
        return pos

    def _proto(self, _code: int, pos: int) -> int:
        self._protocol = self._window.data[pos]
        self._found.protocol = max(self._found.protocol, self._protocol)
        if self._protocol > _HIGHEST_PROTOCOL:
            raise NotFollowed(f"it says protocol {self._protocol}, and {_HIGHEST_PROTOCOL} is the highest")
        return pos + 1

    def _frame(self, _code: int, pos: int) -> int:
        size = int.from_bytes(self._window.data[pos : pos + 8], "little")
        self._frame_end = self._window.start + pos + 8 + size
        return pos + 8

    def _extension(self, code: int, pos: int) -> int:
        width = {0x82: 1, 0x83: 2, 0x84: 4}[code]
        number = int.from_bytes(self._window.data[pos : pos + width], "little")
        self._count(self._found.extension_codes, number)
        self._stack.append(OPAQUE)
        return pos + width

    def _sized(self, code: int, pos: int) -> int:
        """Follow an opcode whose argument comes after its size."""
        width = _SIZED[chr(code)]
        size = int.from_bytes(self._window.data[pos : pos + width], "little")
        pos += width
        value: object = OPAQUE
        if size <= LONGEST_TEXT and chr(code) in _TEXTS:
            value = self._window.data[pos : pos + size]
            if chr(code) in "TU" and not value.isascii():
                value = OPAQUE
        elif code == 0x8A and size <= 8:
            value = int.from_bytes(self._window.data[pos : pos + size], "little", signed=True)
        self._stack.append(value)
        return self._window.skip(pos, size)

    def _line(self, code: int, pos: int) -> int:
        """Follow an opcode whose argument is a line of text."""
        line, pos = self._window.line(pos)
        letter = chr(code)
        if letter in "gp":
            try:
                index = int(line or b"")
                if index < 0:
                    raise ValueError
            except ValueError:
                raise NotFollowed("a memo entry has no number") from None
            if letter == "p":
                self._memo.put(index, self._stack[-1])
            else:
                value = self._memo.young.get(index, OPAQUE)
                value = self._memo.recall(index) if value is OPAQUE else value
                self._wrappers += value is Known.WRAPPER
                self._stack.append(value)
        elif letter in "ci":
            name, pos = self._window.line(pos)
            if letter == "i":
                self._found.calls += 1
                del self._stack[self._marks.pop() :]
            self._global(line, name, "GLOBAL" if letter == "c" else "INST")
        else:
            self._found.persistent_ids += letter == "P"
            self._stack.append(_text_value(letter, line))
        return pos

    def _stack_global(self, _code: int, pos: int) -> int:
        name, module = self._stack.pop(), self._stack.pop()
        self._global(module, name, "STACK_GLOBAL")
        return pos

    def _global(self, module: object, name: object, how: str) -> None:
        """Note an import, and push what it brings."""
        known: object = OPAQUE
        if isinstance(module, bytes) and isinstance(name, bytes):
            try:
                pair = module.decode(), name.decode()
            except UnicodeDecodeError:
                self._found.unknown_globals += 1
            else:
                self._count(self._found.globals, (*pair, how, self._protocol < 3))
                last = pair[1].rpartition(".")[2]  # any module that imports joblib's wrapper has it too
                known = Known.WRAPPER if last == WRAPPER else _KNOWN.get(pair, OPAQUE)
        else:
            self._found.unknown_globals += 1
        if known is Known.WRAPPER:
            self._wrappers += 1
            known = OPAQUE if how == "INST" else known
        self._stack.append(known)

    def _count(self, counts: dict[Any, int], key: object) -> None:
        counts[key] = counts.get(key, 0) + 1
        if len(counts) > _MOST_GLOBALS:
            raise NotFollowed(f"it names more than {_MOST_GLOBALS} different globals")

    def _called(self, function: object, arguments: object, offset: int) -> object:
        if isinstance(arguments, tuple) and arguments:
            if function is Known.DTYPE and isinstance(arguments[0], bytes):
                return Dtype(arguments[0])
            if function is Known.RECONSTRUCTOR:
                return self._made(arguments[0], offset)
        return OPAQUE

    def _made(self, kind: object, offset: int) -> object:
        if kind is not Known.WRAPPER:
            return OPAQUE
        self._wrappers -= 1
        return Wrapper(offset)

    def _set(self, index: int) -> None:
        """Put the keys and values from a stack index on into the dict below them."""
        state = self._stack[index - 1]
        assert isinstance(state, State)
        items = self._stack[index:]
        for key, value in zip(items[::2], items[1::2], strict=False):
            state[key if isinstance(key, bytes) else OPAQUE] = OPAQUE if isinstance(value, State | Wrapper) else value

    def _build(self, _code: int, pos: int) -> int:
        """Follow BUILD, and after a wrapper's the array that joblib wrote into the stream."""
        self._found.builds += 1
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Dtype):
            target.build(state)
        elif target is LOST:
            raise NotFollowed("an object from long before is built again")
        elif isinstance(target, Wrapper):
            target.build(state, self._window.start + pos)
            if self._inlined:
                self._stack[-1] = OPAQUE
                return self._array(target, pos)
        return pos

    def _array(self, wrapper: Wrapper, pos: int) -> int:
        window = self._window
        if window.start + pos < self._frame_end:
            raise NotFollowed("an array that joblib wrote into the stream begins within a frame")
        self._found.arrays += 1
        size = wrapper.array_size()
        if size is None:
            window.pos = pos
            type(self)(window, self._found, inlined=False).run()
            self._found.pickles -= 1
            return window.pos
        if wrapper.padded:
            pos = window.more(pos) if pos >= window.limit else pos
            pos = window.skip(pos + 1, window.data[pos])
        self._found.array_bytes += size
        return window.skip(pos, size)


def _text_value(letter: str, line: bytes | None) -> object:
    """Return the value that a line stands for after INT, STRING or UNICODE."""
    try:
        if line is None:
            return OPAQUE
        if letter == "I":
            return int(line, 0) if line not in (b"00", b"01") else OPAQUE
        if letter == "S" and len(line) > 1:
            text = codecs.escape_decode(line.strip()[1:-1])[0]
            return text if text.isascii() and len(text) <= LONGEST_TEXT else OPAQUE
        if letter == "V":
            text = line.decode("raw-unicode-escape").encode()
            return text if len(text) <= LONGEST_TEXT else OPAQUE
    except (ValueError, UnicodeError):
        pass
    return OPAQUE
