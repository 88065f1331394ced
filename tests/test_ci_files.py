"""The pipelines for Google Cloud Build and GitHub do what they say, as far as that can be tried without either.

Their scripts are run one after the other in a copy of the checkout. Helm is the real one, except that an upgrade only
renders and nothing is pushed, and make only says what it would do; `docker` and `gcloud` are stand-ins that write down
what they were asked for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import helm
from tests.test_docs import targets

CLOUD_BUILD = helm.ROOT / "cloudbuild.yaml"
WORKFLOWS = sorted((helm.ROOT / ".github/workflows").glob("*.yaml"))
RELEASE = helm.ROOT / ".github/workflows/release.yaml"
META = helm.read(helm.CHART / "Chart.yaml")

COMMIT, DIGEST = "0123456789abcdef0123456789abcdef01234567", f"sha256:{'5' * 64}"
IMAGE = "europe-west1-docker.pkg.dev/my-project/pantry/pantry"
CHARTS = "oci://europe-west1-docker.pkg.dev/my-project/pantry/charts"
# What Cloud Build itself gives a build: https://cloud.google.com/build/docs/configuring-builds/substitute-variable-values
BUILT_IN = {"PROJECT_ID": "my-project", "COMMIT_SHA": COMMIT}
# What the repository's variables may be, by the names that the head of release.yaml lists.
VARIABLES = {
    "PROJECT_ID": "my-project",
    "REGION": "europe-west1",
    "REPOSITORY": "pantry",
    "WORKLOAD_IDENTITY_PROVIDER": "projects/1/locations/global/workloadIdentityPools/pool/providers/github",
    "PUBLISHER": "publisher@my-project.iam.gserviceaccount.com",
    "DEPLOYER": "deployer@my-project.iam.gserviceaccount.com",
    "CLUSTER": "models",
    "LOCATION": "europe-west1",
    "NAMESPACE": "models",
    "RELEASE": "digits",
    "VALUES": "values-gke.yaml",
    "TIMEOUT": "81m",
}

# Every stand-in writes its command line, and what was piped into it, to $ASKED.
DOCKER = f"""#!/bin/bash
echo "docker $*" >>"$ASKED"
case $1 in
login) cat >>"$ASKED" ;;
inspect) echo "{IMAGE}@{DIGEST}" ;;
manifest) [ -n "${{PUSHED_BEFORE:-}}" ] ;;
esac
"""
GCLOUD = """#!/bin/bash
echo "gcloud $*" >>"$ASKED"
case $* in *print-access-token) echo a-token ;; esac
"""
# It reads what it is given before it writes: what gives it writes a line of its own meanwhile.
HELM = """#!/bin/bash
[ "$1" != registry ] || given=$'\\n'$(cat)
echo "helm $*$given" >>"$ASKED"
case $1 in
registry) ;;
push) [ -f "$2" ] ;;
pull) exit 1 ;;
upgrade) shift 2; exec "$REAL_HELM" template --kube-version 1.34.0 "$@" ;;
*) exec "$REAL_HELM" "$@" ;;
esac
"""
MAKE = f"""#!/bin/bash
exec {shutil.which("make")} --directory {helm.ROOT} --dry-run "$@" >/dev/null
"""


@dataclass
class Step:
    """A script of a pipeline, and the variables that it is given beside those of all."""

    name: str
    script: str
    environment: dict[str, str] = field(default_factory=dict)


def cloud_build() -> Iterator[Step]:
    for step in helm.read(CLOUD_BUILD)["steps"]:
        yield Step(step["id"], step["script"])


def cloud_build_environment() -> dict[str, str]:
    """What the scripts see: the substitutions, made of one another, under their names."""
    known = dict(BUILT_IN)
    for name, value in helm.read(CLOUD_BUILD)["substitutions"].items():
        known[name] = re.sub(r"\$\{(\w+)\}", lambda found: known[found[1]], value)
    return known


def workflow_steps(path: Path) -> Iterator[Step]:
    for job in helm.read(path)["jobs"].values():
        for step in job.get("steps", []):
            if "run" in step:
                yield Step(step.get("name", step["run"]), step["run"], step.get("env", {}))


def scripts() -> Iterator[Any]:
    yield from (pytest.param(step, id=f"cloudbuild: {step.name}") for step in cloud_build())
    for path in WORKFLOWS:
        yield from (pytest.param(step, id=f"{path.stem}: {step.name}") for step in workflow_steps(path))


@dataclass
class Run:
    """A pipeline's scripts, run in order: what they printed, and what they asked the stand-ins for."""

    output: str
    asked: str


