"""https:// — a published bundle on any web server that answers byte ranges.

A web server lists nothing, so the bundle's own manifest is the listing, and its digests decide whether what comes is
right. PANTRY_HTTPS_TOKEN, where set, goes to that server as a bearer token.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from loader.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME, Manifest
from loader.errors import AccessDenied, ObjectNotFound, UsageError, WrongAnswer
from loader.sources import StoredObject, read_whole
from loader.sources.ranges import RangeBody, RangeReader

TOKEN = "PANTRY_HTTPS_TOKEN"  # noqa: S105 -- the variable's name
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_DENIED = f"Set {TOKEN} to a token that the server takes, or allow reading there"
_HOW = "Make one with `pantry publish DIR file:///DIRECTORY`, and copy that directory to the server as it is"


class HttpsSource:
    """The files below an address, as far as the manifest there lists them. It can only be read.

    Args:
        uri: the address of the folder that holds manifest.json.

    Raises:
        UsageError: it is no such address, or one that would carry a secret into logs.
    """

    def __init__(self, uri: str) -> None:
        self.uri = _checked(uri)
        token = os.environ.get(TOKEN, "").strip()
        if not (token.isascii() and token.isprintable()):
            raise UsageError(f"{TOKEN} holds what is no token", hint="Set it to one line of ASCII characters")
        identity = {"Authorization": f"Bearer {token}"} if token else {}
        self._ranges = RangeReader(lambda _: identity, _DENIED)

    def list(self) -> list[StoredObject]:
        """List the manifest, its assets, and the signature where there is one."""
        try:
            manifest = self.find(MANIFEST_NAME)
        except ObjectNotFound as error:
            raise ObjectNotFound(
                f"{self.uri} has no {MANIFEST_NAME}, and of https:// nothing else says what there is ({error.message})",
                hint=_HOW,
            ) from error
        if manifest.size > MAX_MANIFEST_BYTES:
            raise WrongAnswer(
                f"{self.uri}/{MANIFEST_NAME} has {manifest.size} bytes, expected at most {MAX_MANIFEST_BYTES}",
                hint=_HOW,
            )
        assets = Manifest.decode(read_whole(self, manifest), f"{self.uri}/{MANIFEST_NAME}").assets
        found = [manifest, *(StoredObject(asset.path, asset.size, "") for asset in assets)]
        with contextlib.suppress(ObjectNotFound, AccessDenied):  # some servers deny what is not there
            found.append(self.find(SIGNATURE_NAME))
        return found

    @contextlib.contextmanager
    def open(self, stored: StoredObject, start: int, end: int) -> Iterator[RangeBody]:
        """Open the bytes [start, end) of a file; whether they are the right ones, only its digests tell."""
        where = f"{self.uri}/{quote(stored.name)}"
        with self._ranges.open(where, start, end, where, {"Accept-Encoding": "identity"}) as body:
            if (encoding := body.headers.get("Content-Encoding", "identity")) != "identity":
                raise WrongAnswer(
                    f"{where}: came with Content-Encoding {encoding!r}, expected the bytes as they are",
                    hint="Make the server, or the proxy on the way, send this folder without compression",
                )
            yield body

    def create(self, name: str, content: Path | bytes) -> None:  # noqa: ARG002 -- as every source has it
        """Refuse: web servers share no way to write."""
        raise UsageError(
            f"{self.uri}: https:// can only be read, and {name} cannot be written to it",
            hint="Publish to gs://, s3:// or file://",
        )

    def find(self, name: str) -> StoredObject:
        """Look a file up by reading a byte of it: not every server answers HEAD."""
        with self.open(StoredObject(name, 1, ""), 0, 1) as body:
            body.read(1)
            size = body.headers.get("Content-Range", "/1").rpartition("/")[2].strip()
        if not size.isdecimal():
            raise WrongAnswer(
                f"{self.uri}/{name}: the server tells no size, but Content-Range {size!r}",
                hint="Use a server that tells the size of a file",
            )
        return StoredObject(name, int(size), "")


def _checked(uri: str) -> str:
    """Return an address without a slash at its end. What it must not hold is not repeated: it may be a secret."""
    shown = re.sub("//[^/]*@", "//", re.split("[?#]", uri, maxsplit=1)[0])
    try:
        parts = urlsplit(uri)
        host = "" if parts.port == 0 else parts.hostname
    except ValueError:
        host = ""
    if not host or not uri.isprintable() or " " in uri:
        raise UsageError(f"storageUri {shown!r} is no address", hint="Use https://HOST/FOLDER, a space written as %20")
    if "@" in parts.netloc:
        raise UsageError(
            f"storageUri {shown} carries a name or a password, which would be in every log",
            hint=f"Remove it, and set {TOKEN} where the server wants to know who asks",
        )
    if "?" in uri or "#" in uri:
        raise UsageError(
            f"storageUri {shown} has a query or a fragment, expected the address of a folder",
            hint=f"Remove what follows the path, and set {TOKEN} where the server wants to know who asks",
        )
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise UsageError(f"storageUri {shown} is not encrypted", hint="Use https://; http:// is for localhost only")
    return uri.rstrip("/")
