"""Images as rows: what a PNG or JPEG becomes for a model that declares how."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from loader.bundle.model_config import ModelConfig
from serving.errors import InvalidRequest
from serving.tensors import DTYPES, Array, check_shape

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 16_000_000  # a few kilobytes of PNG can hold as many pixels as fill the memory
Image.MAX_IMAGE_PIXELS = None  # ours is stricter, and an error where Pillow's is at first a warning


def decode_image(body: bytes, config: ModelConfig) -> dict[str, Array]:
    """Make one row of an image.

    Args:
        body: a PNG or a JPEG.
        config: of the model; its only input says by `image` what size and colours it takes.

    Returns:
        The input's name and an array of one row, of its declared dtype and shape.

    Raises:
        InvalidRequest: the model takes no images, or this is none that can be read, or it has too many pixels.
    """
    if len(config.inputs) != 1 or (spec := config.inputs[0]).image is None:
        raise InvalidRequest("this model takes no images; it takes JSON")
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidRequest(
                    f"the image has {image.width * image.height} pixels, at most {MAX_PIXELS} are taken"
                )
            pixels = image.convert(spec.image.mode).resize(spec.image.size)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
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
    return {spec.name: row}
