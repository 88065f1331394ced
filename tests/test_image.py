"""The serving image, run as a cluster runs it: uid 10001, a read-only root, a fresh /tmp, no network.

Docker or podman runs the commands; where there is only buildah, they run in a namespace of their own on the image's
mounted root, which needs root.
"""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loader.bundle.theano_cache import processor_is_known

IMAGE = os.environ.get("PANTRY_IMAGE", "")
MODEL = Path(__file__).with_name("pickles") / "theano-1.0.5-py2.7"  # mounted where a pod has its models

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(
        not IMAGE, reason="needs a built image: make image test-image, or PANTRY_IMAGE=... pytest -m image"
    ),
]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", name="run")
def runner() -> Iterator[Run]:
    """Runs a command in the image; what it prints comes back together with its exit status."""
    for tool in ("docker", "podman"):
        if shutil.which(tool) and subprocess.run([tool, "info"], capture_output=True, check=False).returncode == 0:
            options = ["--rm", "--read-only", "--tmpfs=/tmp:exec", "--network=none", "--user=10001:10001"]
            yield command_runner([tool, "run", *options, f"--volume={MODEL}:/mnt/models:ro", IMAGE])
            return
    container = output("buildah", "from", "--pull-never", IMAGE)
    try:
        root = output("buildah", "mount", container)
        config = json.loads(output("buildah", "inspect", container))["OCIv1"]["config"]
        yield command_runner(in_namespace(root, config["User"], config["Env"]))
    finally:
        output("buildah", "rm", container)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def command_runner(prefix: list[str]) -> Run:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*prefix, *command], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
        )

    return run


def in_namespace(root: str, user: str, environment: list[str]) -> list[str]:
    """Returns the command that runs its arguments on a mounted image as a container would run them."""
    script = f"""set -e
    cd {shlex.quote(root)}
    mount --bind . . && cd {shlex.quote(root)}
    mount -t tmpfs -o mode=1777 tmpfs tmp
    mount --bind {shlex.quote(str(MODEL))} mnt/models
    mount -t proc proc proc
    mount -t tmpfs tmpfs dev
    for device in null zero random urandom; do : >dev/$device; mount --bind /dev/$device dev/$device; done
    mount -o remount,bind,ro . .
    exec chroot --userspec={shlex.quote(user)} . env -i "$@"
    """
    return ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-c", script, "sh", *environment]


def test_theano_compiles_and_answers(run: Run) -> None:
    """Theano imports, compiles a new function with C++, and the function pickled by Python 2.7 answers as it did."""
    code = """
from loader.bundle.theano_compat import prepare
prepare()
import pickle, numpy, theano
x = theano.tensor.dvector()
assert numpy.allclose(theano.function([x], theano.grad((x ** 3).sum(), x))([2.0]), 12)
assert theano.config.cxx and theano.config.linker == "cvm", theano.config
expected = numpy.load("/mnt/models/expected.npz")
for name, answer in ("function", "y"), ("function_scan", "s"):
    with open(f"/mnt/models/{name}.pkl", "rb") as file:
        got = pickle.load(file, encoding="latin1")(numpy.ones((2, 4), "float32"))
    assert numpy.allclose(got, expected[answer], rtol=1e-5), (name, got)
print("right")
"""
    if run("ls", "/opt/pantry/bin/theano-cache").returncode:
        pytest.skip("this image has the modern stack: make image STACK=theano")
    done = run("python", "-c", code)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "right"


def test_common_operations_are_compiled(run: Run) -> None:
    """A function that Python 2.7 compiled is loaded without the compiler: what it takes was compiled with the image."""
    code = """
from loader.bundle.theano_compat import prepare
prepare()
import pickle, theano
from theano.gof.cc import CLinker
compiled, compile_cmodule = [], CLinker.compile_cmodule
CLinker.compile_cmodule = lambda self, *rest: compiled.append(self.node_order) or compile_cmodule(self, *rest)
for name in "function", "function_scan":
    with open(f"/mnt/models/{name}.pkl", "rb") as file:
        pickle.load(file, encoding="latin1")
print(theano.config.gcc.cxxflags, compiled)
"""
    if run("ls", "/opt/pantry/bin/theano-cache").returncode:
        pytest.skip("this image has the modern stack: make image STACK=theano")
    if not processor_is_known():
        pytest.skip("this processor is older than what the image was compiled for")
    done = run("python", "-c", code)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "-march=x86-64-v3 []"


@pytest.mark.parametrize("command", ["pantry", "pantry-serve"])
def test_commands(run: Run, command: str) -> None:
    """Both commands are on the PATH and explain themselves."""
    done = run(command, "--help")
    assert done.returncode == 0, done.stdout
    assert "usage" in done.stdout.lower()


def test_runs_as_nobody_in_particular(run: Run) -> None:
    """Commands run as user and group 10001 on a root that cannot be written, and find a place for temporary files."""
    code = """
import os, tempfile
tempfile.NamedTemporaryFile()
print(os.getuid(), os.getgid(), bool(os.statvfs("/").f_flag & os.ST_RDONLY), tempfile.gettempdir())
"""
    assert run("python", "-c", code).stdout.split() == ["10001", "10001", "True", "/tmp"]


def test_no_leftovers(run: Run) -> None:
    """What only the build needed is not there: pip, caches, package lists, sources."""
    assert run("python", "-m", "pip").returncode != 0
    places = ["/root/.cache", "/tmp", "/src", "/build", "/wheels", "/var/lib/apt/lists", "/var/cache/apt"]
    done = run("find", *places, "-type", "f")
    assert [line for line in done.stdout.splitlines() if not line.startswith("find:")] == []


def test_bytecode_is_compiled(run: Run) -> None:
    """Every module has its bytecode, since a read-only root cannot get it later."""
    code = """
import importlib.util, pathlib, sysconfig
for source in pathlib.Path(sysconfig.get_path("purelib")).rglob("*.py"):
    if not pathlib.Path(importlib.util.cache_from_source(str(source))).exists():
        print(source)
"""
    assert run("python", "-c", code).stdout == ""
