"""Pack: find the form in which each pickle of a bundle loads best, prove it, measure it, and write it down."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec

from loader.bundle.compressed import compression_of
from loader.bundle.digest import digest_of
from loader.bundle.errors import ManifestInvalid
from loader.bundle.manifest import Asset
from loader.bundle.pack.record import (
    PACK_FOLDER,
    RECORD_NAME,
    Environment,
    PackedPickle,
    PackRecord,
    package_version,
    python_version,
)
from loader.bundle.pickles import is_pickle, is_pickled_array
from loader.errors import UsageError
from loader.packing_process import Result, Task, memory_to_spare, run_worker
from loader.report import Report, human_bytes
from loader.staging import lock_directory, volume_errors

SMALL = 512 * 1024  # bytes of a pickle that loads in no time in any form, and is not even tried
FASTER = 1.2  # times: what makes a pack worth its bytes
NOT_SLOWER = 1.05  # times: what is let pass where many bytes can be shared
MAPPED_FROM = 64 * 1024  # bytes of arrays that are worth a look
SHARED_FROM = 16 * 1024 * 1024  # bytes of arrays that are worth sharing among processes
_UNSURE = (0.8, 1.6)  # times faster: between these, one measurement says little
_MAKING = ".making-"


def pack_directory(directory: Path, report: Report, *, memory_limit: int | None = None) -> None:
    """Pack every pickle of a directory into its folder .pack. This runs the code of the pickles, in other processes.

    What the record says of an unchanged pickle stands. A pickle that cannot be loaded here, or whose packed form is not
    proved equal, is recorded as one that is to be loaded as it is, with the reason. The record comes last, by a rename.

    Args:
        directory: a bundle, or the source of one; hidden folders are left out.
        report: where events go.
        memory_limit: bytes that a packing process may have; default: what there is to spare.

    Raises:
        UsageError: there is no such directory.
        PackFailed: a packing process was killed, crashed, or needed more memory; the record is as before.
        VolumeError: the directory cannot be written.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is no directory", hint="Give the directory that holds model.pkl")
    directory = directory.resolve()  # the worker is somewhere else
    limit = memory_to_spare() if memory_limit is None else memory_limit
    paths = list(_pickles_in(directory))
    folder = directory / PACK_FOLDER
    if not paths and not folder.exists():
        return
    with volume_errors(directory), _making(folder) as making:
        before = _read_record(directory)
        packed = [_pack(directory, path, before, making, limit, report) for path in paths]
        record = PackRecord(tuple(packed))
        if record != before or not (directory / RECORD_NAME).exists():
            _write_record(directory, making, record)
        _remove_stale(directory, record)


