"""models.yaml and model.yaml: what is accepted, and that every refusal names the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from loader.bundle.errors import ModelConfigInvalid, ModelsInvalid
from loader.bundle.model_config import parse_model_config
from loader.bundle.models import ModelSpec, load_models, parse_models

DIGEST = "sha256:" + "0" * 64


def models(**changes: str) -> str:
    """A models.yaml of one entry, with some keys changed, added, or left out where they are empty."""
    keys = {"name": "digits", "version": '"1"', "storageUri": "gs://bucket/models/digits/1", **changes}
    return "models:\n- {" + ", ".join(f"{key}: {value}" for key, value in keys.items() if value) + "}\n"


def test_whole_entry() -> None:
    """Every key of an entry arrives, and a slash at the end of the URI does not count."""
    text = models(digest=DIGEST, load="on-demand", storageUri="gs://bucket/models/digits/1/")
    assert parse_models(text) == (ModelSpec("digits", "1", "gs://bucket/models/digits/1", DIGEST, on_demand=True),)


def test_defaults() -> None:
    """Digest and load are optional: no pin, and loaded eagerly."""
    (spec,) = parse_models(models())
    assert (spec.digest, spec.on_demand) == (None, False)


def test_several_models() -> None:
    """Models come in the order of the file."""
    text = models() + models(name="letters")[len("models:\n") :] + models(name="a.b-c_d")[len("models:\n") :]
    assert [spec.name for spec in parse_models(text)] == ["digits", "letters", "a.b-c_d"]


def test_no_models() -> None:
    """An empty list is a valid wish: nothing is desired."""
    assert parse_models("models: []") == ()


@pytest.mark.parametrize(
    ("written", "version"), [("1", "1"), ("20240131", "20240131"), ('"1.10"', "1.10"), ("v2", "v2")]
)
def test_version_is_text(written: str, version: str) -> None:
    """A version that YAML reads as a whole number is the text that was written."""
    assert parse_models(models(version=written))[0].version == version


@pytest.mark.parametrize("written", ["1.10", "true", "null", "2024-01-31", "[1]"])
def test_version_that_yaml_would_change(written: str) -> None:
    """A version that YAML reads as another thing, such as 1.10 as 1.1, is refused rather than guessed."""
    with pytest.raises(ModelsInvalid, match="version"):
        parse_models(models(version=written))


@pytest.mark.parametrize(
    "name", ["Digits", '"../up"', "a/b", ".hidden", "-a", "a-", '""', "a" * 64, "ä", '"a b"', '"a\\n"', '"a\\0"']
)
def test_bad_name(name: str) -> None:
    """A model name that cannot be part of a URL and a folder is refused."""
    with pytest.raises(ModelsInvalid, match="cannot be part of a URL and a folder"):
        parse_models(models(name=name))


@pytest.mark.parametrize(
    "version", ['".."', '"."', '".status"', "a/b", '"../1"', '""', "v" * 64, '"1\\n"', '"1 2"', "é"]
)
def test_bad_version(version: str) -> None:
    """A version that cannot be part of a URL and a folder is refused."""
    with pytest.raises(ModelsInvalid, match="version .* cannot be part of a URL and a folder"):
        parse_models(models(version=version))


@pytest.mark.parametrize("digest", ["sha256:00", "f" * 64, "md5:" + "0" * 32, DIGEST.upper(), f'"{DIGEST}\\n"', '""'])
def test_bad_digest(digest: str) -> None:
    """A digest of another form is refused."""
    with pytest.raises(ModelsInvalid, match="expected sha256:<64 hex digits>"):
        parse_models(models(digest=digest))


def test_duplicate() -> None:
    """One name twice is refused: a model has one desired version."""
    with pytest.raises(ModelsInvalid, match="'digits' is listed twice"):
        parse_models(models() + models(version='"2"')[len("models:\n") :])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (models(storageURI="x"), "unknown field `storageURI`"),
        (models(storageUri=""), "missing required field `storageUri`"),
        (models(load="lazy"), r"load"),
        (models(name="1"), r"name"),
        (models(digest="1"), r"digest"),
        ("model: []", "missing required field `models`|unknown field `model`"),
        ("models: {}", "models"),
        ("models: [x]", r"models\[0\]"),
        ("", "expected `object`|Expected `object`"),
        ("[]", "Expected `object`"),
        ("models: [", "is not YAML"),
        ("a: *b", "is not YAML"),
        ("models: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("\0", "is not YAML"),
    ],
)
def test_refused_with_the_place(text: str, place: str) -> None:
    """What is not YAML, has an unknown or missing key or a value of the wrong type is refused by its place."""
    with pytest.raises(ModelsInvalid, match=place) as caught:
        parse_models(text, "here.yaml")
    assert str(caught.value).startswith("here.yaml")
    assert "\n" not in str(caught.value)


def test_not_text() -> None:
    """Bytes that are no text are refused with a sentence."""
    with pytest.raises(ModelsInvalid, match="is not YAML"):
        parse_models(b"\xff\xfe\xfa")


@pytest.mark.usefixtures("collector_off")
def test_nested_too_deep() -> None:
    """A file that is nested without end is refused with a sentence."""
    with pytest.raises(ModelsInvalid, match="is not YAML"):
        parse_models("[" * 5000)


def test_from_disk(tmp_path: Path) -> None:
    """The file is read from disk, and a missing one is named."""
    path = tmp_path / "models.yaml"
    path.write_text(models())
    assert load_models(path)[0].name == "digits"
    with pytest.raises(ModelsInvalid, match=r"gone\.yaml cannot be read: No such file or directory"):
        load_models(tmp_path / "gone.yaml")


def test_model_config_defaults() -> None:
    """An empty model.yaml is every default."""
    config = parse_model_config(b"", "model.yaml")
    assert (config.asset, config.predictor, config.inputs, config.golden) == (None, None, (), None)
    assert (config.answer.one, config.answer.many) == ("prediction", "predictions")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("assets: model.pkl", "unknown field `assets`"),
        ("predictor: predictor.py", "expected FILE.py:CLASS"),
        ("inputs: [{name: x, datatype: FLOAT, shape: [-1]}]", r"inputs\[0\]\.datatype"),
        ("inputs: [{name: x, datatype: FP32, shape: []}]", "x has shape"),
        ("outputs: [{name: y, datatype: FP32, shape: [-2]}]", r"y has shape \[-2\]"),
        ("inputs: [{name: x, datatype: FP32, shape: [0]}]", r"x has shape \[0\]"),
        ("answer: {two: x}", "unknown field `two`"),
        (
            "inputs: [{name: x, datatype: FP32, shape: [-1]}]\nquestion: {many: x}",
            "the name of an input or column, 'x'",
        ),
        ("question: {one: x, many: x}", "question has the name 'x' for one row and for several"),
        ("alive: {/ping: pong}", "alive has '/ping', expected / or /healthz"),
        ("asset: [", "is not YAML"),
    ],
)
def test_model_config_refused(text: str, place: str) -> None:
    """A model.yaml with a typo or an impossible value is refused by its place."""
    with pytest.raises(ModelConfigInvalid, match=place):
        parse_model_config(text.encode(), "model.yaml")
