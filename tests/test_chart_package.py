"""The chart as an artefact: packed by the real Helm, pushed to a real registry on loopback, and rendered from there."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from tests import helm
from tests.serve import free_port, wait_until

REGISTRY = "docker-registry"
CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
VERSION = helm.read(helm.CHART / "Chart.yaml")["version"]


@pytest.fixture(scope="module", params=["helm", "helm4"])
def binary(request: pytest.FixtureRequest) -> str:
    """A Helm that is installed."""
    name = str(request.param)
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty registry on loopback, as HOST:PORT."""
    if not shutil.which(REGISTRY):
        pytest.skip(f"{REGISTRY} is not installed; Debian and Ubuntu have it as a package")
    home, port = tmp_path_factory.mktemp("registry"), free_port()
    (home / "config.yml").write_text(CONFIG.format(root=home / "data", port=port))
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([REGISTRY, "serve", str(home / "config.yml")], stdout=log, stderr=log)
    try:
        wait_until(lambda: requests.get(f"http://127.0.0.1:{port}/v2/", timeout=20), "the registry", 20)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what packing takes of the repository."""
    shutil.copytree(helm.CHART, tmp_path / "chart")
    shutil.copytree(helm.ROOT / ".ci", tmp_path / ".ci")
    return tmp_path


def push(checkout: Path, where: str, binary: str) -> subprocess.CompletedProcess[str]:
    """Pack and push the chart, as the pipelines do."""
    return subprocess.run(
        [str(checkout / ".ci/push-chart"), where, "--plain-http"],
        env={"PATH": "/usr/bin:/bin", "HELM": str(shutil.which(binary)), "HOME": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )


def render(binary: str, chart: str, *flags: str) -> str:
    values = helm.CHART / "ci/gke-values.yaml"
    command = [binary, "template", "digits", chart, "--values", str(values), "--kube-version", "1.30", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_what_is_pushed_renders_as_the_checkout(binary: str, registry: str, checkout: Path) -> None:
    """A chart that was pushed can be installed by its address and version, and is the one that was packed."""
    where = f"oci://{registry}/{binary}/charts"
    pushed = push(checkout, where, binary)
    assert pushed.returncode == 0, pushed.stderr
    tags = requests.get(f"http://{registry}/v2/{binary}/charts/pantry/tags/list", timeout=20).json()["tags"]
    assert tags == [VERSION]
    flags = ["--version", VERSION, "--plain-http"]
    assert render(binary, f"{where}/pantry", *flags) == render(binary, str(helm.CHART))
    readme = [binary, "show", "readme", f"{where}/pantry", *flags]
    shown = subprocess.run(readme, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == (helm.CHART / "README.md").read_text().strip()


def test_a_version_names_one_chart_for_ever(binary: str, registry: str, checkout: Path) -> None:
    """Pushing again pushes nothing; another chart under the same version is refused, and is fine under its own."""
    where = f"oci://{registry}/{binary}/again"
    address = f"http://{registry}/v2/{binary}/again/pantry/manifests/{VERSION}"
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    assert push(checkout, where, binary).returncode == 0
    first = requests.get(address, headers=accept, timeout=20).content

    again = push(checkout, where, binary)
    assert again.returncode == 0, again.stderr
    assert "is there already, and is this one" in again.stdout

    (checkout / "chart/templates/more.yaml").write_text("# one more\n")
    other = push(checkout, where, binary)
    assert other.returncode == 1
    assert f"has another chart under {VERSION}: raise version in chart/Chart.yaml." in other.stderr
    assert requests.get(address, headers=accept, timeout=20).content == first

    meta = checkout / "chart/Chart.yaml"
    meta.write_text(meta.read_text().replace(f"version: {VERSION}", "version: 99.0.0", 1))
    assert push(checkout, where, binary).returncode == 0


def test_the_package_has_what_an_installation_needs_and_no_more(binary: str, tmp_path: Path) -> None:
    """Templates, files, schema and README are in it; values of our tests and what an editor leaves are not."""
    chart = tmp_path / "chart"
    shutil.copytree(helm.CHART, chart)
    (chart / "values.yaml~").write_text("")
    subprocess.run([binary, "package", str(chart), "--destination", str(tmp_path)], check=True, capture_output=True)
    with tarfile.open(tmp_path / f"pantry-{VERSION}.tgz") as package:
        names = {name.removeprefix("pantry/") for name in package.getnames()}
        meta = package.extractfile("pantry/Chart.yaml")
        assert meta is not None
        assert yaml.safe_load(meta)["annotations"] == helm.read(helm.CHART / "Chart.yaml")["annotations"]
    kept = {path.relative_to(helm.CHART).as_posix() for path in helm.CHART.rglob("*") if path.is_file()}
    assert names == {name for name in kept if not name.startswith(("ci/", "."))}