def _pickles_in(directory: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and (is_pickle(name) or _is_pickled_array(Path(folder, name))):
                yield Path(folder, name).relative_to(directory).as_posix()


def _is_pickled_array(path: Path) -> bool:
    if path.suffix.lower() != ".npy":
        return False
    with path.open("rb") as file:
        return is_pickled_array(file.read(256))


def _pack(directory: Path, path: str, before: PackRecord, making: Path, limit: int, report: Report) -> PackedPickle:
    source = Asset.of_file(directory / path, path)
    known = before.find(path)
    if known is not None and known.digest == source.digest and _stands(directory, known):
        return known
    report.event("packing", f"{path}: {human_bytes(source.size)}", file=path, bytes=source.size)
    packed = _best_form(directory, source, making, limit)
    if packed.pack is not None:
        (making / "pack").rename(directory / packed.pack.path)
        text = f"{path}: packed, loads in {packed.seconds:.3g} s with {human_bytes(packed.peak_bytes)}"
    else:
        text = f"{path}: stays as it is: {packed.reason}"
    measured = {"seconds": round(packed.seconds, 4), "peakBytes": packed.peak_bytes}
    report.event("packed", text, file=path, form=packed.form, reason=packed.reason, **measured)
    return packed


def _best_form(directory: Path, source: Asset, making: Path, limit: int) -> PackedPickle:
    """Pack a pickle into the file `pack`, and find out by proof and measurement whether that is the form to load."""
    if source.size < SMALL and not _is_compressed(directory / source.path):
        return PackedPickle(source.path, source.digest, "pickle", _environment({}), reason="it is small")
    target = making / "pack"
    target.unlink(missing_ok=True)
    task = Task(directory=str(directory), source=source, where=source.path, memory_limit=limit, target=str(target))
    made = run_worker(task, making)
    task = msgspec.structs.replace(task, target=None, modules=made.modules)
    environment = _environment(made.packages)
    reason = made.invalid
    if not (reason or made.columns or made.mapped_bytes >= MAPPED_FROM) and _is_quick_to_read(directory / source.path):
        reason = "it holds no arrays and no long lists or dicts that would load faster packed"
    packed = PackedPickle(source.path, source.digest, "pickle", environment, reason=reason)
    if reason:
        return _with(packed, run_worker(task, making))

    asset = Asset.of_file(target, target.relative_to(directory).as_posix())
    pack_task = msgspec.structs.replace(task, source=asset, is_pack=True)
    loaded, plain = run_worker(pack_task, making), run_worker(task, making)
    if loaded.invalid or loaded.digest != made.digest:
        reason = loaded.invalid or "the packed object is not proved equal to the pickle's"
        return _with(msgspec.structs.replace(packed, reason=reason), plain)
    if _UNSURE[0] < plain.cpu_seconds / max(loaded.cpu_seconds, 1e-6) < _UNSURE[1]:
        loaded, plain = (
            min(first, run_worker(each, making), key=lambda result: result.cpu_seconds)
            for first, each in ((loaded, pack_task), (plain, task))
        )
    if reason := _no_gain(plain.cpu_seconds, loaded.cpu_seconds, made.mapped_bytes):
        return _with(msgspec.structs.replace(packed, reason=reason), plain)
    name = f"{Path(source.path).name[:40]}-{digest_of(f'{source.path} {asset.digest}'.encode())[7:23]}.pack"
    pack = msgspec.structs.replace(asset, path=f"{PACK_FOLDER}/{name}")
    columns = msgspec.structs.replace(packed, form="columns", pack=pack, mapped_bytes=made.mapped_bytes)
    return _with(columns, loaded)


def _environment(packages: dict[str, str]) -> Environment:
    return Environment(python_version(), ".".join(package_version("numpy").split(".")[:2]), packages)


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return compression_of(file.read(16)) is not None


def _is_quick_to_read(path: Path) -> bool:
    """Tell whether a file is a plain pickle of protocol 4 or later: no other form of the same loads faster."""
    with path.open("rb") as file:
        return file.read(2) in (b"\x80\x04", b"\x80\x05")


def _no_gain(plain: float, packed: float, mapped_bytes: int) -> str:
    """Tell why a pack is not worth having, or "".

    Args:
        plain: seconds of the processor that loading the pickle takes.
        packed: seconds that loading the pack takes.
        mapped_bytes: of arrays that processes would share.
    """
    if plain >= FASTER * packed or (mapped_bytes >= SHARED_FROM and packed <= NOT_SLOWER * plain):
        return ""
    return f"packed it would take {packed:.3g} s of the processor, as it is it takes {plain:.3g} s"


def _with(packed: PackedPickle, measured: Result) -> PackedPickle:
    return msgspec.structs.replace(
        packed,
        seconds=measured.seconds,
        peak_bytes=measured.peak_bytes,
        resident_bytes=measured.resident_bytes,
    )


def _stands(directory: Path, known: PackedPickle) -> bool:
    """Tell whether what the record says of an unchanged pickle is so, and would be found out again."""
    if known.environment.problem():
        return False
    try:
        return known.pack is None or (directory / known.pack.path).stat().st_size == known.pack.size
    except OSError:
        return False


def _read_record(directory: Path) -> PackRecord:
    path = directory / RECORD_NAME
    try:
        return PackRecord.decode(path.read_bytes(), str(path))
    except (FileNotFoundError, ManifestInvalid):  # what cannot be read is made anew
        return PackRecord()


def _write_record(directory: Path, making: Path, record: PackRecord) -> None:
    with (making / "record").open("wb") as file:
        file.write(record.encode())
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(directory / PACK_FOLDER)  # the packs' names, before the record tells of them
    (making / "record").replace(directory / RECORD_NAME)
    _sync_folder(directory / PACK_FOLDER)


def _remove_stale(directory: Path, record: PackRecord) -> None:
    named = {RECORD_NAME, *(packed.pack.path for packed in record.pickles if packed.pack is not None)}
    for path in (directory / PACK_FOLDER).iterdir():
        if path.relative_to(directory).as_posix() not in named and not path.name.startswith(_MAKING):
            path.unlink()


@contextlib.contextmanager
def _making(folder: Path) -> Iterator[Path]:
    """Give a folder of this run's own in .pack, and remove it again, with those of runs that were killed."""
    folder.mkdir(exist_ok=True)
    for left in folder.glob(f"{_MAKING}*"):
        if (lock := lock_directory(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    mine = folder / f"{_MAKING}{uuid.uuid4().hex[:12]}"
    mine.mkdir()
    held = lock_directory(mine)
    try:
        yield mine
    finally:
        shutil.rmtree(mine, ignore_errors=True)
        if held is not None:
            os.close(held)
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing was made in it


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
