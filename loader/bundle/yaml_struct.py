"""Reading the two YAML files that people write, models.yaml and model.yaml, with errors that name the place."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import yaml

from loader.bundle.errors import PantryError

T = TypeVar("T")


def decode(text: str | bytes, kind: type[T], where: str, error: type[PantryError]) -> T:
    """Read YAML into a struct.

    Args:
        text: the file's content.
        kind: the struct that it must fit.
        where: what to call the file in an error.
        error: the class to raise.

    Raises:
        PantryError: of the class `error`: not YAML, an unknown key, or a value of the wrong type.
    """
    try:
        return msgspec.convert(yaml.safe_load(text), kind)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as problem:
        raise error(f"{where} is not YAML: {' '.join(str(problem).split())}") from problem
    except msgspec.ValidationError as problem:
        raise error(f"{where}: {problem}") from problem
