"""Where things are on a volume, for those who read it and for those who write it.

    ROOT/MODEL/VERSION/                      one bundle; immutable once it has this name
    ROOT/MODEL/VERSION/manifest.json         written last
    ROOT/MODEL/.staging/VERSION-…-UNIQUE/    a bundle in the making; never read by a server
    ROOT/MODEL/.status/VERSION.json          how far the sync of that version is (see sync_status)
    ROOT/.access/NAME                        a file that says who may ask (see loader.access)

No model name and no version starts with a dot, so these never collide.
"""

from __future__ import annotations

from pathlib import Path


def bundle_directory(root: Path, model: str, version: str) -> Path:
    """Return the directory of a bundle under its final name."""
    return root / model / version


def staging_directory(root: Path, model: str) -> Path:
    """Return the directory in which bundles of a model are made."""
    return root / model / ".staging"


def status_path(root: Path, model: str, version: str) -> Path:
    """Return the file that tells how far the sync of a version is."""
    return root / model / ".status" / f"{version}.json"
