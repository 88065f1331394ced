"""Walking over a pickle's opcodes without doing what they say.

A pickle that an unpickler would refuse is followed up to the opcode that it refuses: what comes before would run.
"""

from __future__ import annotations

import pickletools

from loader.inspection.machine import Found, Machine
from loader.inspection.values import LONGEST_TEXT, OPAQUE, Known, State, Wrapper, tuple_of
from loader.inspection.window import NotFollowed, Window

# Opcodes that push one value of which nothing is known, by the size of their argument; -1 for all others.
_PUSHES = [-1] * 256
for _opcode in pickletools.opcodes:
    _size = 0 if _opcode.arg is None else _opcode.arg.n
    if not _opcode.stack_before and len(_opcode.stack_after) == 1 and _size >= 0 and _opcode.name not in {
        "BININT", "BININT1", "BININT2", "NONE", "EMPTY_TUPLE", "MARK", "EMPTY_DICT",
        "GET", "BINGET", "LONG_BINGET", "EXT1", "EXT2", "EXT4",
    }:  # fmt: skip
        _PUSHES[ord(_opcode.code)] = _size


def walk(window: Window, found: Found) -> None:
    """Walk over one pickle, from the window's position to the byte after its STOP.

    Args:
        window: where it is; its position ends after the last opcode that was followed.
        found: what to add to.

    Raises:
        NotFollowed: the pickle is broken or not understood from some byte on.
    """
    _Walk(window, found, inlined=True).run()


class _Walk(Machine):
    def run(self) -> None:
        """Follow opcodes up to STOP. The frequent ones are here, the most frequent first; this loop is all the time."""
        window, stack, marks, memo, found = self._window, self._stack, self._marks, self._memo, self._found
        push, pop, recalled, pushes = stack.append, stack.pop, memo.young.get, _PUSHES
        data, limit, pos, count = window.data, window.limit, window.pos, 0
        base, begin = window.start, pos  # where data[0] is in the stream, and the opcode in data
        try:
            while True:
                if pos >= limit:
                    self._bound_memory()
                    pos = window.more(pos)
                    data, limit, base = window.data, window.limit, window.start
                begin = pos
                code = data[pos]
                pos += 1
                count += 1
                if code == 0x94:  # MEMOIZE
                    if (value := stack[-1]) is OPAQUE and memo.dense:
                        memo.size += 1
                    else:
                        memo.memoize(value)
                elif code in (0x68, 0x6A):  # BINGET, LONG_BINGET
                    if code == 0x68:
                        index = data[pos]
                        pos += 1
                    else:
                        index = int.from_bytes(data[pos : pos + 4], "little")
                        pos += 4
                    if (value := recalled(index, OPAQUE)) is OPAQUE and memo.old:
                        value = memo.recall(index)
                    if value is Known.WRAPPER:
                        self._wrappers += 1
                    push(value)
                elif (size := pushes[code]) >= 0:
                    pos += size
                    push(OPAQUE)
                elif code == 0x4B:  # BININT1
                    push(data[pos])
                    pos += 1
                elif code == 0x8C:  # SHORT_BINUNICODE
                    size = data[pos]
                    push(data[pos + 1 : pos + 1 + size])
                    pos += 1 + size
                elif code == 0x4E:  # NONE
                    push(None)
                elif code == 0x28:  # MARK
                    marks.append(len(stack))
                elif code == 0x75:  # SETITEMS
                    index = marks.pop()
                    if type(stack[index - 1]) is State:
                        self._set(index)
                    del stack[index:]
                elif code in (0x65, 0x90):  # APPENDS, ADDITEMS
                    del stack[marks.pop() :]
                elif code == 0x61:  # APPEND
                    pop()
                elif code in (0x71, 0x72):  # BINPUT, LONG_BINPUT
                    if code == 0x71:
                        index = data[pos]
                        pos += 1
                    else:
                        index = int.from_bytes(data[pos : pos + 4], "little")
                        pos += 4
                    if (value := stack[-1]) is OPAQUE and memo.dense and index == memo.size:
                        memo.size += 1
                    else:
                        memo.put(index, value)
                elif code == 0x4A:  # BININT
                    push(int.from_bytes(data[pos : pos + 4], "little", signed=True))
                    pos += 4
                elif code == 0x4D:  # BININT2
                    push(data[pos] | data[pos + 1] << 8)
                    pos += 2
                elif code == 0x7D:  # EMPTY_DICT
                    push(State() if stack and type(stack[-1]) is Wrapper else OPAQUE)
                elif code == 0x29:  # EMPTY_TUPLE
                    push(())
                elif code == 0x81:  # NEWOBJ
                    found.calls += 1
                    pop()
                    stack[-1] = OPAQUE if (value := stack[-1]) is OPAQUE else self._made(value, base + begin)
                elif code == 0x62 and stack[-2] is OPAQUE:  # BUILD
                    found.builds += 1
                    pop()
                elif 0x85 <= code <= 0x87:  # TUPLE1, TUPLE2, TUPLE3
                    index = len(stack) - (code - 0x84)
                    if index < 0:
                        raise IndexError
                    stack[index:] = [tuple_of(stack[index:])]
                elif code == 0x74:  # TUPLE
                    index = marks.pop()
                    stack[index:] = [tuple_of(stack[index:])]
                elif code == 0x52:  # REDUCE
                    found.calls += 1
                    value = pop()
                    stack[-1] = OPAQUE if stack[-1] is OPAQUE else self._called(stack[-1], value, base + begin)
                elif code == 0x58 and (size := int.from_bytes(data[pos : pos + 4], "little")) <= LONGEST_TEXT:
                    push(data[pos + 4 : pos + 4 + size])  # BINUNICODE
                    pos += 4 + size
                elif code == 0x73:  # SETITEM
                    if type(stack[-3]) is State:
                        self._set(len(stack) - 2)
                    del stack[-2:]
                elif code == 0x2E:  # STOP
                    pop()
                    window.pos = begin = pos
                    if window.start + pos < self._frame_end and not self._inlined:
                        raise NotFollowed("an array's own pickle ends within a frame")
                    if self._wrappers:
                        raise NotFollowed(
                            "joblib's array wrapper is used as joblib never does: its arrays are not known"
                        )
                    found.pickles += 1
                    return
                elif (rare := self._rare.get(code)) is not None:
                    pos = rare(code, pos)
                    data, limit, base = window.data, window.limit, window.start
                else:
                    raise NotFollowed(f"no opcode has the code 0x{code:02x}")
        except (IndexError, NotFollowed) as error:
            problem = error if isinstance(error, NotFollowed) else NotFollowed("an opcode takes more than there is")
            if problem.offset is None:
                problem.offset = base + begin
            window.pos = max(0, base + begin - window.start)
            raise problem from None
        finally:
            found.opcodes += count
