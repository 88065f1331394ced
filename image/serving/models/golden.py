"""Golden requests: what a bundle says must come out, tried by every worker before it answers anyone.

The file that `golden:` in model.yaml names is JSON, a list of

    {"inputs": {"pixels": [[0, 1, …]]},      whole tensors by name
     "outputs": {"digit": [7]}}              numbers are compared to four digits; outputs left out are not compared
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import numpy as np

from loader.bundle.bundle import Bundle
from loader.bundle.model_config import ModelConfig
from serving.errors import PredictorInvalid, ServingError
from serving.models.model import Model
from serving.wire.tensors import made_up, to_array

TOLERANCE = 1e-4  # relative: other processors add in other orders


class GoldenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request, and what must be answered."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]


def read_golden(bundle: Bundle, config: ModelConfig) -> tuple[GoldenRequest, ...]:
    """Read a bundle's golden requests; none where its model.yaml names no file.

    Raises:
        BundleError: the file is missing, damaged, or not of this form.
    """
    if config.golden is None:
        return ()
    try:
        return msgspec.json.decode(bundle.read(config.golden), type=tuple[GoldenRequest, ...])
    except msgspec.DecodeError as error:
        raise PredictorInvalid(f"{bundle.directory / config.golden} is no list of golden requests: {error}") from error


def check_golden(model: Model, requests: tuple[GoldenRequest, ...]) -> None:
    """Ask a model its golden requests.

    Raises:
        PredictorInvalid: it raised, or answered otherwise.
    """
    datatypes = {spec.name: spec.datatype for spec in model.config.inputs}
    for number, request in enumerate(requests, 1):
        where = f"{model.name} version {model.version}, golden request {number}"
        try:
            inputs = {
                name: to_array(data, f"input {name!r}", datatypes.get(name)) for name, data in request.inputs.items()
            }
            outputs = model.compute(inputs)
        except ServingError as error:
            raise PredictorInvalid(f"{where}: {error}") from error
        for name, expected in request.outputs.items():
            if name not in outputs:
                raise PredictorInvalid(f"{where}: no output {name!r}; there is {', '.join(outputs)}")
            got = outputs[name]
            if not _is_close(got, np.asarray(expected)):
                raise PredictorInvalid(
                    f"{where}: output {name!r}: expected {str(expected)[:200]}, got {str(got.tolist())[:200]}"
                )


def warm_up(model: Model) -> None:
    """Let a model without golden requests compute what a made-up row asks; what comes out is of no interest.

    The first call is often the slowest: libraries start their threads, functions are compiled. No client waits for it.
    """
    if not model.config.inputs:
        return
    with contextlib.suppress(ServingError):
        model.compute({spec.name: made_up(spec) for spec in model.config.inputs})


def _is_close(got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> bool:
    if got.shape != expected.shape:
        return False
    if got.dtype.kind == "f" and expected.dtype.kind in "iuf":
        return bool(np.allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE))
    return bool(np.array_equal(got, expected))
