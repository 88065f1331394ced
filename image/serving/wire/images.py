"""Images as rows: what a PNG or JPEG becomes for a model that declares how."""

from __future__ import annotations

import io
import threading
from contextlib import nullcontext

import numpy as np
from PIL import Image

from loader.bundle.model_config import InputSpec
from serving.errors import InvalidRequest
from serving.wire.tensors import DTYPES, Array, check_shape

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 16_000_000  # a few kilobytes of PNG can hold as many pixels as fill the memory
BIG_PIXELS = 1_000_000  # from here on one at a time, so that a flood of such images takes no more memory than one
Image.MAX_IMAGE_PIXELS = None  # ours is stricter, and an error where Pillow's is at first a warning
_big = threading.Lock()


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
                    image.draft(spec.image.mode, spec.image.size)
                    pixels = image.convert(spec.image.mode).resize(spec.image.size)
                finally:
                    image.close()  # gives its memory back before the next one takes any
    except InvalidRequest:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds at broken files
        raise InvalidRequest(f"the body is no image that can be read (expected {' or '.join(FORMATS)})") from error
    values = np.asarray(pixels, dtype=np.float64) * (spec.image.maximum / 255.0)
    row = values.astype(DTYPES[spec.datatype])
    try:
        row = row.reshape([1, *spec.shape[1:]])
    except ValueError as error:
        raise InvalidRequest(
            f"model.yaml: an image of {list(row.shape)} does not fill the shape {list(spec.shape)}"
        ) from error
    check_shape(row, spec.shape, f"input {spec.name!r}")
    return row
