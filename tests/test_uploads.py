"""Bodies other than JSON: .npy files, raw tensors, images, and forms that have them as parts."""

from __future__ import annotations

import io
import re
import struct
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loader.bundle.model_config import ImageSpec, InputSpec, ModelConfig
from serving.errors import InvalidRequest, PredictFailed
from serving.wire.images import MAX_PIXELS
from serving.wire.npy import NPY_TYPE, decode_npy, encode_npy
from serving.wire.uploads import FORM_TYPE, MAX_PARTS, RAW_TYPE, decode_upload
from tests.model_kinds import Doubler
from tests.serve import Server
from tests.test_server import DECLARED, serve

ROW = ModelConfig(inputs=(InputSpec("x", "FP32", (-1, 2)),))
TWO = ModelConfig(inputs=(InputSpec("a", "INT64", (-1,)), InputSpec("b", "BYTES", (-1,))))
FREE = ModelConfig()
PIXELS = ModelConfig(inputs=(InputSpec("p", "FP64", (-1, 4), ImageSpec((2, 2), maximum=1)),))


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    """Return a .npy file with a header of our own and eight bytes of data."""
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode("latin-1") + bytes(8)


def png(size: tuple[int, int] = (4, 4), mode: str = "L", colour: Any = 255) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, "png")
    return file.getvalue()


def png_of_claimed_size(width: int, height: int) -> bytes:
    """Return a few bytes that claim to be a large picture."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (head, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def form(parts: Iterable[tuple[str, str | None, str, bytes]]) -> tuple[bytes, str]:
    """Return the body and the type of a form; a part is a name, a file's name, a type and its content."""
    body = b""
    for name, filename, kind, content in parts:
        file = "" if filename is None else f'; filename="{filename}"'
        head = f'--B\r\nContent-Disposition: form-data; name="{name}"{file}\r\n'
        body += head.encode() + (f"Content-Type: {kind}\r\n" if kind else "").encode() + b"\r\n" + content + b"\r\n"
    return body + b"--B--\r\n", f"{FORM_TYPE}; boundary=B"


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, 2], [3, 4]]),
        np.array([[1.5, 2], [3, 4]], ">f4"),
        np.asfortranarray([[1, 2], [3, 4]]),
        np.array([[1, 2]], "uint8"),
    ],
)
def test_npy_files_become_what_the_model_takes(array: Any) -> None:
    """Any dtype that fits, byte order and layout give rows of the declared datatype; a lone row is one."""
    inputs, many = decode_upload(npy(array), NPY_TYPE, ROW)
    assert inputs["x"].dtype == np.float32
    assert (inputs["x"].tolist(), many) == (array.tolist(), True)
    inputs, many = decode_upload(npy(array[0]), NPY_TYPE, ROW)
    assert (inputs["x"].tolist(), many) == ([array[0].tolist()], False)


def test_npy_files_hold_texts_and_numbers_that_are_none() -> None:
    """Texts of both kinds become Python's, and NaN stays."""
    for array in (np.array(["a", "größer"]), np.array([b"a", "größer".encode()])):
        assert decode_npy(npy(array), "x").tolist() == ["a", "größer"]
    assert str(decode_upload(npy(np.array([[np.nan, np.inf]])), NPY_TYPE, ROW)[0]["x"].tolist()) == "[[nan, inf]]"
    assert decode_upload(npy(np.array(3)), NPY_TYPE, FREE)[1] is False


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty, expected application/x-npy"),
        (b"\x93NUMPY", "not a .npy file"),
        (b"\x93NUMPY\x09\x09", "not a .npy file"),
        (npy(np.zeros((1, 2)))[:-1], "does not take 15 bytes"),
        (npy(np.zeros((1, 2))) + b"x", "does not take 17 bytes"),
        (npy(np.array([{}], dtype=object)), "dtype object is not taken"),
        (npy(np.zeros(2, "datetime64[s]")), "dtype datetime64"),
        (npy(np.zeros(2, complex)), "dtype complex128 is not taken"),
        (npy(np.zeros(2, "longdouble")), "is not taken"),
        (npy(np.zeros(2, "i4,f4")), "is not taken"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"), "does not take 8 bytes"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}"), "does not take 8 bytes"),
        (header("{'descr': '|b1', 'fortran_order': False, 'shape': (8,)}")[:-1] + b"\x02", "neither 0 nor 1"),
        (header("{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000,)}"), "dtype"),
        (header("{'descr': '|S8', 'fortran_order': False, 'shape': (1,)}")[:-1] + b"\xff", "not UTF-8"),
        (header("[" * 5000), "not a .npy file"),
        (header("__import__('os').abort()"), "not a .npy file"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1," * 100 + ")}"), "does not hold 1 values"),
        (npy(np.array([["a", "b"]])), "expected FP32, got texts"),
        (npy(np.array([[1e300, 1]])), "does not fit FP32"),
        (npy(np.zeros((2, 3))), r"expected shape \[-1, 2\], got \[2, 3\]"),
        (npy(np.zeros((0, 2))), "no rows"),
    ],
)
@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
def test_npy_files_that_do_not_fit_are_refused(body: bytes, words: str) -> None:
    """Objects, lies about the size and other dtypes are each named, and no memory is taken for a claim."""
    with pytest.raises(InvalidRequest, match=words):
        decode_upload(body, NPY_TYPE, ROW)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00"]))
