"""Settings of a server: environment variables, each with a default that works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec

from serving.errors import SettingsInvalid

PREFIX = "PANTRY_"


class Settings(msgspec.Struct, frozen=True):
    """What may be set by environment: PANTRY_ and the name in capitals."""

    workers: int = 1  # processes that answer; they share one loaded copy of each model
    threads: int = 8  # requests that one worker handles at a time, beside those that wait for a model
    max_queue: int = 128  # requests that may wait for a model in one worker; more are answered with 503
    predict_seconds: int = 30  # a request may wait for its model and be answered by it for so long
    request_seconds: int = 30  # a request may take as long to arrive, and its answer to be taken
    max_body_bytes: int = 10 * 1024 * 1024  # bytes; more is answered with 413
    drain_seconds: int = 30  # an old generation may take as long to finish what it has begun
    keepalive_seconds: int = 620  # longer than a load balancer keeps its side: Google's has 600
    load_timeout_seconds: int = 900  # a generation that is not ready by then has failed
    prefer: Literal["availability", "resources"] = "availability"  # where old and new do not fit in memory together
    memory_limit: int = 0  # bytes for the whole server; 0: what the container's control group and the machine allow
    worker_memory: int = 0  # bytes that a worker may grow by before it is replaced; 0: half the limit, by all workers
    access: Literal["off", "tokens", "users"] = "off"  # who may ask; health is open to all
    access_files: Literal["present", "synced"] = "present"  # synced: the next three come with the sync; wait for them
    tokens_file: str = ""  # path; the tokens that are valid, one a line
    users_file: str = ""  # path; name:argon2id hash, one a line
    signing_secret_file: str = ""  # path; secrets, one a line: the first signs what /login gives, all verify
    token_seconds: int = 3600  # a token of /login is valid this long


_MINIMUM = {"drain_seconds": 1, "keepalive_seconds": 0, "memory_limit": 0, "worker_memory": 0}


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Read the settings from an environment.

    Raises:
        SettingsInvalid: one or more values are no whole numbers, too small, or none of the choices; all are named.
    """
    values: dict[str, Any] = {}
    wrong = []
    for field in msgspec.structs.fields(Settings):
        key, least, choices = PREFIX + field.name.upper(), _MINIMUM.get(field.name, 1), get_args(field.type)
        if key not in environ:
            continue
        text = environ[key]
        if field.type is not int and (not choices or text in choices):
            values[field.name] = text
        elif field.type is int and text.isascii() and text.isdigit() and int(text) >= least:
            values[field.name] = int(text)
        else:
            expected = f"one of {', '.join(choices)}" if choices else f"a whole number of at least {least}"
            wrong.append(f"{key} is {text!r}, expected {expected}")
    if wrong:
        raise SettingsInvalid("; ".join(wrong))
    return Settings(**values)
