"""A loaded model: from a bundle to an object that answers named arrays with named arrays."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from loader.bundle.bundle import Bundle
from loader.bundle.errors import PantryError
from loader.bundle.model_config import ModelConfig
from serving.errors import InvalidRequest, PredictFailed, PredictorInvalid, ServingError
from serving.tensors import Array

DEFAULT_INPUT, DEFAULT_OUTPUT = "input", "output"


class Model:
    """One model version that can answer.

    Attributes:
        name: in URLs.
        version: in URLs.
        config: how it wants to be served.
    """

    def __init__(self, name: str, version: str, config: ModelConfig, answer: Callable[..., Any]) -> None:
        self.name, self.version, self.config, self._answer = name, version, config, answer
        # A compiled Theano function keeps its inputs in storage of its own: two threads in it at once mix their rows.
        self._one_at_a_time = threading.Lock()

    def predict(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Answer.

        Args:
            inputs: arrays by name; checked already where the model declares its inputs.

        Returns:
            Arrays by name, as declared where outputs are.

        Raises:
            InvalidRequest: a model without declared inputs does not take these.
            PredictFailed: the model raised, or answered with what are no arrays.
        """
        try:
            with self._one_at_a_time:
                result = self._answer(inputs)
        except ServingError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
            # With declared inputs the request was right, so the fault is the model's; without, the model is the only
            # judge of what it takes.
            if isinstance(error, ValueError | TypeError) and not self.config.inputs:
                raise InvalidRequest(f"model {self.name} does not take this input: {text}") from error
            raise PredictFailed(f"model {self.name} failed: {text}") from error
        return self._named(result)

    def _named(self, result: object) -> dict[str, Array]:
        names = [spec.name for spec in self.config.outputs]
        if isinstance(result, Mapping):
            arrays = {str(name): np.asarray(value) for name, value in result.items()}
        elif isinstance(result, list | tuple) and len(result) > 0 and isinstance(result[0], np.ndarray):
            names = names or [
                DEFAULT_OUTPUT if len(result) == 1 else f"{DEFAULT_OUTPUT}-{i}" for i in range(len(result))
            ]
            arrays = dict(zip(names, map(np.asarray, result), strict=False))
        else:
            arrays = {names[0] if names else DEFAULT_OUTPUT: np.asarray(result)}
        if any(array.dtype.kind not in "biufUSO" for array in arrays.values()):
            raise PredictFailed(f"model {self.name} answered with what are no numbers or texts")
        return arrays


def load_model(name: str, version: str, bundle: Bundle, progress: Callable[[int], None]) -> Model:
    """Load a bundle's model. This runs the bundle's code.

    Args:
        name: in URLs.
        version: in URLs.
        bundle: every byte is checked against its manifest as it is read.
        progress: called with the number of bytes newly read.

    Raises:
        BundleError: the bundle is damaged, cannot be loaded in this image, or holds nothing that answers.
    """
    config = bundle.config()
    if config.predictor is not None:
        return Model(name, version, config, _custom(bundle, config.predictor, name, version))
    asset = bundle.pickle_asset(config)
    loaded = bundle.load(asset.path, progress)
    return Model(name, version, config, _default(loaded, asset.path))


def _default(loaded: Any, where: str) -> Callable[[dict[str, Array]], Any]:
    """Find out how an object answers: by predict(), by being called, or by looking up keys."""
    if callable(getattr(loaded, "predict", None)):
        return lambda inputs: loaded.predict(*inputs.values())
    if callable(loaded):
        return lambda inputs: loaded(*inputs.values())
    if isinstance(loaded, Mapping):
        return lambda inputs: _look_up(loaded, inputs)
    raise PredictorInvalid(
        f"{where} holds a {type(loaded).__name__}, expected an object with predict(), a callable or a mapping",
        hint="Wrap it: `predictor: predictor.py:Predictor` in model.yaml",
    )


def _look_up(mapping: Mapping[Any, Any], inputs: dict[str, Array]) -> list[Array] | Array:
    if len(inputs) != 1:
        raise InvalidRequest(f"expected one input with keys to look up, got {len(inputs)}")
    keys = next(iter(inputs.values())).ravel().tolist()
    if missing := [key for key in keys if key not in mapping]:
        raise InvalidRequest(f"no such key: {str(missing[0])[:100]!r}")
    return np.asarray([mapping[key] for key in keys])


def _custom(bundle: Bundle, predictor: str, name: str, version: str) -> Callable[[dict[str, Array]], Any]:
    """Run the bundle's own predictor.py from verified bytes, and let its class load the bundle."""
    file, _, kind = predictor.partition(":")
    module_name = f"pantry_bundle_{name}_{version}".replace(".", "_").replace("-", "_")
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(module_name, None, origin=file))
    source = bundle.read(file)
    sys.modules[module_name] = module  # before it runs: pickles and dataclasses look their module up
    try:
        exec(compile(source, str(bundle.directory / file), "exec"), module.__dict__)  # noqa: S102 - verified, and what the bundle is for
        instance = getattr(module, kind)()
        instance.load(bundle)
    except PantryError:
        raise
    except Exception as error:
        raise PredictorInvalid(
            f"{name}/{version}/{file}: {kind} cannot be loaded: {type(error).__name__}: {error}",
            hint="It needs a class with load(bundle) and predict(inputs)",
        ) from error
    if not callable(getattr(instance, "predict", None)):
        raise PredictorInvalid(f"{name}/{version}/{file}: {kind} has no predict(inputs)")
    return cast("Callable[[dict[str, Array]], Any]", instance.predict)