@pytest.mark.filterwarnings("ignore")
def test_random_npy_files_end_in_a_sentence(data: bytes, version: bytes) -> None:
    """Whatever numpy's parser of headers raises is told as one kind of error."""
    with pytest.raises(InvalidRequest):
        decode_upload(b"\x93NUMPY" + version + struct.pack("<H", len(data)) + data, NPY_TYPE, ROW)


def test_answers_are_npy_files_on_request() -> None:
    """One output is one array; more than one, or a mixture, no file can hold."""
    for array in (np.array([1.5, np.nan], "float32"), np.array(["a", "b"], dtype=object)):
        back = np.load(io.BytesIO(encode_npy({"y": array})), allow_pickle=False)
        assert str(back.tolist()) == str(array.tolist())
    with pytest.raises(InvalidRequest, match="answers with y, z; a .npy file holds one array"):
        encode_npy({"y": np.array([1]), "z": np.array([1])})
    with pytest.raises(PredictFailed):
        encode_npy({"y": np.array(["a", 1], dtype=object)})


def test_raw_tensors_have_as_many_rows_as_their_length_says() -> None:
    """Little-endian elements and nothing else; the declaration has the rest."""
    inputs, many = decode_upload(struct.pack("<4f", 1, 2, 3, 4), RAW_TYPE, ROW)
    assert (inputs["x"].tolist(), many) == ([[1, 2], [3, 4]], True)
    open_width = ModelConfig(inputs=(InputSpec("x", "UINT8", (1, -1)),))
    assert decode_upload(b"\x01\x02\x03", RAW_TYPE, open_width)[0]["x"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ROW, r"FP32 of shape \[-1, 2\] takes a multiple of 8 bytes, got 7"),
        (ModelConfig(inputs=(InputSpec("x", "FP64", (1, 2)),)), "takes 16 bytes, got 7"),
        (ModelConfig(inputs=(InputSpec("x", "FP64", (-1, -1)),)), "raw tensors are taken for"),
        (ModelConfig(inputs=(InputSpec("x", "BYTES", (-1,)),)), "raw tensors are taken for"),
        (FREE, "raw tensors are taken for"),
        (TWO, r"the model takes several inputs \(a, b\)"),
    ],
)
def test_raw_tensors_need_a_declaration_that_they_fit(config: ModelConfig, words: str) -> None:
    """Bytes without a name or a shape mean nothing where the model does not say what they are."""
    with pytest.raises(InvalidRequest, match=words):
        decode_upload(b"1234567", RAW_TYPE, config)


def test_images_come_in_the_declared_size_and_colour() -> None:
    """White, of any size and in any mode, is the declared maximum everywhere."""
    for body in (
        png(),
        png((300, 200), "RGB", (255, 255, 255)),
        png((1, 1), "RGBA", (255, 255, 255, 9)),
        png(mode="1"),
    ):
        inputs, many = decode_upload(body, "image/png", PIXELS)
        assert (inputs["p"].tolist(), many) == ([[1.0] * 4], False)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"GIF89a" + bytes(20), "expected PNG or JPEG"),
        (png()[:-30], "no image that can be read"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "no image"),
        (png_of_claimed_size(65_000, 65_000), f"4225000000 pixels, at most {MAX_PIXELS}"),
        (png_of_claimed_size(0, 5), "no image"),
        (png_of_claimed_size(100, 100), "no image"),
    ],
)
def test_images_that_cannot_be_read_are_refused(body: bytes, words: str) -> None:
    """Broken files, other formats, and more pixels than the memory should hold."""
    with pytest.raises(InvalidRequest, match=words):
        decode_upload(body, "image/png", PIXELS)


@pytest.mark.parametrize(
    ("part", "expected", "many"),
    [
        (("file", "x.npy", RAW_TYPE, npy(np.array([[1, 2]]))), [[1, 2]], True),
        (("x", "x", NPY_TYPE, npy(np.array([1, 2]))), [[1, 2]], False),
        (("file", "x.bin", RAW_TYPE, struct.pack("<2f", 1, 2)), [[1, 2]], True),
        (("x", None, "", b"[1, 2]"), [[1, 2]], False),
    ],
)
def test_a_form_has_the_only_input_as_a_file_or_a_field(part: Any, expected: Any, many: bool) -> None:
    """By its name or as `file`; where the type says only that it is bytes, the file's name says what it is."""
    inputs, got_many = decode_upload(*form([part]), ROW)
    assert (inputs["x"].tolist(), got_many) == (expected, many)


