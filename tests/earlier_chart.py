"""The chart as it was released before this tree, and the values that it knows."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml


def earlier_chart(checkout: Path, folder: Path) -> Path:
    """Unpack the chart of the newest tag, or else commit, that has another version than a checkout's own.

    Args:
        checkout: the tree.
        folder: where to.
    """

    def git(*arguments: str) -> bytes:
        return subprocess.run(("git", "-C", str(checkout), *arguments), capture_output=True, check=True).stdout

    def version(text: str | bytes) -> str:
        return str(yaml.safe_load(text)["version"])

    ours = version((checkout / "chart/Chart.yaml").read_text())
    with suppress(OSError, subprocess.CalledProcessError):  # no git, no history, or not all of it
        tags = git("tag", "--merged", "HEAD", "--sort=-creatordate").decode().split()
        bumps = git("log", "--format=%H^", "--", "chart/Chart.yaml").decode().split()
        for revision in (*tags, "HEAD", *bumps):
            if version(git("show", f"{revision}:chart/Chart.yaml")) != ours:
                with tarfile.open(fileobj=io.BytesIO(git("archive", revision, "chart"))) as archive:
                    archive.extractall(folder, filter="data")
                return folder / "chart"
    pytest.skip("this checkout's history has no chart of another version")


def known_values(chart: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Return those of some values that a chart's schema knows: that of an earlier chart refuses the others."""

    def known(values: Any, schema: dict[str, Any]) -> Any:
        if "$ref" in schema:
            schema = whole["definitions"][schema["$ref"].removeprefix("#/definitions/")]
        if not isinstance(values, dict) or "properties" not in schema:
            return values
        properties = schema["properties"]
        return {key: known(value, properties[key]) for key, value in values.items() if key in properties}

    whole = json.loads((chart / "values.schema.json").read_text())
    return dict(known(values, whole))
