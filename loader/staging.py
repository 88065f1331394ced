"""The write side of a volume: unique staging directories, durable files, the one rename that publishes, pruning.

Correctness rests on unique names and on rename, never on a lock: locks lie on some network file systems. Whatever is
killed whenever, a directory under its final name is complete. A lock on a staging directory only tells whether the run
that made it is still alive; where it lies, the run whose directory was taken notices and fails with a sentence.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from loader.bundle.bundle import Bundle
from loader.bundle.errors import ManifestInvalid
from loader.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from loader.bundle.pack.record import PACK_FOLDER
from loader.bundle.sync_status import read_sync_status
from loader.bundle.volume import bundle_directory, staging_directory, status_path
from loader.errors import Immutable, VolumeError

SPARE_BYTES = 16 * 1024 * 1024  # left free beside a bundle: manifest, directories, status


def existing_bundle(root: Path, model: str, version: str) -> Bundle | None:
    """Return the bundle of a version on the volume, or None.

    Raises:
        VolumeError: something else has its name.
    """
    directory = bundle_directory(root, model, version)
    if not directory.exists():
        return None
    try:
        return Bundle.open(directory)
    except ManifestInvalid as error:
        raise VolumeError(
            f"{directory} is there but is no bundle: {error.message}", hint="Move it away, then sync again"
        ) from error


@contextlib.contextmanager
def begin(root: Path, model: str, version: str, content: str) -> Iterator[Path]:
    """Give a staging directory of this run's own, continuing what a killed run of the same content left.

    Args:
        root: the volume.
        model: whose bundle.
        version: which bundle.
        content: names the content; what was staged of another content of this version is removed.

    Raises:
        VolumeError: the volume cannot be written.
    """
    home = staging_directory(root, model)
    with volume_errors(root):
        home.mkdir(parents=True, exist_ok=True)
        while (claimed := _claim(home, version, content)) is None:
            pass
    mine, lock = claimed
    try:
        yield mine
    finally:
        os.close(lock)


def _claim(home: Path, version: str, content: str) -> tuple[Path, int] | None:
    """Take over what a dead run of the same content left, or make a directory; None where another run was quicker."""
    mine = home / f"{version}-{content}-{uuid.uuid4().hex[:12]}"
    held = None
    for left in sorted(home.iterdir()):
        if _version_of(left.name) != version or (lock := lock_directory(left)) is None:
            continue
        if held is None and left.name.startswith(f"{version}-{content}-"):
            left.rename(mine)
            held = lock
        else:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    if held is None:
        mine.mkdir()
        held = lock_directory(mine)
    return None if held is None else (mine, held)


def lock_directory(directory: Path) -> int | None:
    """Hold a directory until the descriptor is closed; None if it is gone, or a living process holds it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EINTR):
            os.close(descriptor)
            return None  # any other error: no locks on this volume
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), directory.stat()):
            return descriptor
    os.close(descriptor)  # renamed between the two calls
    return None


def require_space(root: Path, needed: int) -> None:
    """Check that the volume has room, before the first byte.

    Args:
        root: the volume.
        needed: bytes still to be written.

    Raises:
        VolumeError: it has not.
    """
    with volume_errors(root):
        free = shutil.disk_usage(root).free
    if free < needed + SPARE_BYTES:
        raise VolumeError(
            f"{root} has {free:,} bytes free, the bundle needs {needed + SPARE_BYTES:,}",
            hint="Enlarge the volume (storage.size in the chart), or retain fewer versions",
        )


def staged_bytes(staging: Path) -> int:
    """Return how many bytes a staging directory has on the disk: holes of files in the making still need room.

    Raises:
        VolumeError: it cannot be read.
    """
    with volume_errors(staging):
        states = [path.stat() for path in staging.rglob("*") if path.is_file()]
    return sum(min(state.st_size, state.st_blocks * 512) for state in states)


