"""models.yaml: the bundles that a volume should hold and a server should serve.

models:
- name: digits                                  in URLs and as a folder on the volume
  version: "1"                                  names one bundle, for ever
  storageUri: gs://bucket/models/digits/1       where it comes from
  digest: sha256:…                              optional: the manifest's digest, pinned
  load: eager                                   or on-demand: at the first request
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from loader.bundle import yaml_struct
from loader.bundle.digest import is_digest
from loader.bundle.errors import ModelsInvalid

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class _Entry(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    name: str
    version: str | int
    storage_uri: str
    digest: str | None = None
    load: Literal["eager", "on-demand"] = "eager"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    models: list[_Entry]


class ModelSpec(msgspec.Struct, frozen=True):
    """One desired bundle: which model and version, and where its bytes are."""

    name: str
    version: str
    storage_uri: str
    digest: str | None = None
    on_demand: bool = False


def parse_models(text: str | bytes, where: str = "models.yaml") -> tuple[ModelSpec, ...]:
    """Read the content of a models.yaml.

    Raises:
        ModelsInvalid: not YAML, an unknown key, a name or version that cannot be in a URL, or a name given twice.
    """
    specs: dict[str, ModelSpec] = {}
    for entry in yaml_struct.decode(text, _File, where, ModelsInvalid).models:
        spec = ModelSpec(
            entry.name, str(entry.version), entry.storage_uri.rstrip("/"), entry.digest, entry.load == "on-demand"
        )
        _check(spec, where)
        if spec.name in specs:
            raise ModelsInvalid(f"{where}: the model {spec.name!r} is listed twice", hint="Keep one entry of it")
        specs[spec.name] = spec
    return tuple(specs.values())


def load_models(path: Path) -> tuple[ModelSpec, ...]:
    """Read a models.yaml from disk.

    Raises:
        ModelsInvalid: it cannot be read or followed.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ModelsInvalid(f"{path} cannot be read: {error.strerror}", hint="Pass --models FILE") from error
    return parse_models(text, str(path))


def _check(spec: ModelSpec, where: str) -> None:
    if not _NAME.fullmatch(spec.name):
        raise ModelsInvalid(
            f"{where}: the model name {spec.name!r} cannot be part of a URL and a folder",
            hint="Use lower-case letters, digits, '.', '_' and '-', at most 63",
        )
    if not _VERSION.fullmatch(spec.version):
        raise ModelsInvalid(
            f"{where}: version {spec.version!r} of {spec.name} cannot be part of a URL and a folder",
            hint="Use letters, digits, '.', '_' and '-', at most 63",
        )
    if spec.digest is not None and not is_digest(spec.digest):
        raise ModelsInvalid(f"{where}: the digest of {spec.name} is {spec.digest!r}, expected sha256:<64 hex digits>")
