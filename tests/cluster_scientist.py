"""A data scientist's pod that has the examples: runs their build.py, and publishes what it writes."""

from __future__ import annotations

from pathlib import Path

from tests.cluster import BUCKET, ROOT, Author


class Scientist(Author):
    """An author who makes the bundles of examples/."""

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
        return self.namespace.kubectl("exec", "author", "--", *command)

    def remove(self, prefix: str) -> None:
        """Empty a prefix of the bucket, which earlier tests may have filled."""
        self.namespace.python(
            "author",
            "from google.cloud import storage\n"
            f"for blob in list(storage.Client().list_blobs('{BUCKET}', prefix={prefix!r})):\n    blob.delete()\n",
        )

    def put(self, name: str, text: str) -> None:
        """Write one object, in place of what was there."""
        self.namespace.python(
            "author",
            "from google.cloud import storage\n"
            f"storage.Client().bucket('{BUCKET}').blob({name!r}).upload_from_string({text!r})\n",
        )
