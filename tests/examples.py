"""An example as its test meets it: made by its own script, published, synced, and served as its values.yaml says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.helm import container, environment, one, read, render
from tests.serve import Server

ROOT = Path(__file__).resolve().parents[1]


class Example:
    """One folder of examples/, with a bucket of its own, from which its servers are filled.

    Args:
        name: of the folder, and of the model in its values.yaml.
        home: a directory for all that comes into being.

    Attributes:
        folder: examples/NAME.
        home: as given.
    """

    def __init__(self, name: str, home: Path) -> None:
        self.name, self.home, self.folder = name, home, ROOT / "examples" / name

    def uri(self, version: str) -> str:
        """Where a version is in the bucket."""
        return f"file://{self.home}/bucket/{self.name}/{version}"

    def publish(self, version: str = "1", build: Sequence[str] = (), options: Sequence[str] = ()) -> Path:
        """Make a version's source by the example's build.py, publish it, and return the source's directory.

        Args:
            version: in the bucket.
            build: further arguments of build.py.
            options: of `pantry publish`, such as --key.
        """
        source = self.home / f"source-{version}"
        run(str(self.folder / "build.py"), str(source), *build)
        run("-m", "loader.cli", "publish", str(source), self.uri(version), *options)
        return source

    def server(self, home: str = "server") -> Server:
        """A server with a volume of its own, not started yet."""
        (self.home / home).mkdir()
        return Server(self.home / home)

    def sync(self, server: Server, version: str = "1", *options: str) -> None:
        """Desire a version and sync it to the server's volume; options are of `pantry sync`, such as --public-key."""
        server.desire({"name": self.name, "version": version, "storageUri": self.uri(version)})
        models = server.volume.parent / "models.yaml"
        run(
            "-m",
            "loader.cli",
            "sync",
            "--models",
            str(models),
            "--volume",
            str(server.volume),
            *self.access(),
            *options,
        )

    def access(self) -> list[str]:
        """The arguments that bring who may ask, where the values name objects of a bucket: it is the example's own."""
        jobs = [thing for thing in self.objects() if thing["kind"] == "Job"]
        arguments = [argument for job in jobs for argument in container(job["spec"]["template"])["args"]]
        bucket = f"=file://{self.home}/bucket/"
        return [re.sub("=gs://[^/]+/", bucket, text) for text in arguments if text.startswith("--access=")]

    def start(self, server: Server, secrets: Path | None = None, **settings: str | int) -> None:
        """Start a server as the chart does with the example's values, and wait for the model.

        Args:
            server: synced, or about to be.
            secrets: a directory with the keys of the Secret that the values name, as files.
            settings: others than those of the values: PANTRY_… in lower case.
        """
        server.start(**{**self.settings(server, secrets), "drain_seconds": 4, **settings})
        server.wait_for(self.name, "ready")

    def settings(self, server: Server, secrets: Path | None = None) -> dict[str, str | int]:
        """The settings that the chart gives the server of this example: PANTRY_… in lower case."""
        environ = environment(one(self.objects(), "Deployment")["spec"]["template"])
        return {
            name.removeprefix("PANTRY_").lower(): value.replace("/mnt/models", str(server.volume)).replace(
                "/etc/pantry-access", str(secrets)
            )
            for name, value in environ.items()
            if name.startswith("PANTRY_")
        }

    def objects(self) -> list[dict[str, Any]]:
        """What the chart makes of the example's values."""
        return render(read(self.folder / "values.yaml"), name=self.name)


def run(*words: str) -> str:
    """Run Python with arguments, in the repository's root, and return what it prints."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout
