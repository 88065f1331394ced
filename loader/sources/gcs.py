"""gs:// — Google Cloud Storage. The only file that imports google.cloud, and where its errors become ours.

STORAGE_EMULATOR_HOST is honoured by the library itself.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import google.auth.exceptions
import requests.exceptions
import urllib3.exceptions
from google.api_core import exceptions as api
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import Request
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from loader.errors import AccessDenied, Immutable, ObjectNotFound, SourceError, SourceUnavailable
from loader.sources import Body, StoredObject, named, ranges
from loader.sources.ranges import RangeReader, sentence

_DENIED = (
    "Grant the identity that syncs roles/storage.objectViewer on the bucket "
    "(publishing needs roles/storage.objectCreator too)"
)
_FIELDS = "items(name,size,generation,crc32c),nextPageToken"


# The library would ask for the bucket's own metadata, for traces that nobody collects: a right that a reader may lack.
os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")


class GcsSource:
    """The objects of a bucket below a prefix.

    The library lists, uploads and knows who we are; ranges are read past it, which takes half the time and memory.
    The caller's retries govern: the library's own are off for reads.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.uri = f"gs://{bucket}/{prefix}" if prefix else f"gs://{bucket}"
        self._prefix = f"{prefix}/" if prefix else ""
        with self._translated("its client"):
            client = storage.Client()
        self._bucket = client.bucket(bucket)
        self._media = f"{client.api_endpoint}/download/storage/v1/b/{quote(bucket, safe='')}/o/"
        self._credentials = client._credentials  # what the client itself found, emulators included
        self._credentials_lock = threading.Lock()
        self._ranges = RangeReader(self._identify, _DENIED)

    # Before `list`, whose name hides the type below.
    def _below(self, prefix: str, most: int | None = None) -> list[StoredObject]:
        with self._translated("listing it"):
            pages = self._bucket.client.list_blobs(
                self._bucket,
                prefix=prefix,
                max_results=most,
                fields=_FIELDS,
                timeout=(ranges.CONNECT_SECONDS, ranges.READ_SECONDS),
                retry=None,
            )
            found, tokens = [], {None}
            try:
                for page in pages.pages:
                    found += [self._stored(blob) for blob in page if not (blob.name.endswith("/") and not blob.size)]
                    if pages.next_page_token in tokens and pages.next_page_token:
                        raise ValueError("its pages lead back to an earlier one")
                    tokens.add(pages.next_page_token)
            except (google.auth.exceptions.GoogleAuthError, requests.exceptions.RequestException):
                raise  # some of them are ValueErrors; one is a listing that broke off, and is no JSON
            except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
                raise SourceError(
                    f"{self.uri}: the store answered the listing with what is none: {sentence(error)}",
                    hint="Check the storageUri, and what stands between here and the store",
                ) from error
            return found

    def list(self) -> list[StoredObject]:
        """List all objects below the prefix; "folders", which end in a slash, are left out."""
        return self._below(self._prefix)

    def find(self, name: str) -> StoredObject:
        """Look an object up: the first in a listing of all that begin with its name."""
        return named(name, self._below(self._prefix + name, most=1), self.uri)

    def _stored(self, blob: storage.Blob) -> StoredObject:
        name = blob.name.removeprefix(self._prefix)
        try:
            return StoredObject(name, int(blob.size), str(int(blob.generation)), blob.crc32c or "")
        except (TypeError, ValueError) as error:
            raise ValueError(f"the object {name!r} has a size or a generation that is no number") from error

    @contextlib.contextmanager
    def open(self, stored: StoredObject, start: int, end: int) -> Iterator[Body]:
        """Open the bytes [start, end) of the listed generation, as stored (gzip is not undone)."""
        url = f"{self._media}{quote(self._prefix + stored.name, safe='')}?alt=media&generation={stored.generation}"
        where = f"{self.uri}/{stored.name}"
        with self._ranges.open(url, start, end, where, {}) as body:
            if (got := body.headers.get("x-goog-generation", stored.generation)) != stored.generation:
                raise ObjectNotFound(
                    f"{where}: generation {stored.generation} was listed, generation {got} came",
                    hint="Sync again; publish under a new version instead of replacing objects",
                )
            yield body

    def create(self, name: str, content: Path | bytes) -> None:
        """Upload an object under the condition that it does not exist."""
        with self._translated(name):
            blob = self._bucket.blob(self._prefix + name)
            if isinstance(content, bytes):
                blob.upload_from_string(content, if_generation_match=0, checksum="crc32c")
            else:
                blob.upload_from_filename(str(content), if_generation_match=0, checksum="crc32c")

    def _identify(self, renew: bool) -> dict[str, str]:
        """Return the headers that say who asks; the token is renewed where it has expired or was refused."""
        headers: dict[str, str] = {}
        with self._credentials_lock, self._translated("its identity"):
            if not isinstance(self._credentials, AnonymousCredentials):
                if renew or not self._credentials.valid:
                    self._credentials.refresh(Request())
                self._credentials.apply(headers)
        return headers

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        where = f"{self.uri}: {what}"
        try:
            yield
        except api.PreconditionFailed as error:
            raise Immutable(f"{where} exists already", hint="Publish under a new version") from error
        except api.NotFound as error:
            raise ObjectNotFound(
                f"{where}: not found, or replaced since it was listed",
                hint="Check the bucket and the prefix; publish under a new version instead of replacing objects",
            ) from error
        except (api.Forbidden, api.Unauthorized, google.auth.exceptions.DefaultCredentialsError) as error:
            raise AccessDenied(
                f"{where}: {sentence(error)}",
                hint=_DENIED,
            ) from error
        except google.auth.exceptions.RefreshError as error:
            raise AccessDenied(f"{where}: {sentence(error)}", hint="Renew the credentials") from error
        except (
            api.TooManyRequests,
            api.ServerError,
            api.RetryError,
            google.auth.exceptions.TransportError,
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,  # the library reads raw bodies past requests, which would translate it
            ConnectionError,
            DataCorruption,
            InvalidResponse,
        ) as error:
            raise SourceUnavailable(f"{where}: {sentence(error)}") from error
        except api.GoogleAPICallError as error:
            if error.code == 408:
                raise SourceUnavailable(f"{where}: {sentence(error)}") from error
            raise SourceError(f"{where}: {sentence(error)}", hint="Check the storageUri") from error
