"""Pickles that do harm when they are unpickled, what each imports, and how tests inspect them."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path

from loader.inspection import Inspection, inspect_file

Globals = set[tuple[str, str]]


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


def inspected(data: bytes) -> Inspection:
    """Inspects a file with these bytes."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return inspect_file(Path(file.name))


def short(text: str | bytes) -> bytes:
    """SHORT_BINUNICODE of a text."""
    data = text.encode() if isinstance(text, str) else text
    return b"\x8c" + bytes([len(data)]) + data


def payload(tmp_path: Path) -> str:
    """A shell command that leaves a marker behind."""
    return f"touch {tmp_path}/executed"


def stack_global(module: str, name: str) -> bytes:
    return short(module) + short(name) + b"\x93"


def hostile(command: str) -> dict[str, tuple[bytes, Globals]]:
    """Pickles that do harm, and what they import. Each runs the command when it is unpickled."""
    call = b"(" + b"V" + command.encode() + b"\ntR."
    system = {("os", "system")}
    argument = b"X" + len(command).to_bytes(4, "little") + command.encode() + b"\x85R."
    run = pickle.dumps(Calls(os.system, command))[:-1]
    return {
        "protocol 0": (b"cos\nsystem\n" + call, system),
        "posix": (b"cposix\nsystem\n" + call, {("posix", "system")}),
        "protocol 4": (pickle.dumps(Calls(os.system, command), 4), {(os.system.__module__, "system")}),
        "inst": (b"(V" + command.encode() + b"\nios\nsystem\n.", system),
        "obj": (b"(cos\nsystem\nV" + command.encode() + b"\no.", system),
        "eval": (
            pickle.dumps(Calls(eval, f"__import__('os').system({command!r})")),
            {("builtins", "eval")},
        ),
        "Python 2's eval": (
            pickle.dumps(Calls(eval, f"__import__('os').system({command!r})"), 2),
            {("__builtin__", "eval")},
        ),
        "importlib and getattr": (
            b"\x80\x04" + stack_global("builtins", "getattr") + stack_global("importlib", "import_module")
            + short("os") + b"\x85R" + short("system") + b"\x86R" + argument,
            {("builtins", "getattr"), ("importlib", "import_module")},
        ),
        "resolve_name": (
            b"\x80\x04" + stack_global("pkgutil", "resolve_name") + short("os:system") + b"\x85R" + argument,
            {("pkgutil", "resolve_name")},
        ),
        "dotted name": (b"\x80\x04" + stack_global("shutil", "os.system") + argument, {("shutil", "os.system")}),
        "memo": (
            b"\x80\x04" + short("os") + b"\x94" + short("system") + b"\x94" + b"00" + b"h\x00h\x01\x93" + argument,
            system,
        ),
        "memo shadowing": (
            b"\x80\x04" + short("math") + b"q\x05" + short("os") + b"q\x05" + short("sqrt") + b"r\x06\0\0\0"
            + b"000" + short("system") + b"p6\n0" + b"h\x05j\x06\0\0\0\x93" + argument,
            system,
        ),
        "memo by count": (  # MEMOIZE takes the number of entries, which the two PUTs made 2
            b"\x80\x04" + short("x") + b"q\x00q\x05" + short("os") + b"\x94" + short("system") + b"\x94000"
            + b"h\x02h\x03\x93" + argument,
            system,
        ),
        "numbers between": (
            b"\x80\x04" + short("os") + short("x") + b"0" + b"K\x01(NN1" + b"0" + short("system") + b"\x93" + argument,
            system,
        ),
        "duplicate": (b"\x80\x04" + short("os") + b"2q\x000h\x00" + short("system") + b"\x93" + argument, system),
        "nested marks": (b"\x80\x04(((" + stack_global("os", "system") + argument, system),
        "old strings": (b"\x80\x04U\x02osT\x06\0\0\0system\x93" + argument, system),
        "quoted strings": (b"\x80\x04S'o\\x73'\nV\\u0073ystem\n\x93" + argument, system),
        "long strings": (
            b"\x80\x04\x8d" + (2).to_bytes(8, "little") + b"osX" + (6).to_bytes(4, "little") + b"system\x93" + argument,
            system,
        ),
        "then an invalid opcode": (run + b"\xff.", {(os.system.__module__, "system")}),
        "then nothing": (b"cos\nsystem\n" + call[:-1], system),
        "then an empty stack": (run + b"00000", {(os.system.__module__, "system")}),
        "then a persistent id": (run + b"0Pid\n.", {(os.system.__module__, "system")}),
        "then too long bytes": (run + b"\x8e" + (1 << 33).to_bytes(8, "little"), {(os.system.__module__, "system")}),
        "then a frame": (run + b"0\x95" + bytes(8) + b"N.", {(os.system.__module__, "system")}),
        "a second pickle": (pickle.dumps([1]) + run + b".", {(os.system.__module__, "system")}),
        "behind long bytes": (
            pickle.dumps([bytes(3_000_000), "x" * 700_000, Calls(os.system, command)]),
            {(os.system.__module__, "system")},
        ),
        "a name that is made": (
            b"\x80\x04" + stack_global("builtins", "str") + short("os") + b"\x85R" + short("system") + b"\x93"
            + argument,
            {("builtins", "str")},
        ),
    }  # fmt: skip
