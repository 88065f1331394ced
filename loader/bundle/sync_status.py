"""How far a sync is: one small file a version, written by the loader for the server, which has no other way to know.

`ROOT/MODEL/.status/VERSION.json` is UTF-8 JSON, replaced whole at every change:

    {"phase": "syncing",          syncing, verifying, synced or failed
     "bytes": 1048576, "totalBytes": 9437184,
     "reason": "",                one sentence where phase is failed
     "updated": 1790000000.0}     seconds since 1970, by the loader's clock
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Literal

import msgspec

from loader.bundle.volume import status_path


class SyncStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The state of one version's sync: bytes that are there and verified, of how many."""

    phase: Literal["syncing", "verifying", "synced", "failed"]
    bytes: int = 0
    total_bytes: int = 0
    reason: str = ""
    updated: float = 0.0


def write_sync_status(root: Path, model: str, version: str, status: SyncStatus) -> None:
    """Replace the status file of a version. It is news, not a record: it is not fsynced."""
    path = status_path(root, model, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")  # every container has a process 1
    temporary.write_bytes(msgspec.json.encode(msgspec.structs.replace(status, updated=time.time())))
    temporary.replace(path)


def read_sync_status(root: Path, model: str, version: str) -> SyncStatus | None:
    """Return the status of a version's sync, or None where there is none that can be read."""
    try:
        return msgspec.json.decode(status_path(root, model, version).read_bytes(), type=SyncStatus)
    except (OSError, msgspec.DecodeError):
        return None