def commit(
    root: Path, model: str, version: str, staging: Path, manifest: bytes, signature: bytes | None = None
) -> None:
    """Give a staged bundle its final name: everything durable, manifest last, one rename.

    Args:
        root: the volume.
        model: whose bundle.
        version: which bundle.
        staging: the directory.
        manifest: the bytes of manifest.json.
        signature: the bytes of model.sig, or None.

    Raises:
        Immutable: another run was quicker, with other content.
        VolumeError: the volume refused; nothing has the final name.
    """
    final = bundle_directory(root, model, version)
    with volume_errors(root):
        assets = Manifest.decode(manifest, "the manifest").assets
        if any(_size(staging / asset.path) != asset.size for asset in assets):
            raise VolumeError(f"{staging} was taken over by another sync", hint="Sync again: what arrived is kept")
        keep = {asset.path for asset in assets}
        for path in [path for path in staging.rglob("*") if path.is_file()]:
            name = path.relative_to(staging).as_posix()
            if name not in keep and not name.startswith(f"{PACK_FOLDER}/"):
                path.unlink()
        if signature is not None:
            (staging / SIGNATURE_NAME).write_bytes(signature)
        _flush(staging)
        with (staging / MANIFEST_NAME).open("wb") as file:
            file.write(manifest)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(staging)
        try:
            staging.rename(final)
        except OSError:
            there = existing_bundle(root, model, version)  # lost a race against a run of the same version
            if there is None:
                raise
            if there.manifest != Manifest.decode(manifest, "the manifest"):
                raise Immutable(f"{final} was made by another sync with other content") from None
            shutil.rmtree(staging, ignore_errors=True)
        sync_directory(final.parent)
        sync_directory(root)


def prune(root: Path, model: str, desired: str, retain: int) -> list[str]:
    """Remove the bundles of a model that were desired longest ago, and what dead runs left; return the versions.

    A bundle that a server holds stays, whatever its age.

    Args:
        root: the volume.
        model: whose bundles.
        desired: the version that stays in any case.
        retain: how many bundles stay, at least 1.

    Raises:
        VolumeError: the volume refused.
    """
    home = staging_directory(root, model)
    with volume_errors(root):
        home.mkdir(exist_ok=True)
        gone = superseded(root, model, desired, retain)
        for path in list(gone):
            if (lock := lock_directory(path)) is None:  # a server holds it
                gone.remove(path)
                continue
            trash = home / f"{path.name}-pruned-{uuid.uuid4().hex[:12]}"
            with contextlib.suppress(FileNotFoundError):  # another run was quicker
                path.rename(trash)  # first, so that no half-removed directory ever has a bundle's name
            os.close(lock)
            status_path(root, model, path.name).unlink(missing_ok=True)
        for left in home.iterdir():
            if (lock := lock_directory(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
    return [path.name for path in gone]


def bundles_of(root: Path, model: str) -> list[Path]:
    """Return the directories of a model's bundles on a volume, the last wanted first.

    Raises:
        VolumeError: it cannot be read.
    """
    home = root / model
    with volume_errors(root):
        there = [path for path in home.iterdir() if not path.name.startswith(".")] if home.is_dir() else []
        whole = [path for path in there if (path / MANIFEST_NAME).is_file()]
        return sorted(whole, key=lambda path: _last_wanted(root, model, path.name), reverse=True)


def superseded(root: Path, model: str, desired: str, retain: int) -> list[Path]:
    """Return the bundles of a model that are too many, where the desired one and the last wanted ones stay."""
    others = [path for path in bundles_of(root, model) if path.name != desired]
    return others[max(retain - 1, 0) :]


@contextlib.contextmanager
def volume_errors(root: Path) -> Iterator[None]:
    """Turn the operating system's refusals on the volume into one sentence.

    Raises:
        VolumeError: full, read-only, gone, or not permitted.
    """
    try:
        yield
    except OSError as error:
        raise VolumeError(
            f"the volume {root} refused: {error.strerror or error} ({error.filename or 'writing'})",
            hint="Check that it is mounted, writable by this user, and not full; then sync again",
        ) from error


def _last_wanted(root: Path, model: str, version: str) -> float:
    """Every sync of a version touches its status: the newest is the one to roll back to."""
    if status := read_sync_status(root, model, version):
        return status.updated
    try:
        return status_path(root, model, version).stat().st_mtime  # there, and cannot be read
    except FileNotFoundError:
        return 0.0


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() and not path.is_symlink() else -1


def _version_of(name: str) -> str:
    return name.rsplit("-", 2)[0]


def _flush(directory: Path) -> None:
    """Make everything below a directory durable: in one call, as one for each of 100,000 files would take minutes."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(directory))
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
