"""A data scientist's pod in the cluster: makes bundles, those of examples/ too, and publishes them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.cluster import BUCKET, ROOT, Namespace, ensure_bucket

_IN_BUCKET = f"from google.cloud import storage\nb = storage.Client().bucket('{BUCKET}')\n"
_SOURCE = "/tmp/src"
_BEGIN = f"""
import os, shutil
shutil.rmtree('{_SOURCE}', ignore_errors=True)
os.mkdir('{_SOURCE}')
os.chdir('{_SOURCE}')
"""


class Author:
    """The pod.

    Args:
        namespace: the pod's.
        volumes: that it has, as of `Namespace.pod`.
    """

    def __init__(self, namespace: Namespace, volumes: dict[str, dict[str, Any]] | None = None) -> None:
        ensure_bucket()
        self.namespace = namespace
        namespace.pod("author", ["sleep", "infinity"], size="8Gi", volumes=volumes)
        self._python(f"{_IN_BUCKET}b.exists() or b.create()\n")

    def publish(self, code: str, uri: str) -> float:
        """Run Python code that fills its working directory, publish that, and return the seconds of the upload."""
        self.remove(f"{uri.split('/', 3)[3]}/")
        self._python(f"{_BEGIN}\n{code}")
        began = time.monotonic()
        self.execute("pantry", "publish", _SOURCE, uri)
        return time.monotonic() - began

    def copy(self, files: dict[str, bytes], uri: str) -> None:
        """Publish files as they are."""
        lines = [f"open({name!r}, 'wb').write(bytes.fromhex({data.hex()!r}))" for name, data in files.items()]
        self.publish("\n".join(lines), uri)

    def build(self, name: str, version: str, *build: str, key: Path | None = None) -> None:
        """Run an example's build.py in the pod, and publish what it wrote."""
        folder, source, uri = f"/tmp/{name}", f"/tmp/{name}-source", f"gs://{BUCKET}/models/{name}/{version}"
        self.remove(f"models/{name}/{version}/")
        self.execute("rm", "-rf", folder, source)
        self.namespace.kubectl("cp", str(ROOT / "examples" / name), f"author:{folder}")
        self.execute("python3", f"{folder}/build.py", source, *build)
        if key:
            self.namespace.kubectl("cp", str(key), "author:/tmp/key.pem")
        self.execute("pantry", "publish", source, uri, *(["--key", "/tmp/key.pem"] if key else []))

    def execute(self, *command: str) -> str:
        """Run a command in the pod, and return its output."""
        return self.namespace.kubectl("exec", "author", "--", *command)

    def remove(self, prefix: str) -> None:
        """Empty a prefix of the bucket, which earlier tests may have filled."""
        self._python(f"{_IN_BUCKET}for blob in list(b.list_blobs(prefix={prefix!r})):\n    blob.delete()\n")

    def put(self, name: str, text: str) -> None:
        """Write one object, in place of what was there."""
        self._python(f"{_IN_BUCKET}b.blob({name!r}).upload_from_string({text!r})\n")

    def damage(self, name: str) -> None:
        """Flip one byte of an object in the bucket, below the manifest's nose."""
        self._python(
            f"{_IN_BUCKET}o = b.blob({name!r})\n"
            "d = bytearray(o.download_as_bytes())\nd[len(d) // 2] ^= 1\no.upload_from_string(bytes(d))\n"
        )

    def _python(self, code: str) -> None:
        self.namespace.python("author", code)
