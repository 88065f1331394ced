"""What an inspection found, as data, as text for people and as JSON for programs."""

from __future__ import annotations

import _compat_pickle
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import msgspec

from loader.report import human_bytes


class Global(msgspec.Struct, frozen=True, order=True, rename="camel"):
    """One import that a pickle asks for.

    Attributes:
        module, name: as the pickle has them, and as `find_class` is asked for them.
        how: GLOBAL, INST or STACK_GLOBAL.
        imports: what Python 3 imports for them, such as builtins.eval for Python 2's __builtin__.eval.
        count: how many opcodes ask for it.
    """

    module: str
    name: str
    how: str
    imports: str
    count: int


class Part(msgspec.Struct, frozen=True, rename="camel"):
    """The pickles of one file, or of one member of a zip archive.

    Attributes:
        name: the member's name; "" for the file itself.
        compression: gzip, zlib, bz2, xz, lzma or deflate; "" where there is none.
        size: bytes as stored.
        inflated_size: bytes of what is inside, as far as it was read; `size` where it is not compressed.
        joblib: arrays lie between the opcodes, as joblib.dump writes them.
        pickles: how many end with STOP. A file that Pantry loads has one.
        protocol: the highest that is declared; 0 where none is: 0 or 1.
        opcodes: followed, of all pickles.
        calls: opcodes that call what was imported: REDUCE, INST, OBJ, NEWOBJ, NEWOBJ_EX.
        builds: BUILD opcodes, each of which may call an object's __setstate__.
        persistent_ids: references that only the program that wrote the pickle resolves.
        unknown_globals: imports whose name could not be told.
        extension_codes: of the registry of copyreg, each an import whose name is not in the file.
        arrays, array_bytes: of joblib.
        globals: the imports, sorted.
        problems: what could not be followed, one sentence each.
    """

    name: str
    compression: str
    size: int
    inflated_size: int
    joblib: bool
    pickles: int
    protocol: int
    opcodes: int
    calls: int
    builds: int
    persistent_ids: int
    unknown_globals: int
    extension_codes: tuple[int, ...]
    arrays: int
    array_bytes: int
    globals: tuple[Global, ...]
    problems: tuple[str, ...]


class Inspection(msgspec.Struct, frozen=True, rename="camel"):
    """What a file would import if it were unpickled. Nothing was executed to find out.

    It lists what the pickle itself imports, and does not judge it. What a function of the list does when it is called,
    imports included, is not in the file.

    Attributes:
        path: of the file.
        size: its bytes.
        container: pickle, joblib, zip, the compression's name, or unknown where no pickle ends well.
        parts: what was looked into.
        others: members of a zip archive that are no pickles.
        problems: what could not be looked into, beside the parts' own problems.
    """

    path: str
    size: int
    container: str
    parts: tuple[Part, ...]
    others: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def globals(self) -> tuple[Global, ...]:
        """The imports of all parts, sorted; equal ones are one, with the sum of their counts."""
        counts: Counter[tuple[str, str, str, str]] = Counter()
        for part in self.parts:
            for item in part.globals:
                counts[item.module, item.name, item.how, item.imports] += item.count
        return tuple(Global(*key, count) for key, count in sorted(counts.items()))

    @property
    def all_problems(self) -> tuple[str, ...]:
        """Why there may be imports that are not listed; none where all is understood."""
        return (*self.problems, *_problems_of_parts(self.parts))

    @property
    def understood(self) -> bool:
        """Whether the list of imports is known to be whole."""
        return not self.all_problems


def globals_of(inspection: Inspection) -> frozenset[tuple[str, str]]:
    """Return the imports as an exact allow-list of what `find_class` is asked for: (module, name).

    It is whole only where the inspection is `understood`.
    """
    return frozenset((item.module, item.name) for item in inspection.globals)


def imported_name(module: str, name: str, translated: bool) -> str:
    """Return what Python 3 imports, with pickle's own table of Python 2's names where that applies."""
    if translated:
        if (module, name) in _compat_pickle.NAME_MAPPING:
            module, name = _compat_pickle.NAME_MAPPING[module, name]
        else:
            module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    return f"{module}.{name}"


def document_of(inspection: Inspection) -> dict[str, Any]:
    """Return an inspection as what `json.dumps` takes."""
    document = msgspec.to_builtins(inspection)
    assert isinstance(document, dict)
    return document | {
        "globals": msgspec.to_builtins(inspection.globals),
        "problems": list(inspection.all_problems),
        "understood": inspection.understood,
    }


def text_of(inspection: Inspection) -> str:
    """Return an inspection as lines for a person: what the file is, its imports by package, and what is not known."""
    return "\n".join(_lines(inspection))


def _lines(inspection: Inspection) -> Iterator[str]:
    yield f"{_shown(inspection.path)}: {inspection.container}, {human_bytes(inspection.size)}"
    for part in inspection.parts:
        yield f"  {_part_line(part)}"
    if inspection.others:
        names = ", ".join([*map(_shown, inspection.others[:5]), *["…"] * (len(inspection.others) > 5)])
        yield f"  {len(inspection.others)} members are no pickles: {names}"
    if not (found := inspection.globals):
        yield "imports nothing" if inspection.understood else "names no imports"
    for package, items in groupby(sorted(found, key=_by_package), key=_package):
        yield f"imports from {_shown(package)}:"
        for item in items:
            was = "" if item.imports == f"{item.module}.{item.name}" else f", as {item.module}.{item.name}"
            yield f"  {_shown(item.imports)}  ({item.count} × {item.how}{_shown(was)})"
    yield from (f"not understood: {problem}" for problem in inspection.all_problems)


def _part_line(part: Part) -> str:
    inflated = f", {human_bytes(part.inflated_size)} inflated from {part.compression}" if part.compression else ""
    words = [
        f"{_shown(part.name)}: " * bool(part.name) + f"{part.pickles} pickle{'s' * (part.pickles != 1)}",
        f"protocol {part.protocol or '0 or 1'}{inflated}",
        f"{part.opcodes} opcodes",
        f"{part.calls} calls and {part.builds} states set",
    ]
    if part.joblib:
        words.append(f"{part.arrays} arrays of joblib, {human_bytes(part.array_bytes)}")
    if part.persistent_ids:
        words.append(f"{part.persistent_ids} persistent ids")
    return ", ".join(words)


def _problems_of_parts(parts: Iterable[Part]) -> Iterator[str]:
    for part in parts:
        where = f"{_shown(part.name)}: " if part.name else ""
        if part.unknown_globals:
            yield f"{where}the names of {part.unknown_globals} imports are made while unpickling: unknown"
        if part.extension_codes:
            codes = ", ".join(map(str, part.extension_codes[:10]))
            yield f"{where}imports by extension codes, whose names are not in the file: {codes}"
        yield from (f"{where}{problem}" for problem in part.problems)


def _package(item: Global) -> str:
    return item.imports.partition(".")[0]


def _by_package(item: Global) -> tuple[str, str, str]:
    return _package(item), item.imports, item.how


def _shown(text: str) -> str:
    """Return a text from the file so that a terminal does not obey it."""
    return text if text.isprintable() else ascii(text)