@pytest.fixture(name="place")
def workplace(tmp_path: Path) -> Path:
    """A copy of the checkout with stand-ins for what reaches out."""
    place = tmp_path / "checkout"
    place.mkdir()
    for name in ("chart", ".ci"):
        shutil.copytree(helm.ROOT / name, place / name)
    shutil.copy(helm.ROOT / "values-gke.yaml", place)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {"docker": DOCKER, "gcloud": GCLOUD, "helm": HELM, "make": MAKE}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    return place


def run(place: Path, steps: Iterator[Step], shared: dict[str, str], **more: str) -> Run:
    """Run scripts one after the other; the first that fails fails the test."""
    real = shutil.which("helm")
    if real is None:
        pytest.skip("helm is not installed: the scripts are only read")
    asked, outputs = place.parent / "asked", place.parent / "outputs"
    said = ""
    for step in steps:
        environment = {**shared, **step.environment, **more, "HOME": str(place.parent), "GITHUB_OUTPUT": str(outputs)}
        written = dict(line.split("=", 1) for line in outputs.read_text().splitlines()) if outputs.exists() else {}
        environment = {name: expand(value, written) for name, value in environment.items()}
        path = f"{place.parent / 'tools'}:{os.environ['PATH']}"
        script = step.script if step.script.startswith("#!") else f"#!/bin/bash\nset -eo pipefail\n{step.script}"
        (place.parent / "script").write_text(script)
        (place.parent / "script").chmod(0o755)
        done = subprocess.run(
            [str(place.parent / "script")],
            cwd=place,
            env={"PATH": path, "REAL_HELM": real, "ASKED": str(asked), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{step.name}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
        said += done.stdout
    return Run(said, asked.read_text())


def expand(text: str, outputs: dict[str, str]) -> str:
    """Fill in what GitHub would: variables, and what earlier steps gave."""
    known = {
        **{f"vars.{name}": value for name, value in VARIABLES.items()},
        **{f"needs.publish.outputs.{name}": value for name, value in outputs.items()},
        "steps.auth.outputs.access_token": "a-token",
    }
    return re.sub(r"\$\{\{ (\S+) \}\}", lambda found: known[found[1]], text)


@pytest.fixture(name="built")
def run_of_cloud_build(place: Path) -> Run:
    return run(place, cloud_build(), cloud_build_environment())


@pytest.fixture(name="released")
def run_of_github(place: Path) -> Run:
    shared = {**helm.read(RELEASE)["env"], "GITHUB_SHA": COMMIT}
    return run(place, workflow_steps(RELEASE), shared)


@pytest.fixture(name="either", params=["built", "released"])
def either_run(request: pytest.FixtureRequest) -> Run:
    """What one of the two has done; they are to do the same."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Run)
    return found


def objects(ran: Run) -> list[helm.Object]:
    """What the upgrade would have applied."""
    rendered = ran.output[ran.output.index("---\n") :]
    return [thing for thing in yaml.load_all(rendered, helm.UniqueKeys) if thing]


def test_the_release_runs_the_image_that_was_pushed_by_its_digest(either: Run) -> None:
    """The server's image is named by its digest and the sync's by its version; both were pushed before the upgrade."""
    deployment = helm.one(objects(either), "Deployment")
    job = helm.one(objects(either), "Job")
    assert deployment["metadata"]["namespace"] == "models"
    assert helm.container(deployment["spec"]["template"])["image"] == f"{IMAGE}@{DIGEST}"
    assert helm.container(job["spec"]["template"])["image"] == f"{IMAGE}:{META['appVersion']}"
    commands = either.asked.splitlines()
    pushes = [commands.index(f"docker push {IMAGE}:{tag}") for tag in (COMMIT, META["appVersion"])]
    (upgrade,) = (number for number, line in enumerate(commands) if line.startswith("helm upgrade"))
    assert max(pushes) < upgrade


def test_the_chart_is_pushed_before_the_upgrade(either: Run) -> None:
    """The package of this commit goes to the registry, by whoever has logged in there with a token that expires."""
    host = IMAGE.partition("/")[0]
    wanted = [
        f"helm registry login {host} --username oauth2accesstoken --password-stdin\na-token\n",
        f"helm push dist/pantry-{META['version']}.tgz {CHARTS}\n",
        "helm upgrade --install digits chart",
    ]
    places = [either.asked.index(each) for each in wanted]
    assert places == sorted(places)


def test_the_upgrade_waits_and_rolls_back(either: Run) -> None:
    """It waits for pods and Jobs as long as they may take, and goes back where they fail; Helm knows all its flags."""
    (upgrade,) = (line for line in either.asked.splitlines() if line.startswith("helm upgrade"))
    flags = re.findall(r"--[a-z-]+", upgrade)
    assert {"--install", "--atomic", "--wait", "--wait-for-jobs", "--timeout"} <= set(flags)
    for name in ("helm", "helm4"):
        if shutil.which(name):
            help_text = subprocess.run([name, "upgrade", "--help"], capture_output=True, text=True, check=True).stdout
            known = set(re.findall(r"--[a-z-]+", help_text))
            assert set(flags) - known <= {"--atomic"}
            assert "--atomic" in known or "--rollback-on-failure" in known
    promised = re.search(r"--timeout (\d+)s", helm.notes(helm.read(helm.ROOT / "values-gke.yaml")))
    given = re.search(r"--timeout (\d+)m", upgrade)
    assert promised is not None
    assert given is not None
    assert int(given[1]) * 60 >= int(promised[1])


def test_a_version_names_one_image_for_ever(place: Path) -> None:
    """Where the version's image is there already, only the commit's is pushed."""
    steps = [step for step in cloud_build() if step.name in ("helm", "image")]
    ran = run(place, iter(steps), cloud_build_environment(), PUSHED_BEFORE="yes")
    assert re.findall(r"docker push (\S+)", ran.asked) == [f"{IMAGE}:{COMMIT}"]


@pytest.mark.parametrize("step", list(scripts()))
def test_scripts_are_scripts(step: Step) -> None:
    """Every script parses, names files that exist, make targets that exist, and takes nothing in but by variables."""
    shell = "sh" if step.script.startswith("#!/bin/sh") else "bash"
    done = subprocess.run([shell, "-n"], input=step.script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "${{" not in step.script
    for words in re.findall(r"^\s*make ([a-z -]+)$", step.script, re.MULTILINE):
        assert set(words.split()) <= targets()
    for path in re.findall(r"(?<![\w/.{}-])((?:chart|\.ci)(?:/[\w.-]+)*)\b(?!:)", step.script):
        assert (helm.ROOT / path).exists(), path
    if step.script.startswith("#!"):
        assert re.match(r"#!\S+(?: \w+)?\nset -eu", step.script)


def test_cloud_build_has_every_substitution_and_no_other() -> None:
    """What scripts and fields use is declared or Cloud Build's own; what is declared is used; no project is named."""
    text = CLOUD_BUILD.read_text()
    build = helm.read(CLOUD_BUILD)
    assert build.keys() <= {"substitutions", "serviceAccount", "options", "timeout", "steps"}
    assert all(step.keys() == {"id", "name", "script"} for step in build["steps"])
    body = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    used = set(re.findall(r"\$\{?(_[A-Z]+|[A-Z]+_[A-Z_]+)\b", body))
    assert used == build["substitutions"].keys() | BUILT_IN.keys()
    assert build["options"]["automapSubstitutions"]
    assert build["options"]["dynamicSubstitutions"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_do_no_more_than_they_need(path: Path) -> None:
    """Rights are named, and none is to write but the identity's token; actions have a version; there are no secrets."""
    workflow = helm.read(path)
    assert "secrets." not in path.read_text()
    for rights in [workflow["permissions"], *(job.get("permissions", {}) for job in workflow["jobs"].values())]:
        assert rights.keys() <= {"contents", "id-token"}
        assert rights.get("contents", "read") == "read"
    for job in workflow["jobs"].values():
        steps = job.get("steps", [])
        used = [step["uses"] for step in steps if "uses" in step]
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})", action) for action in used)
        logs_in = any(action.startswith("google-github-actions/auth@") for action in used)
        assert (job.get("permissions", {}).get("id-token") == "write") == logs_in
        for step in steps:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_the_head_of_the_release_lists_its_variables() -> None:
    """Every variable of the repository that the workflow uses is named in its head, and every one there is used."""
    text = RELEASE.read_text()
    head = text.partition("\nname:")[0]
    assert set(re.findall(r"vars\.([A-Z_]+)", text)) == set(VARIABLES)
    assert set(re.findall(r"\b[A-Z_]{6,}\b", head)) == set(VARIABLES)


def test_every_python_and_both_helms_are_tried() -> None:
    """CI runs on all versions of Python that the project says it takes, and with both majors of Helm."""
    matrix = helm.read(helm.ROOT / ".github/workflows/ci.yaml")["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert [row["python"] for row in matrix] == ["3.11", "3.12", "3.13"]
    assert {row["helm"].partition(".")[0] for row in matrix} == {"v3", "v4"}
