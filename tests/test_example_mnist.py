"""examples/mnist: digits in any image are read, and nothing but what its author signed ever answers."""

from __future__ import annotations

import io
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from loader.bundle.model_config import ImageSpec, InputSpec
from serving.wire.images import decode_image
from tests.examples import Example, run
from tests.serve import Server

TOKEN = "0123456789abcdef" * 4
ALLOWED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module", name="example")
def published(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """Version 1 published and signed; its keys, and a token for its clients, are in its home."""
    home = tmp_path_factory.mktemp("mnist")
    example = Example("mnist", home)
    write_keys(home, "author")
    write_keys(home, "other")
    (home / "tokens").write_text(f"{TOKEN}\n")
    example.publish(options=["--key", str(home / "author.pem")])
    run(str(example.folder / "build.py"), "--images", str(home / "images"))
    return example


def write_keys(home: Path, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (home / f"{name}.pem").write_bytes(private)
    (home / f"{name}-public.pem").write_bytes(public)


@pytest.fixture(scope="module", name="server")
def serving(example: Example) -> Iterator[Server]:
    """Serves version 1 as values.yaml says; it came through a sync that takes only the author's signature."""
    server = example.server()
    example.sync(server, "1", "--public-key", str(example.home / "author-public.pem"))
    example.start(server, secrets=example.home)
    yield server
    server.stop()


def ask(server: Server, image: bytes, name: str = "x.png") -> Any:
    answer = server.post("/predict", files={"file": (name, image)}, headers=ALLOWED)
    assert answer.status_code == 200, answer.text
    return answer.json()


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.skipif(not shutil.which("curl"), reason="the client is curl, and curl is not installed")
def test_the_clients_call(server: Server, example: Example) -> None:
    """The curl that was written for the hand-made service gets the same answer, with a token where tokens are on."""
    call = shlex.split(f"curl --silent --noproxy * -F 'file=@7.png' {server.url}/predict")
    refused, answered = (
        subprocess.run([*call, *more], cwd=example.folder, capture_output=True, text=True, check=True).stdout.strip()
        for more in ([], ["-H", f"Authorization: Bearer {TOKEN}"])
    )
    assert answered == '{"digit":7}'
    assert refused == '{"error":"a token is needed: send it as `Authorization: Bearer TOKEN`"}'


def test_every_digit(server: Server, example: Example) -> None:
    """Ten digits that it was not trained on are read right."""
    images = [(example.home / f"images/{digit}.png").read_bytes() for digit in range(10)]
    assert [ask(server, image)["digit"] for image in images] == list(range(10))


def on_glass(grey: Image.Image, ink: int) -> Image.Image:
    """Ink of one brightness on nothing: what drawing programs save. Below the glass is the other colour."""
    image = Image.merge("LA", [Image.new("L", grey.size, ink), grey])
    pixels = np.array(image)
    pixels[pixels[..., 1] == 0, 0] = ink
    return Image.fromarray(pixels)


def sixteen_bits(grey: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)


LOOKS: dict[str, Callable[[Image.Image], bytes]] = {
    "as it is": encoded,
    "RGB": lambda grey: encoded(grey.convert("RGB")),
    "RGBA": lambda grey: encoded(grey.convert("RGBA")),
    "palette": lambda grey: encoded(grey.convert("P")),
    "adaptive palette": lambda grey: encoded(grey.convert("RGB").quantize(8)),
    "one bit": lambda grey: encoded(grey.resize((280, 280)).convert("1")),
    "sixteen bits": lambda grey: encoded(sixteen_bits(grey)),
    "sixteen bits, large": lambda grey: encoded(sixteen_bits(grey.resize((300, 300)))),
    "JPEG": lambda grey: encoded(grey.convert("RGB"), "JPEG", quality=90),
    "CMYK": lambda grey: encoded(grey.convert("CMYK"), "JPEG", quality=90),
    "large": lambda grey: encoded(grey.resize((1000, 1000))),
    "wide": lambda grey: encoded(grey.resize((640, 200))),
    "small": lambda grey: encoded(grey.resize((18, 18))),
    "black on white": lambda grey: encoded(grey.point(lambda value: 255 - value)),
    "blue on white": lambda grey: encoded(
        Image.composite(Image.new("RGB", grey.size, "navy"), Image.new("RGB", grey.size, "white"), grey)
    ),
    "black on nothing": lambda grey: encoded(on_glass(grey, 0)),
    "white on nothing": lambda grey: encoded(on_glass(grey, 255)),
    "white on nothing, large": lambda grey: encoded(on_glass(grey.resize((700, 500)), 255)),
    "sixteen bits, black on white": lambda grey: encoded(sixteen_bits(grey.point(lambda value: 255 - value))),
}


@pytest.mark.parametrize("look", LOOKS)
def test_every_size_and_colour(server: Server, example: Example, look: str) -> None:
    """A digit is read whatever its image's size and colours are, dark on light as light on dark."""
    for digit in (7, 3):
        with Image.open(example.home / f"images/{digit}.png") as grey:
            assert ask(server, LOOKS[look](grey), "x.jpg" if look in ("JPEG", "CMYK") else "x.png") == {"digit": digit}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_upright(orientation: int) -> None:
    """An image is turned as its camera says that it was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((40, 80), np.uint8)
    pixels[:20, :20] = 255  # in the corner where each of the eight puts another one
    sent = encoded(Image.fromarray(pixels).convert("RGB"), "JPEG", exif=exif, quality=95)
    spec = InputSpec("p", "FP64", (-1, 8), ImageSpec((4, 2) if orientation < 5 else (2, 4)))
    row = decode_image(sent, spec).reshape((2, 4) if orientation < 5 else (4, 2))
    top, left = orientation in (1, 2, 5, 6), orientation in (1, 4, 5, 8)
    assert row[0 if top else -1, 0 if left else -1] > 200
    assert (row > 128).sum() == 1


@pytest.mark.parametrize(("background", "expected"), [(None, [200, 100]), ("white", [200, 100]), ("black", [55, 155])])
def test_the_background_is_declared(background: Any, expected: list[int]) -> None:
    """An image is inverted only where a background is declared, and the image's edge is of the other kind."""
    pixels = np.full((10, 10), 200, np.uint8)
    pixels[4:6, 4:6] = 100
    row = decode_image(
        encoded(Image.fromarray(pixels)), InputSpec("p", "FP64", (-1, 100), ImageSpec((10, 10), background=background))
    )
    assert [row[0, 0], row[0, 44]] == expected


def refused(example: Example, version: str, key: str = "author") -> str:
    """Sync a version with a public key to a volume of its own; it must fail, and nothing may be served."""
    server = example.server(f"server-{version}")
    server.desire({"name": "mnist", "version": version, "storageUri": example.uri(version)})
    with pytest.raises(AssertionError) as failed:
        example.sync(server, version, "--public-key", str(example.home / f"{key}-public.pem"))
    try:
        server.start()
        reason = server.wait_for("mnist", "failed")["reason"]
        answer = server.post("/predict", files={"file": (example.folder / "7.png").read_bytes()})
        assert answer.status_code == 503
    finally:
        server.stop()
    assert not (server.volume / "mnist" / version).exists()
    assert reason.split(". ")[0] in str(failed.value)
    return str(reason)


def publish_again(example: Example, version: str, *options: str) -> None:
    """Publish the files of version 1 under another number."""
    run("-m", "loader.cli", "publish", str(example.home / "source-1"), example.uri(version), *options)


def copy_as(example: Example, version: str, of: str = "1") -> Path:
    """Put a version into the bucket under another number, as somebody can who may write the bucket."""
    bucket = example.home / "bucket/mnist"
    shutil.copytree(bucket / of, bucket / version)
    return bucket / version


def test_an_unsigned_version_never_loads(example: Example) -> None:
    """Without the author's signature nothing reaches the volume, and clients are told 503."""
    publish_again(example, "unsigned")
    assert "signed" in refused(example, "unsigned")


def test_a_version_that_another_signed_never_loads(example: Example) -> None:
    """A signature by another key counts for nothing."""
    publish_again(example, "foreign", "--key", str(example.home / "other.pem"))
    assert "made with none of the keys given" in refused(example, "foreign")


@pytest.mark.parametrize("file", ["model.joblib", "model.yaml", "manifest.json"])
def test_an_altered_version_never_loads(example: Example, file: str) -> None:
    """One changed byte in the bucket, of any file, is enough."""
    folder = copy_as(example, f"altered-{file}".replace(".", "-"))
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    assert refused(example, folder.name)


def test_an_old_version_cannot_be_passed_off_as_a_new_one(example: Example) -> None:
    """What was signed as version 1 is not version 9."""
    copy_as(example, "9")
    assert "mnist" in refused(example, "9")


def test_what_is_altered_on_the_volume_never_loads(example: Example) -> None:
    """A file that changed after the sync is refused by the server itself, before it is unpickled."""
    server = example.server("changed")
    example.sync(server, "1", "--public-key", str(example.home / "author-public.pem"))
    for file in server.volume.rglob("*"):
        if file.name == "model.joblib" or file.suffix == ".pack":
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.chmod(0o644)
            file.write_bytes(data)
    try:
        server.start()
        assert "sha256" in server.wait_for("mnist", "failed")["reason"]
    finally:
        server.stop()


def test_a_better_version_comes_signed(example: Example, server: Server) -> None:
    """Version 2, a .pkl.gz, is swapped in while version 1 answers; after a refused version the old one goes on."""
    url = f"{server.url}/v1/models/mnist"
    before = server.model("mnist")["serving"]
    assert before == "1"
    example.publish("2", ["--version", "2"], ["--key", str(example.home / "author.pem")])
    example.sync(server, "2", "--public-key", str(example.home / "author-public.pem"))
    server.wait_for("mnist", "ready", "2")
    assert ask(server, (example.folder / "7.png").read_bytes()) == {"digit": 7}
    copy_as(example, "3")
    with pytest.raises(AssertionError):
        example.sync(server, "3", "--public-key", str(example.home / "author-public.pem"))
    server.wait_for("mnist", "failed", "3")
    assert ask(server, (example.folder / "7.png").read_bytes()) == {"digit": 7}
    states = requests.get(url, headers=ALLOWED, timeout=20).json()["model_version_status"]
    assert [(state["version"], state["state"]) for state in states] == [("3", "END"), ("2", "AVAILABLE")]
