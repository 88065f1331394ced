"""README.md and docs/ stay true: what they name exists, what exists is named, and curl examples answer as shown."""

import pickle
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from flask import Flask

from loader.bundle.bundle import Bundle
from loader.bundle.model_config import ModelConfig
from loader.bundle.models import parse_models
from loader.publish import describe
from loader.signatures.keys import PASSPHRASE_VARIABLE
from loader.sources.https import TOKEN
from serving.http import routes
from serving.models.model import load_model
from serving.settings import PREFIX, Settings
from serving.supervise import admin
from tests.helm import changed, read, render
from tests.serve import Server

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "examples/digits"
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md")]
PAGES += sorted([*ROOT.glob("examples/*/README.md"), *ROOT.glob("docs/*.md")])
README, HTTP_API, FORMATS, OPERATIONS = (
    (ROOT / name).read_text() for name in ("README.md", "docs/http-api.md", "docs/formats.md", "docs/operations.md")
)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """What a heading can be linked by, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Every relative link leads to a file that is there, and to a heading in it where it names one."""
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets(page: Path) -> None:
    """Every `make X` that a page names is a target of the Makefile."""
    named = re.findall(r"^(?:\S+=\S+ )*make ([a-z][a-z-]*)", "\n".join(code(page.read_text())), re.MULTILINE)
    assert set(named) <= targets()


def code(text: str) -> list[str]:
    """The blocks and the spans of code of a page: prose may say that people make things."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [*fenced, *spans]


def test_settings() -> None:
    """The documented PANTRY_* variables are the fields of Settings, with their defaults, and the loader's secrets."""
    fields = {f"{PREFIX}{field.name.upper()}": str(field.default) for field in msgspec.structs.fields(Settings)}
    assert dict(re.findall(r"^\| `(PANTRY_\w+)` \| (\w*) *\|", OPERATIONS, re.MULTILINE)) == fields
    for page in PAGES:
        assert set(re.findall(r"PANTRY_[A-Z_]*[A-Z]", page.read_text())) <= fields.keys() | {TOKEN, PASSPHRASE_VARIABLE}


def test_settings_are_values() -> None:
    """The chart value beside each documented variable exists, and has the documented default."""
    values = read(ROOT / "chart/values.yaml")
    rows = re.findall(r"^\| `PANTRY_\w+` \| (\w*) *\| (?:`(\w+)\.(\w+)`)? *\|", OPERATIONS, re.MULTILINE)
    assert len(rows) == len(Settings.__struct_fields__)
    shown = {(section, name): default for default, section, name in rows if name}
    assert shown == {(section, name): str(values[section].get(name)) for section, name in shown}


