"""gs:// — Google Cloud Storage. The only file that imports google.cloud, and where its errors become ours.

STORAGE_EMULATOR_HOST is honoured by the library itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import google.auth.exceptions
import requests.exceptions
import urllib3.exceptions
from google.api_core import exceptions as api
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from loader.errors import AccessDenied, Immutable, ObjectNotFound, SourceError, SourceUnavailable
from loader.sources import StoredObject

_CONNECT_AND_READ_SECONDS = (10, 60)
_FIELDS = "items(name,size,generation,crc32c),nextPageToken"


class GcsSource:
    """The objects of a bucket below a prefix. The caller's retries govern: the library's own are off for reads."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.uri = f"gs://{bucket}/{prefix}" if prefix else f"gs://{bucket}"
        self._prefix = f"{prefix}/" if prefix else ""
        with self._translated("its client"):
            self._bucket = storage.Client().bucket(bucket)

    def list(self) -> list[StoredObject]:
        """List all objects below the prefix; "folders", which end in a slash, are left out."""
        with self._translated("listing it"):
            blobs = self._bucket.client.list_blobs(
                self._bucket, prefix=self._prefix, fields=_FIELDS, timeout=_CONNECT_AND_READ_SECONDS, retry=None
            )
            return [
                StoredObject(
                    blob.name.removeprefix(self._prefix), int(blob.size), str(blob.generation), blob.crc32c or ""
                )
                for blob in blobs
                if not blob.name.endswith("/")
            ]

    def read(self, stored: StoredObject, start: int, end: int) -> bytes:
        """Return the bytes [start, end) of the listed generation, as stored (gzip is not undone)."""
        with self._translated(stored.name):
            data: bytes = self._bucket.blob(
                self._prefix + stored.name, generation=int(stored.generation)
            ).download_as_bytes(
                start=start,
                end=end - 1,
                raw_download=True,
                checksum=None,  # the library cannot check a part; the caller checks every chunk
                timeout=_CONNECT_AND_READ_SECONDS,
                retry=None,
            )
            return data

    def create(self, name: str, content: Path | bytes) -> None:
        """Upload an object under the condition that it does not exist."""
        with self._translated(name):
            blob = self._bucket.blob(self._prefix + name)
            if isinstance(content, bytes):
                blob.upload_from_string(content, if_generation_match=0, checksum="crc32c")
            else:
                blob.upload_from_filename(str(content), if_generation_match=0, checksum="crc32c")

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
                f"{where}: {_sentence(error)}",
                hint="Grant the identity that syncs roles/storage.objectViewer on the bucket "
                "(publishing needs roles/storage.objectCreator too)",
            ) from error
        except google.auth.exceptions.RefreshError as error:
            raise AccessDenied(f"{where}: {_sentence(error)}", hint="Renew the credentials") from error
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
            raise SourceUnavailable(f"{where}: {_sentence(error)}") from error
        except api.GoogleAPICallError as error:
            raise SourceError(f"{where}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
