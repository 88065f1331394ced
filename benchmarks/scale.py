"""What a release of many models, pods and bytes asks of the API server and of the bucket: counted, nothing is moved.

The objects are those that the chart renders. The reads are those that the sync's own rule cuts a bundle into. What it
prints stands in docs/scale.md, and tests/test_scale.py holds it there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import show
from loader.bundle.digest import digest_of
from loader.sources import StoredObject
from loader.transfer.fetch import _Fetch
from loader.transfer.journal import Journal
from loader.transfer.staged import Wanted
from tests import helm
from tests.sources import MemorySource

REPLICAS = 100
MODES: dict[str, helm.Values] = {
    "disk": {},
    "shared": {"replicas": REPLICAS, "storage.storageClassName": "standard-rwx"},
    "shared, rolling": {"replicas": REPLICAS, "storage.storageClassName": "standard-rwx", "rollout.model": "rolling"},
    "ephemeral": {"replicas": REPLICAS},
    "custom": {"replicas": REPLICAS, "storage.custom": {"persistentVolumeClaim": {"claimName": "models"}}},
}
PAGE = 1000  # objects that one answer lists
GB = 10**9
# Files of a bundle, each of as many bytes.
BUNDLES: dict[str, list[int]] = {
    "one file of 1 GB": [GB],
    "one file of 10 GB": [10 * GB],
    "one file of 500 GB": [500 * GB],
    "500 files of 1 GB": [GB] * 500,
    "100,000 files of 10 kB": [10_000] * 100_000,
}


class Size(NamedTuple):
    """A release, as the API server gets it.

    Attributes:
        objects: that the chart renders, without its tests.
        all_bytes: of these objects, as JSON.
        models_bytes: of models.yaml, once.
        template_bytes: of a pod's template: what every pod begins with.
    """

    objects: int
    all_bytes: int
    models_bytes: int
    template_bytes: int


def entries(count: int, mode: str) -> list[dict[str, str]]:
    """Make a list of models with names, versions, addresses and digests of ordinary lengths."""
    models = []
    for number in range(count):
        name, version = f"model-{number:02}", "2024-06-01.1"
        model = {"name": name, "version": version, "digest": digest_of(name.encode())}
        if mode != "custom":
            model["storageUri"] = f"gs://my-bucket/models/{name}/{version}"
        models.append(model)
    return models


def size(mode: str, models: int) -> Size:
    """Render a release, and weigh it."""
    values = helm.minimal({"models": entries(models, mode), "storage.mode": mode.partition(",")[0], **MODES[mode]})
    objects = [thing for thing in helm.render(values) if "helm.sh/hook" not in thing["metadata"].get("annotations", {})]
    template = next(thing for thing in objects if thing["kind"] == "Deployment")["spec"]["template"]
    texts = [thing["data"]["models.yaml"] for thing in objects if thing["kind"] == "ConfigMap"]
    texts += [template["metadata"].get("annotations", {}).get("pantry/models.yaml", "")]
    return Size(len(objects), sum(map(_weight, objects)), max(len(text.encode()) for text in texts), _weight(template))


def reads(files: Sequence[int]) -> int:
    """Count the requests in which a sync reads files of these sizes, the manifest not counted."""
    wanted = [Wanted(StoredObject(f"file-{number}", length, "1", ""), None) for number, length in enumerate(files)]
    with tempfile.TemporaryDirectory() as staging, closing(Journal(Path(staging))) as journal:
        return sum(1 for _ in _Fetch(MemorySource({}), wanted, Path(staging), journal)._all_spans())


def main() -> int:
    """Print the two tables."""
    rows: list[Sequence[str]] = [("mode", "models", "objects", "bytes", "models.yaml", "a pod's template")]
    for mode in MODES:
        rows += [(mode, str(models), *(f"{number:,}" for number in size(mode, models))) for models in (1, 50)]
    show(f"What the chart renders; {REPLICAS} replicas, in disk 1", rows)
    rows = [("bundle", "pages of its listing", "reads")]
    rows += [(name, f"{-(-len(files) // PAGE):,}", f"{reads(files):,}") for name, files in BUNDLES.items()]
    show("What one sync asks the bucket for, beside one read of each manifest", rows)
    return 0


def _weight(thing: Any) -> int:
    return len(json.dumps(thing, separators=(",", ":"), ensure_ascii=False).encode())


if __name__ == "__main__":
    sys.exit(main())
