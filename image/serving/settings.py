"""Settings of a server: environment variables, each with a default that works."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from serving.errors import SettingsInvalid

PREFIX = "PANTRY_"


class Settings(msgspec.Struct, frozen=True):
    """What may be set by environment: PANTRY_ and the name in capitals."""

    workers: int = 1  # processes that answer; they share one loaded copy of each model
    threads: int = 8  # requests that one worker handles at a time
    max_body_bytes: int = 10 * 1024 * 1024  # bytes; more is answered with 413
    drain_seconds: int = 30  # an old generation may take as long to finish what it has begun
    keepalive_seconds: int = 620  # longer than a load balancer keeps its side: Google's has 600
    load_timeout_seconds: int = 900  # a generation that is not ready by then has failed


_MINIMUM = {"drain_seconds": 1, "keepalive_seconds": 0}


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Read the settings from an environment.

    Raises:
        SettingsInvalid: one or more values are no whole numbers, or too small; all are named.
    """
    values, wrong = {}, []
    for name in Settings.__struct_fields__:
        key = PREFIX + name.upper()
        if key not in environ:
            continue
        text, least = environ[key], _MINIMUM.get(name, 1)
        if text.isascii() and text.isdigit() and int(text) >= least:
            values[name] = int(text)
        else:
            wrong.append(f"{key} is {text!r}, expected a whole number of at least {least}")
    if wrong:
        raise SettingsInvalid("; ".join(wrong))
    return Settings(**values)
