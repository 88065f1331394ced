"""A release of the chart on a real cluster, for tests: everything goes through kubectl, helm, curl and HTTPS."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.cluster import BUCKET, CHART, IMAGE, Namespace, run, wait_until
from tests.earlier_chart import known_values


class Release:
    """A Helm release in a namespace.

    Attributes:
        name: of the release; objects are called NAME-pantry.
        values: what every install and upgrade passes, on top of `files`.
        chart: its directory.
        atomic: the flag that rolls a failed upgrade back.
    """

    def __init__(
        self, namespace: Namespace, name: str, values: dict[str, Any], files: tuple[Path, ...] = (), helm: str = "helm"
    ) -> None:
        self.namespace, self.name, self.values, self._files, self._helm = namespace, name, values, files, helm
        self.full = f"{name}-pantry"
        self.chart = CHART
        self.atomic = "--atomic" if run(helm, "version", "--short").startswith("v3") else "--rollback-on-failure"

    def upgrade(self, model: str, version: str, *flags: str, uri: str | None = None, image: str = IMAGE) -> str:
        """Run `helm upgrade --install` for one model version and one image; the sync's image stays.

        A release of storage.mode custom has no `storageUri`.
        """
        entry = {"name": model, "version": version}
        if self.values.get("storage", {}).get("mode") != "custom":
            entry["storageUri"] = uri or f"gs://{BUCKET}/{model}/{version}"
        values: dict[str, Any] = {**self.values, "image": image_values(image), "models": [entry]}
        values["sync"] = {**values.get("sync", {}), "image": image_values(IMAGE)}
        if self.chart != CHART:
            values = known_values(self.chart, values)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            json.dump(values, file)
            file.flush()
            command = [self._helm, "upgrade", "--install", self.name, str(self.chart)]
            files = [argument for path in (*self._files, Path(file.name)) for argument in ("--values", str(path))]
            return run(*command, "--namespace", self.namespace.name, *files, *flags)

    def helm(self, *arguments: str) -> str:
        """Run another helm command on this release."""
        return run(self._helm, *arguments, "--namespace", self.namespace.name)

    def status(self) -> dict[str, Any]:
        """Return /status of the server's admin port, asked from inside its pod."""
        code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8081/status').read().decode())"
        text = self.namespace.kubectl("exec", f"deployment/{self.full}", "--", "python3", "-c", code, check=False)
        try:
            return dict(json.loads(text))
        except ValueError:
            return {"models": [], "ready": False, "said": text}

    def wait_for(self, version: str, phase: str, seconds: float = 240) -> dict[str, Any]:
        """Wait until the desired version of the only model is in a phase, and return the model's state."""

        def reached() -> dict[str, Any] | None:
            for model in self.status()["models"]:
                if model["version"] == version and model["phase"] == phase:
                    return dict(model)
            return None

        return dict(wait_until(reached, f"version {version} to be {phase}", seconds, self.explain))

    def job(self) -> str:
        """Return the name of the present Job."""
        jobs = self.namespace.get("jobs", "--selector", f"app.kubernetes.io/instance={self.name}")["items"]
        jobs.sort(key=lambda job: job["metadata"]["creationTimestamp"])
        return str(jobs[-1]["metadata"]["name"])

    def wait_for_job(self, condition: str, seconds: float = 300) -> str:
        """Wait until the present Job is Complete or Failed, and return its name."""
        name = self.job()
        self.namespace.kubectl("wait", f"--for=condition={condition}", f"job/{name}", f"--timeout={seconds}s")
        return name

    def job_log(self, job: str) -> list[dict[str, Any]]:
        """Return the events that the Job's last pod wrote."""
        pods = self.job_pods(job)
        lines = self.namespace.kubectl("logs", pods[-1]["metadata"]["name"]).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def job_pods(self, job: str) -> list[dict[str, Any]]:
        """Return the pods of a Job, the oldest first."""
        pods = self.namespace.get("pods", "--selector", f"batch.kubernetes.io/job-name={job}")["items"]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def server_pods(self) -> list[dict[str, Any]]:
        """Return the servers' pods, those that are ending included."""
        selector = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component=server"
        return list(self.namespace.get("pods", "--selector", selector)["items"])

    def server_pod(self) -> dict[str, Any]:
        """Return the server's pod."""
        return next(pod for pod in self.server_pods() if "deletionTimestamp" not in pod["metadata"])

    def address(self) -> str:
        """Return the Ingress's address."""

        def assigned() -> str:
            status = self.namespace.get("ingress", self.full)["status"]
            ingress = status.get("loadBalancer", {}).get("ingress") or [{}]
            return str(ingress[0].get("ip", ""))

        return str(wait_until(assigned, "the Ingress to have an address", 60))

    def explain(self) -> str:
        """Say what there is, for a failed test."""
        name = self.full
        return "\n".join(
            [
                self.namespace.kubectl("get", "pods,jobs,pvc,events", check=False)[-4000:],
                self.namespace.kubectl("logs", f"deployment/{name}", "--tail=30", check=False)[-4000:],
                self.namespace.kubectl("logs", f"job/{self.job()}", "--tail=10", check=False)[-2000:],
            ]
        )


def image_values(image: str) -> dict[str, str]:
    """Return the values that name an image."""
    repository, _, tag = image.rpartition(":")
    return {"repository": repository, "tag": tag}


def curl(host: str, address: str, certificate: Path, path: str, *arguments: str) -> str:
    """Ask with the real curl over HTTPS, checking the certificate, at an address that DNS need not know."""
    return run(
        *("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30"),
        *("--resolve", f"{host}:443:{address}", "--cacert", str(certificate), f"https://{host}{path}", *arguments),
    )
