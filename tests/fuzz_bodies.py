"""Hooks for schemathesis: bodies for test_openapi that are no JSON, as no schema says what is in them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image

from serving.wire.npy import NPY_TYPE
from serving.wire.uploads import FORM_TYPE, RAW_TYPE


def image(kind: str, size: tuple[int, int], grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, grey).save(file, kind)
    return file.getvalue()


def npy(rows: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
rows = st.builds(np.full, st.tuples(st.integers(1, 5), st.just(4)), st.floats(-1e9, 1e9))
for kind in ("png", "jpeg"):
    schemathesis.openapi.media_type(f"image/{kind}", st.builds(image, st.just(kind), sizes, st.integers(0, 255)))
schemathesis.openapi.media_type(NPY_TYPE, rows.map(npy))
schemathesis.openapi.media_type(RAW_TYPE, rows.map(np.ndarray.tobytes))


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Leave out forms with files."""
    return case.media_type != FORM_TYPE or "house" in case.path
