"""The commands that are measured: ours, and the peers' with the options their manuals give for speed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import ROOT, Client
from benchmarks.store import NGINX, Store

BUCKET = "pantry"

# google-cloud-storage's transfer manager, as its documentation calls it; worker_type is its own choice of the two.
_TRANSFER_MANAGER = """
import sys
from google.cloud.storage import Client, transfer_manager
bucket, name, target, worker = sys.argv[1:]
more = {"worker_type": transfer_manager.THREAD} if worker == "threads" else {}
if __name__ == "__main__":
    blob = Client().bucket(bucket).blob(name)
    transfer_manager.download_chunks_concurrently(blob, target, **more)
"""


def publish(source: Path, data: Path, prefix: str) -> None:
    """Publish a directory into a store's data, as its objects below a prefix."""
    target = data / BUCKET / prefix
    target.mkdir(parents=True)
    command: list[str | Path] = [sys.executable, "-m", "loader.cli", "publish", source, f"file://{target}"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"pantry publish failed: {done.stderr[-2000:]}")


def pantry(store: Store, prefix: str, home: Path, name: str = "pantry sync") -> Client:
    """Our sync of one bundle, as a whole process: crc32c, sha256, fsync and all."""
    uri = f"gs://{BUCKET}/{prefix}"
    home.mkdir()
    models = home / "models.yaml"
    models.write_text(json.dumps({"models": [{"name": "bench", "version": "1", "storageUri": uri}]}))
    return Client(
        name,
        lambda volume: [sys.executable, "-m", "loader.cli", "sync", "--models", models, "--volume", volume],
        store.environment,
        folder="bench/1",
    )


def aria2(store: Store, name: str, then: str = "", target: float | None = None) -> Client:
    """`aria2c -x8 -s8`, and `then`, a shell command in which $file is the download."""
    script = (
        f'file="$1/{Path(name).name}"; aria2c --quiet -x8 -s8 --file-allocation=falloc --ca-certificate="$2" '
        f'--dir="$1" "$3" {then and "&& " + then}'
    )
    words = then.partition('"$file"')[0].strip()
    return Client(
        f"aria2c -x8{words and ', then ' + words}",
        lambda folder: ["sh", "-c", script, "sh", folder, store.certificate, f"{store.https}/{BUCKET}/{name}"],
        installed=bool(shutil.which("aria2c")),
        target=target,
    )


def transfer_manager(store: Store, name: str, worker: str, target: float | None = None) -> Client:
    """download_chunks_concurrently in a Python process of its own, with worker processes (its default) or threads."""
    arguments = [BUCKET, name]
    return Client(
        f"transfer_manager, {worker}",
        lambda folder: [
            sys.executable, "-c", _TRANSFER_MANAGER, *arguments, folder / Path(name).name, worker
        ],
        store.environment,
        target=target,
    )  # fmt: skip


def gcloud(store: Store, home: Path, command: tuple[str, ...], prefix: str, target: float) -> Client:
    """`gcloud storage …` of gs://…/prefix, with its defaults."""
    return Client(
        " ".join(("gcloud storage", *command)),
        lambda folder: ["gcloud", "storage", *command, f"gs://{BUCKET}/{prefix}", folder],
        gcloud_environment(store, home),
        installed=bool(shutil.which("gcloud")),
        target=target,
    )


def gcloud_environment(store: Store, home: Path) -> Mapping[str, str]:
    """Point gcloud at the store, without asking who and where it is."""
    return {
        **store.environment,  # REQUESTS_CA_BUNDLE, where a machine sets it, wins over gcloud's own setting
        "CLOUDSDK_CONFIG": str(home / "gcloud"),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{store.https}/storage/v1/",
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE": str(store.certificate),
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_CORE_PROJECT": "bench",
    }


def rclone(
    store: Store, command: str, prefix: str, options: tuple[str, ...] = (), target: float | None = None
) -> Client:
    """`rclone COMMAND` from its Cloud Storage backend, which checks md5."""
    where = [f"--gcs-endpoint={store.https}/storage/v1/", "--gcs-anonymous", f"--ca-cert={store.certificate}"]
    return Client(
        " ".join(("rclone", command, *options)),
        lambda folder: ["rclone", command, f":gcs:{BUCKET}/{prefix}", folder, "--config=", *where, *options],
        installed=bool(shutil.which("rclone")),
        target=target,
    )


def print_versions() -> None:
    """Print what is measured and on what: cores, their load, and every version; of what is missing, that it is."""
    print(f"{os.cpu_count()} cores; load beforehand {os.getloadavg()[0]:.1f}, and what else runs here slows all rows")
    print(f"pantry {version('pantry')}, Python {sys.version.split()[0]}, google-cloud-storage", end=" ")
    print(version("google-cloud-storage"))
    for command in (["aria2c", "--version"], ["rclone", "version"], ["gcloud", "version"], [NGINX, "-v"]):
        if shutil.which(command[0]):
            said = subprocess.run(command, capture_output=True, text=True, check=False)
            print((said.stdout or said.stderr).splitlines()[0])
        else:
            print(f"{command[0]}: not installed; benchmarks/peers installs what a distribution has")