def test_urls() -> None:
    """docs/http-api.md has every URL of the serving port and of the admin port, and no other."""
    app = Flask("docs", static_folder=None)
    routes.register(app)
    pages = set(re.findall(r'case "(/\w+)"', Path(admin.__file__).read_text()))
    exist = {
        (re.sub(r"<\w+:", "<", rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    documented = {
        (url, method)
        for urls, method in re.findall(r"^\| ((?:`/[^`]*`(?:, )?)+) \| (GET|POST) \|", HTTP_API, re.MULTILINE)
        for url in re.findall(r"`([^`]+)`", urls)
    }
    assert documented == exist
    assert set(re.findall(r"^\| `(/\w+)` \| [^GP]", HTTP_API.partition("## The admin port")[2], re.MULTILINE)) == pages


def test_model_yaml_keys() -> None:
    """docs/formats.md explains every key of model.yaml, and no other."""
    section = FORMATS.partition("## model.yaml")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert sorted(key for cell in cells for key in re.findall(r"`([^`]+)`", cell)) == sorted(keys(ModelConfig))


def keys(kind: object, prefix: str = "") -> Iterator[str]:
    """The keys of a struct and of the structs in it: inputs, inputs[].name …"""
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.StructType):
        for field in info.fields:
            name = prefix + field.encode_name
            inner = list(nested(field.type, name))
            if not prefix and inner and not name.startswith(("inputs", "outputs")):
                yield from inner  # `answer` is told by its two keys
            else:
                yield from (name, *inner)


def nested(info: msgspec.inspect.Type, name: str) -> Iterator[str]:
    for part in info.types if isinstance(info, msgspec.inspect.UnionType) else (info,):
        if isinstance(part, msgspec.inspect.VarTupleType):
            yield from nested(part.item_type, f"{name}[]")
        elif isinstance(part, msgspec.inspect.StructType):
            yield from keys(part.cls, f"{name}.")


def test_yaml_examples() -> None:
    """The examples of models.yaml and model.yaml in docs/formats.md can be followed."""
    models, config = blocks(FORMATS, "yaml")
    digest = "sha256:" + "0" * 64
    assert parse_models(models.replace("sha256:…", digest))[0].digest == digest
    assert msgspec.convert(yaml.safe_load(config), ModelConfig).predictor == "predictor.py:Predictor"


def test_commands() -> None:
    """The README lists the commands of `pantry`, in the words of `pantry --help`."""
    done = subprocess.run([sys.executable, "-m", "loader.cli", "--help"], capture_output=True, text=True, check=True)
    commands = re.findall(r"^    (\w+) +(\S.*)$", done.stdout, re.MULTILINE)
    assert re.findall(r"^pantry (\w+)  +(\S.*)$", README, re.MULTILINE) == commands


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*/values.yaml")), ids=lambda path: path.parent.name)
def test_example_values(path: Path) -> None:
    """An example's values render, also with what its first lines set."""
    values = read(path)
    assert render(values)
    assert render(changed(values, {"image.repository": "registry.example.com/pantry"}))


def examples(page: Path) -> Iterator[tuple[str, str]]:
    """Every curl command of a page's console blocks, with the answer beneath it."""
    for block in blocks(page.read_text(), "console"):
        yield from re.findall(r"^\$ (curl .*)\n(.*)$", block, re.MULTILINE)


@pytest.fixture(scope="module", name="server")
def digits_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with version 1 of the digits, made by the commands of examples/digits/README.md."""
    home = tmp_path_factory.mktemp("docs")
    uri = f"file://{home}/bucket"
    server = Server(home)
    server.desire({"name": "digits", "version": "1", "storageUri": uri})
    for words in (
        [str(DIGITS / "build.py"), str(home / "digits"), "--version", "1"],
        ["-m", "loader.cli", "publish", str(home / "digits"), uri],
        ["-m", "loader.cli", "sync", "--models", str(home / "models.yaml"), "--volume", str(server.volume)],
    ):
        subprocess.run([sys.executable, *words], check=True, cwd=ROOT)
    server.start()
    server.wait_for("digits", "ready")
    yield server
    server.stop()


@pytest.mark.skipif(not shutil.which("curl"), reason="the examples are curl commands, and curl is not installed")
@pytest.mark.parametrize(("command", "answer"), [*examples(ROOT / "docs/http-api.md"), *examples(DIGITS / "README.md")])
def test_curl_examples(server: Server, command: str, answer: str) -> None:
    """Every curl example answers what the page shows."""
    for shown, real in (
        ("http://localhost:8080", server.url),
        ("http://localhost:8081", f"http://127.0.0.1:{server.admin_port}"),
    ):
        command = command.replace(shown, real)
    done = subprocess.run(
        [*shlex.split(command), "--silent", "--noproxy", "*"], cwd=DIGITS, capture_output=True, text=True, check=True
    )
    assert re.sub(r'"(bytes|totalBytes)":\d+', r'"\1":0', done.stdout.strip()) == re.sub(
        r'"(bytes|totalBytes)":\d+', r'"\1":0', answer
    )


def test_readme_predictor(tmp_path: Path) -> None:
    """The README's predictor.py answers."""
    (source,) = blocks(README, "python")
    (tmp_path / "predictor.py").write_text(source)
    (tmp_path / "words.pkl").write_bytes(pickle.dumps({"one": [1.0, 0.0], "two": [0.0, 1.0]}))
    (tmp_path / "model.yaml").write_text("predictor: predictor.py:Predictor")
    manifest, _ = describe(tmp_path)
    model = load_model("words", "1", Bundle(tmp_path, manifest, manifest.digest), print)
    assert model.predict({"word": np.array(["two"])})["vector"].tolist() == [[0.0, 1.0]]
