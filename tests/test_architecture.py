"""The arrows between packages, held by reading every import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent


def imports(folder: str) -> Iterator[tuple[Path, str]]:
    """Yield every module that a Python file below a folder imports."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                yield path, node.module or ""
                yield from ((path, f"{node.module}.{alias.name}") for alias in node.names)


def test_the_loader_never_imports_the_server() -> None:
    """Data flows from the loader to the server, and so does knowledge."""
    assert [(path, name) for path, name in imports("loader") if name.split(".")[0] == "serving"] == []


def test_the_server_imports_only_the_bundle_format_of_the_loader() -> None:
    """The server reads bundles; how they come to the volume is none of its business."""
    wrong = [
        (path, name)
        for path, name in imports("image/serving")
        if name.split(".")[0] == "loader" and name != "loader" and not name.startswith("loader.bundle")
    ]
    assert wrong == []


def test_the_bundle_format_stands_alone() -> None:
    """loader.bundle imports nothing else of the loader, so the server gets no cloud library with it."""
    wrong = [
        (path, name)
        for path, name in imports("loader/bundle")
        if name.split(".")[0] == "loader" and not name.startswith("loader.bundle")
    ]
    assert wrong == []


def test_google_cloud_is_imported_in_one_file() -> None:
    """Another store is another file."""
    files = {path.relative_to(ROOT).as_posix() for path, name in imports("loader") if name.startswith("google.cloud")}
    assert files == {"loader/sources/gcs.py"}


def test_botocore_is_imported_in_one_file() -> None:
    """As google.cloud is."""
    files = {
        path.relative_to(ROOT).as_posix()
        for path, name in imports("loader")
        if name.split(".")[0] in ("botocore", "s3transfer")
    }
    assert files == {"loader/sources/s3.py"}


# What each package of the server may know of the others. All may know its errors, settings and state.
ARROWS = {
    "sight": set(),
    "page": set(),
    "access": {"sight"},
    "supervise": {"access", "sight"},
    "wire": {"page"},
    "models": {"sight", "wire"},
    "http": {"access", "models", "page", "sight", "wire"},
}


def test_the_packages_of_the_server_know_each_other_in_one_direction() -> None:
    """From a socket through the forms to the models, and never back; the supervisor knows none of it."""
    serving = ROOT / "image/serving"
    wrong = [
        (path.relative_to(serving).as_posix(), name)
        for path, name in imports("image/serving")
        if (package := path.relative_to(serving).parts[0]) in ARROWS
        and (parts := name.split("."))[0] == "serving"
        and len(parts) > 1
        and parts[1] not in {package, "errors", "settings", "state", *ARROWS[package]}
    ]
    assert wrong == []
    assert {folder.name for folder in serving.iterdir() if (folder / "__init__.py").exists()} == ARROWS.keys()


def test_the_supervisor_holds_no_model_code() -> None:
    """PID 1 imports neither numpy nor Flask nor an unpickler: what a model breaks, it survives."""
    supervisor = ("cli.py", "settings.py", "state.py", "supervise/", "sight/logs.py")
    heavy = {"numpy", "flask", "gunicorn", "pickle", "PIL", "theano"}
    wrong = [
        (path.name, name)
        for path, name in imports("image/serving")
        if path.relative_to(ROOT / "image/serving").as_posix().startswith(supervisor)
        and (name.split(".")[0] in heavy or name == "loader.bundle.pickles")
    ]
    assert wrong == []
