"""A loaded model: from a bundle to an object that answers named arrays with named arrays."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from loader.bundle.bundle import Bundle
from loader.bundle.errors import PantryError
from loader.bundle.model_config import InputSpec, ModelConfig, OutputSpec
from serving.errors import InvalidRequest, PredictFailed, PredictorInvalid, ServingError
from serving.models.batching import Batcher
from serving.models.ticket import Ticket
from serving.settings import Settings
from serving.sight.metrics import observe_batch
from serving.wire.tensors import DEFAULT_OUTPUT, Array


class Model:
    """One model version that can answer.

    Attributes:
        name: in URLs.
        version: in URLs.
        config: how it wants to be served.
    """

    def __init__(
        self,
        name: str,
        version: str,
        config: ModelConfig,
        answer: Callable[..., Any],
        settings: Settings = Settings(),  # noqa: B008 - it is frozen
    ) -> None:
        self.name, self.version, self.config, self._answer = name, version, config, answer
        # A compiled Theano function keeps its inputs in storage of its own: two threads in it at once mix their rows.
        self._batcher = Batcher(
            name,
            self.compute,
            config.batching.max_rows if _has_rows(config) else 1,
            settings.predict_seconds,
            settings.max_queue,
            functools.partial(observe_batch, name),
        )

    def surround(self, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Let every computation go through another function: `around` makes it from the present one."""
        self._answer = around(self._answer)

    def predict(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Answer, alone or together with other requests that wait.

        Args:
            inputs: arrays by name; checked already where the model declares its inputs.

        Returns:
            Arrays by name, as declared where outputs are.

        Raises:
            InvalidRequest: a model without declared inputs does not take these.
            PredictFailed: the model raised, or answered with what are no arrays.
            Overloaded: too many requests wait.
            PredictTimeout: the model does not return.
        """
        return self._batcher.predict(inputs)

    def submit(self, inputs: dict[str, Array], done: Callable[[], None]) -> Ticket:
        """Ask as `predict` does, and return at once; `done` is called in another thread when the answer is there.

        Raises:
            Overloaded: too many requests wait.
        """
        return self._batcher.submit(inputs, done)

    def withdraw(self, ticket: Ticket) -> None:
        """Give a ticket that nobody waits for any longer its error, unless it has a result."""
        self._batcher.withdraw(ticket)

    def running_since(self) -> float | None:
        """Return when the computation that goes on now began, monotonic seconds; None where there is none."""
        return self._batcher.running_since()

    def compute(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Answer here and now, however long it takes; not in two threads at a time.

        Args:
            inputs: as of `predict`.

        Raises:
            InvalidRequest: as of `predict`.
            PredictFailed: as of `predict`.
        """
        try:
            result = self._answer(inputs)
        except ServingError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
            # With declared inputs the request was right, so the fault is the model's. Without, the model is the only
            # judge of what it takes; with declared texts, too: no declaration says which ones it has learned.
            judges = not self.config.inputs or any(spec.datatype == "BYTES" for spec in self.config.inputs)
            if isinstance(error, ValueError | TypeError) and judges:
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


def load_model(
    name: str,
    version: str,
    bundle: Bundle,
    progress: Callable[[int], None],
    settings: Settings = Settings(),  # noqa: B008 - it is frozen
) -> Model:
    """Load a bundle's model. This runs the bundle's code.

    Args:
        name: in URLs.
        version: in URLs.
        bundle: every byte is checked against its manifest as it is read.
        progress: called with the number of bytes newly read.
        settings: of the server: how long a request may wait, and how many.

    Raises:
        BundleError: the bundle is damaged, cannot be loaded in this image, or holds nothing that answers.
    """
    config = bundle.config()
    if config.predictor is not None:
        return Model(name, version, config, _custom(bundle, config.predictor, name, version), settings)
    asset = bundle.pickle_asset(config)
    loaded = bundle.load(asset.path, progress)
    return Model(name, version, config, _default(loaded, asset.path, config.outputs), settings)


def _has_rows(config: ModelConfig) -> bool:
    """Whether inputs are declared, and every tensor has any number of rows: then requests can share a predict."""
    tensors: list[InputSpec | OutputSpec] = [*config.inputs, *config.outputs]
    return bool(config.inputs) and all(spec.shape[0] == -1 for spec in tensors)


def _default(loaded: Any, where: str, outputs: Sequence[OutputSpec]) -> Callable[[dict[str, Array]], Any]:
    """Find out how an object answers: by the outputs' methods, predict(), being called, or looking up keys."""
    if any(spec.method != "predict" for spec in outputs):
        if missing := [spec.method for spec in outputs if not callable(getattr(loaded, spec.method, None))]:
            raise PredictorInvalid(f"{where} holds a {type(loaded).__name__}, which has no method {missing[0]}()")
        return lambda inputs: {spec.name: getattr(loaded, spec.method)(*inputs.values()) for spec in outputs}
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