def test_a_form_has_a_part_for_each_of_several_inputs() -> None:
    """Texts are taken as they are, numbers as JSON; they come in the model's order."""
    inputs, many = decode_upload(*form([("b", None, "", "grün".encode()), ("a", None, "", b"7")]), TWO)
    assert [(name, array.tolist()) for name, array in inputs.items()] == [("a", [7]), ("b", ["grün"])]
    assert not many
    assert decode_upload(*form([("file", "7.png", "image/png", png())]), PIXELS)[0]["p"].tolist() == [[1.0] * 4]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (form([]), "no multipart/form-data that can be read|no parts"),
        ((b"--B\r\n", f"{FORM_TYPE}; boundary=B"), "that can be read"),
        ((b"junk", f"{FORM_TYPE}; boundary=B"), "that can be read"),
        ((b"junk", FORM_TYPE), "no boundary"),
        ((b"--B\r\n\r\nx\r\n--B--\r\n", f"{FORM_TYPE}; boundary=B"), "that can be read"),
        (
            (b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--\r\n", f"{FORM_TYPE}; boundary=B"),
            "no name|that can be read",
        ),
        (form([("y", None, "", b"1")]), "part 'y' is no input; the model takes x"),
        (form([("x", None, "", b"[1,")]), "part 'x': the body is not JSON"),
        (form([("x", None, "", b"")]), "part 'x'"),
        (form([("x", None, "", b"[1, 2]"), ("file", None, "", b"[1, 2]")]), "input 'x' is given twice"),
        (form([("file", "a.txt", "text/plain", b"1")]), "part 'file' is 'text/plain'; expected an image"),
        (form([("file", "a.png", "", png())]), "takes no images"),
        (form([(f"p{i}", None, "", b"1") for i in range(MAX_PARTS + 1)]), f"at most {MAX_PARTS} parts"),
    ],
)
def test_forms_that_do_not_fit_are_refused(body: tuple[bytes, str], words: str) -> None:
    """Broken forms, unknown parts and too many of them are each named."""
    with pytest.raises(InvalidRequest, match=words):
        decode_upload(*body, ROW)


def test_parts_with_different_numbers_of_rows_are_refused() -> None:
    """One row of this and several of that make no request."""
    parts = form([("a", "a.npy", "", npy(np.array([1, 2]))), ("b", None, "", b"x")])
    with pytest.raises(InvalidRequest, match="some parts of the form are one row"):
        decode_upload(*parts, TWO)


def test_the_server_takes_every_kind_of_body_in_every_protocol(server: Server) -> None:
    """Short form, V1 and v2 take a .npy file, a raw tensor and a form, and answer in JSON or as a .npy file."""
    serve(server, Doubler(), DECLARED)
    array = np.array([[1.0, 2.0], [3.0, 4.0]])
    answers = {"/predict": "predictions", "/v1/models/m:predict": "predictions", "/v2/models/m/infer": "outputs"}
    for path, key in answers.items():
        bodies: list[dict[str, Any]] = [
            {"data": npy(array), "headers": {"Content-Type": NPY_TYPE}},
            {"data": array.tobytes(), "headers": {"Content-Type": RAW_TYPE}},
            {"files": {"file": ("x.npy", npy(array))}},
        ]
        for body in bodies:
            got = server.post(path, **body).json()[key]
            assert (got[0]["data"] if key == "outputs" else np.ravel(got).tolist()) == [2.0, 4.0, 6.0, 8.0]
        asked = server.post(
            path, data=npy(array), headers={"Content-Type": f"{NPY_TYPE}; charset=x", "Accept": NPY_TYPE}
        )
        assert asked.headers["Content-Type"] == NPY_TYPE
        assert np.load(io.BytesIO(asked.content)).tolist() == [[2, 4], [6, 8]]
    assert server.post("/predict", files={"x": (None, "[1, 2]")}).json() == {"prediction": [2.0, 4.0]}
    refused = server.post("/predict", data=b"x", headers={"Content-Type": "image/webp"})
    assert (refused.status_code, list(refused.json())) == (400, ["error"])


def peak_memory(pid: int) -> int:
    """Return the most bytes that any process below one has ever held."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return max([int(own[1]) * 1024 if own else 0, *(peak_memory(int(child)) for child in children)])


def test_a_flood_of_large_pictures_costs_the_memory_of_one(server: Server) -> None:
    """Pictures of sixteen million pixels, each a few kilobytes, are refused or decoded one at a time."""
    serve(server, Doubler(), "inputs: [{name: p, datatype: FP64, shape: [-1, 4], image: {size: [2, 2]}}]\n")
    body, too_big = png((4000, 4000), "RGB"), png_of_claimed_size(60_000, 60_000)
    statuses: list[int] = []

    def ask(content: bytes) -> None:
        statuses.append(server.post("/predict", data=content, headers={"Content-Type": "image/png"}).status_code)

    assert server.process is not None
    ask(png((10, 10), "RGB"))
    before = peak_memory(server.process.pid)
    threads = [threading.Thread(target=ask, args=(content,)) for content in (body, too_big) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 5 + [400] * 4
    assert peak_memory(server.process.pid) - before < 130_000_000  # one such picture takes 64 MB in RGB, and 16 in grey
    assert server.post("/predict", json={"p": [1, 2, 3, 4]}).json() == {"prediction": [2.0, 4.0, 6.0, 8.0]}
    assert requests.get(f"{server.url}/healthz", timeout=20).status_code == 200
