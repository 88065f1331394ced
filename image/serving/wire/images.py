"""Images as rows: what a PNG or JPEG becomes for a model that declares how.

Whatever the size and the colours are, a model gets what a person sees: transparent parts are paper, sixteen bits are as
bright as eight, and a photograph is upright. Paper is white, or what the model declares as its `background`; an image
on paper of the other kind, told by its edge, is then inverted.
"""

from __future__ import annotations

import io
import threading
from contextlib import nullcontext

import numpy as np
from PIL import Image, ImageOps

from loader.bundle.model_config import ImageSpec, InputSpec
from serving.errors import InvalidRequest
from serving.wire.tensors import DTYPES, Array, check_shape

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 16_000_000  # a few kilobytes of PNG can hold as many pixels as fill the memory
BIG_PIXELS = 1_000_000  # from here on one at a time, so that a flood of such images takes no more memory than one
Image.MAX_IMAGE_PIXELS = None  # ours is stricter, and an error where Pillow's is at first a warning
_big = threading.Lock()
_MIDDLE = 127.5
_ORIENTATION = 0x0112  # in EXIF: how a camera was held


def decode_image(body: bytes, spec: InputSpec | None) -> Array:
    """Make one row of an image.

    Args:
        body: a PNG or a JPEG.
        spec: the input that it is for; its `image` says what size and colours the model takes.

    Returns:
        An array of one row, of the declared dtype and shape.

    Raises:
        InvalidRequest: the model takes no images, or this is none that can be read, or it has too many pixels.
    """
    if spec is None or spec.image is None:
        raise InvalidRequest("this model takes no images; it takes JSON")
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            count = image.width * image.height
            if count > MAX_PIXELS:
                raise InvalidRequest(f"the image has {count} pixels, at most {MAX_PIXELS} are taken")
            with _big if count > BIG_PIXELS else nullcontext():
                try:
                    pixels = _seen(image, spec.image)
                finally:
                    image.close()  # gives its memory back before the next one takes any
    except InvalidRequest:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds at broken files
        raise InvalidRequest(f"the body is no image that can be read (expected {' or '.join(FORMATS)})") from error
    values = pixels.astype(np.float64) * (spec.image.maximum / 255.0)
    row = values.astype(DTYPES[spec.datatype])
    try:
        row = row.reshape([1, *spec.shape[1:]])
    except ValueError as error:
        raise InvalidRequest(
            f"model.yaml: an image of {list(row.shape)} does not fill the shape {list(spec.shape)}"
        ) from error
    check_shape(row, spec.shape, f"input {spec.name!r}")
    return row


def _seen(image: Image.Image, wanted: ImageSpec) -> Array:
    """Return an image's values from 0 to 255, in the size and colours that a model wants."""
    image.draft(wanted.mode, wanted.size)
    turned = _turned(image)
    size = wanted.size if turned < 5 else wanted.size[::-1]  # from 5 on it lies on its side
    if image.mode.startswith("I") or image.mode == "F":  # sixteen bits, which Pillow would cut off at 255
        small = Image.fromarray(np.asarray(image).astype(np.float32) / 257).resize(size)
        values = np.asarray(small).round().clip(0, 255)
        pixels = Image.fromarray(values.astype(np.uint8)).convert(wanted.mode)
    elif image.has_transparency_data:
        whole = image if image.mode == "RGBA" else image.convert("RGBA")
        pixels = _on_paper(whole.resize(size), wanted)
    else:
        pixels = image.convert(wanted.mode).resize(size)
    if turned != 1:
        pixels.getexif()[_ORIENTATION] = turned
        pixels = ImageOps.exif_transpose(pixels)
    found = np.asarray(pixels)
    if wanted.background is not None and (_edge(found) > _MIDDLE) != (wanted.background == "white"):
        found = 255 - found
    return found


def _turned(image: Image.Image) -> int:
    """Return how a photograph has to be turned to be upright: 1 (not at all) to 8, in EXIF's numbers."""
    try:
        turned = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # what cannot be read says nothing
        return 1
    return turned if turned in range(1, 9) else 1


def _on_paper(image: Image.Image, wanted: ImageSpec) -> Image.Image:
    """Return an image without transparency; where a background is declared, on the paper on which it shows."""
    ink, cover = np.asarray(image.convert("RGB").convert("L")), np.asarray(image.getchannel("A")).astype(np.float64)
    is_light = cover.any() and np.average(ink, weights=cover) > _MIDDLE
    paper = "black" if wanted.background is not None and is_light else "white"
    return Image.alpha_composite(Image.new("RGBA", image.size, paper), image).convert(wanted.mode)


def _edge(values: Array) -> float:
    """Return how bright an image is at its edge, of which something drawn may cross a part."""
    return float(np.median(np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])))
