"""Fixtures and markers that all tests share."""

from __future__ import annotations

import gc
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loader.publish import describe
from tests.serve import Server

HOW_TO_RUN = {
    "cluster": "needs a cluster; run `make test-cluster` with KUBECONFIG set",
    "image": "needs a built image; run `make image test-image`",
    "big": "writes gigabytes; run `pytest -m big`",
}


def pytest_configure() -> None:
    """Undo what a shell does to what it starts in the background: Ctrl-C is ignored there, by all children too."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs more than Python, unless it is asked for by its marker."""
    asked = config.getoption("markexpr")
    for item in items:
        for marker, how in HOW_TO_RUN.items():
            if item.get_closest_marker(marker) and marker not in asked:
                item.add_marker(pytest.mark.skip(reason=how))


def write_bundle(directory: Path, model: Any, config: str = "", **files: str) -> None:
    """Put a complete bundle on a volume: the pickled model, a model.yaml where given, other files, the manifest."""
    directory.mkdir(parents=True)
    (directory / "model.pkl").write_bytes(model if isinstance(model, bytes) else pickle.dumps(model, protocol=5))
    if config:
        (directory / "model.yaml").write_text(config)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    manifest, _ = describe(directory)
    (directory / ".manifest").write_bytes(manifest.encode())
    (directory / ".manifest").rename(directory / "manifest.json")


@pytest.fixture
def collector_off() -> Iterator[None]:
    """No garbage is collected meanwhile: its finalizers fail at the end of the stack, where a deep input leads."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A real pantry-serve on loopback over an empty volume; it is stopped, and seen gone, at the end."""
    running = Server(tmp_path)
    yield running
    running.stop()
