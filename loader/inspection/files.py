"""Opening what may hold a pickle: the file itself, what it is compressed with, and the members of a zip archive."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

from loader.bundle.compressed import HEAD_BYTES, compression_of, open_decompressed
from loader.bundle.errors import PickleInvalid
from loader.bundle.pickles import OLD_WRAPPERS, WRAPPER, is_pickle
from loader.errors import LoaderError, UsageError
from loader.inspection.archive import Member, check_member, members_of, open_member
from loader.inspection.machine import Found
from loader.inspection.opcodes import walk
from loader.inspection.result import Global, Inspection, Part, imported_name
from loader.inspection.window import Budget, NotFollowed, Window

INFLATED_AT_LEAST = 4 * 1024**3  # bytes that any file may inflate to
INFLATED_RATIO = 200  # times its size that a bigger one may: time stays in proportion to the file
_LZMA_MEMORY = 256 * 1024 * 1024  # bytes: xz -9 needs 65 MiB


def inspect_file(path: Path, *, inflated_limit: int | None = None) -> Inspection:
    """List what unpickling a file would import, without executing anything of it.

    Args:
        path: a pickle, a joblib file, either compressed, or a zip archive.
        inflated_limit: bytes that may be inflated in all; by default 200 times the file's size, at least 4 GiB.

    Raises:
        UsageError: there is no such file.
        LoaderError: it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise UsageError(f"{path} is not a file")
        with path.open("rb") as stream:
            size = path.stat().st_size
            if inflated_limit is None:
                inflated_limit = max(INFLATED_AT_LEAST, INFLATED_RATIO * size)
            return _inspect(stream, str(path), size, Budget(inflated_limit))
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}") from error
    except OSError as error:
        raise LoaderError(f"{path} cannot be read: {error.strerror or error}") from error


def _inspect(stream: BinaryIO, where: str, size: int, budget: Budget) -> Inspection:
    compression = compression_of(stream.read(HEAD_BYTES)) or ""
    stream.seek(0)
    if compression == "zip":
        return _inspect_archive(stream, where, size, budget)
    part = _part_of(stream, "", compression, size, budget)
    plain = "joblib" if part.joblib else "pickle" if part.pickles else "unknown"
    return Inspection(where, size, compression or plain, (part,))


def _part_of(stream: BinaryIO, name: str, compression: str, size: int, budget: Budget) -> Part:
    """Inspect a stream that may be compressed."""
    try:
        inner = open_decompressed(stream, "it", memory_limit=_LZMA_MEMORY)
    except PickleInvalid as error:
        return _part(Found(), name, compression, size, 0, [error.message])
    window = Window(inner, None, budget) if compression else Window(stream, size)
    found, problems = Found(), list[str]()
    inflated_size = _walk_all(window, found, problems)
    return _part(found, name, compression, size, inflated_size, problems)


def _inspect_archive(stream: BinaryIO, where: str, size: int, budget: Budget) -> Inspection:
    members, problems = members_of(stream)
    parts = [_member_part(stream, member, budget) for member in members if is_pickle(member.name)]
    others = [member.name for member in members if not is_pickle(member.name)]
    problems += [f"the member {name[:200]!r} was not looked into" for name in others if not Member.is_data(name)][:20]
    if not parts:
        problems.append("it has no member that is a pickle by its name")
    return Inspection(where, size, "zip", tuple(parts), tuple(others), tuple(problems))


def _member_part(stream: BinaryIO, member: Member, budget: Budget) -> Part:
    found, problems, inflated_size = Found(), list[str](), 0
    try:
        content = open_member(stream, member)
    except PickleInvalid as error:
        problems.append(error.message)
    else:
        window = Window(content, None, budget)
        inflated_size = _walk_all(window, found, problems)
        problems += check_member(content, member)
    compression = "" if member.method == "stored" else member.method
    return _part(found, member.name, compression, member.size, inflated_size, problems)


def _walk_all(window: Window, found: Found, problems: list[str]) -> int:
    """Walk over all pickles of a stream, then read on to its end. Return the bytes that it has."""
    begin = 0
    try:
        try:
            while not window.at_end():
                begin = window.start + window.pos
                walk(window, found)
            if not found.pickles:
                problems.append("it is empty")
        except NotFollowed as problem:
            problems.append(_sentence(problem, begin if found.pickles else None))
            window.drain()
    except NotFollowed as problem:  # the drain has gone over the budget
        if str(problem) not in problems[-1]:
            problems.append(str(problem))
    except PickleInvalid as error:  # damaged inside a compression
        problems.append(error.message)
    return window.start + window.pos


def _sentence(problem: NotFollowed, last_end: int | None) -> str:
    if problem.offset is None:
        return str(problem)
    if problem.offset == last_end:
        return f"from byte {last_end} on, bytes follow the end of the last pickle that are no pickle"
    return f"from byte {problem.offset} on it was not followed: {problem}"


def _part(found: Found, name: str, compression: str, size: int, inflated_size: int, problems: list[str]) -> Part:
    imports = [
        Global(module, called, how, imported_name(module, called, translated), count)
        for (module, called, how, translated), count in found.globals.items()
    ]
    if any(_last(item) in OLD_WRAPPERS and "joblib" in item.module for item in imports):
        problems.append("its arrays are in files of their own, as joblib wrote before 0.10: they were not looked into")
    return Part(
        name=name,
        compression=compression,
        size=size,
        inflated_size=inflated_size,
        joblib=any(_last(item) == WRAPPER for item in imports),
        pickles=found.pickles,
        protocol=found.protocol,
        opcodes=found.opcodes,
        calls=found.calls,
        builds=found.builds,
        persistent_ids=found.persistent_ids,
        unknown_globals=found.unknown_globals,
        extension_codes=tuple(sorted(found.extension_codes)),
        arrays=found.arrays,
        array_bytes=found.array_bytes,
        globals=tuple(sorted(imports)),
        problems=tuple(problems),
    )


def _last(item: Global) -> str:
    return item.name.rpartition(".")[2]
