"""s3:// — Amazon S3, and the stores that speak its protocol. The only file that imports botocore and s3transfer.

Identity, region and endpoint come from where every AWS tool takes them: AWS_ variables, profiles, a web identity, the
role of the machine. AWS_ENDPOINT_URL_S3, or AWS_ENDPOINT_URL, names another store than Amazon's.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
from botocore import exceptions as aws
from botocore.config import Config
from botocore.parsers import ResponseParserError
from s3transfer.manager import TransferConfig, TransferManager

from loader.errors import AccessDenied, Immutable, LoaderError, ObjectNotFound, SourceError, SourceUnavailable
from loader.sources import Body, StoredObject, named
from loader.sources.ranges import (
    CONNECT_SECONDS,
    READ_SECONDS,
    UNTRUSTED,
    RangeReader,
    authorities,
    is_untrusted,
    sentence,
)

_DENIED = (
    "Grant the identity that syncs s3:ListBucket on the bucket and s3:GetObject on its objects "
    "(publishing needs s3:PutObject too)"
)
_NO_IDENTITY = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the pod's identity a role"
_RENEW = "Renew the credentials: they have expired, or are not whole, as without AWS_SESSION_TOKEN"
_SETTINGS = "Check the storageUri, AWS_REGION, AWS_ENDPOINT_URL, and what stands between here and the store"
_NO_TOKEN = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}
_ELSEWHERE = {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_WRONG_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch"}
_BUSY = {408, 409, 425, 429}
_URL_SECONDS = 3600  # a clock that is an hour fast or slow still gets its bytes; a range is asked for at once
_PART_SIZE = 32 * 1024 * 1024  # bytes; s3transfer takes more where a file would have over 10,000 parts
_PARTS_AT_ONCE = 4
_CODE = re.compile(r"<Code>(\w+)</Code>")


class S3Source:
    """The objects of a bucket below a prefix.

    The library lists, uploads and signs; ranges are read past it, from URLs that are signed for each. An object's
    generation is its ETag: a listing tells no versions, and a read under If-Match gets that content or none.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.uri = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self._ranges = RangeReader(lambda _: {}, _DENIED)
        with self._translated("its client"):
            self._client = _client(os.environ.get("AWS_REGION"))  # the library itself knows only AWS_DEFAULT_REGION

    # Before `list`, whose name hides the type below.
    def _below(self, prefix: str, most: int | None = None) -> list[StoredObject]:
        with self._translated("listing it"):
            found: list[StoredObject] = []
            region = None
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix, PaginationConfig={"MaxItems": most, "PageSize": most}
            )
            for page in pages:
                found += [self._stored(item) for item in page.get("Contents", ()) if not _is_folder(item)]
                region = page["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
            if region and region != self._client.meta.region_name:
                self._client = _client(region)  # a listing is redirected to the bucket's region, a signed URL is not
            return found

    def list(self) -> list[StoredObject]:
        """List all objects below the prefix; "folders", which end in a slash, are left out."""
        return self._below(self._prefix)

    def find(self, name: str) -> StoredObject:
        """Look an object up: the first in a listing of all that begin with its name."""
        return named(name, self._below(self._prefix + name, most=1), self.uri)

    def _stored(self, item: dict[str, Any]) -> StoredObject:
        return StoredObject(item["Key"].removeprefix(self._prefix), item["Size"], item.get("ETag", "").strip('"'))

    @contextlib.contextmanager
    def open(self, stored: StoredObject, start: int, end: int) -> Iterator[Body]:
        """Open the bytes [start, end) of the listed content, as stored."""
        with self._translated(stored.name):
            url = self._client.generate_presigned_url(
                "get_object",
                Params={"Bucket": self._bucket, "Key": self._prefix + stored.name},
                ExpiresIn=_URL_SECONDS,
            )
        condition = {"If-Match": f'"{stored.generation}"'} if stored.generation else {}
        try:
            with self._ranges.open(url, start, end, f"{self.uri}/{stored.name}", condition) as body:
                yield body
        except SourceError as error:
            code = _CODE.search(error.message)
            if code and code[1] in _NO_TOKEN:  # S3 says it with 400 Bad Request
                raise AccessDenied(error.message, hint=_RENEW) from error
            raise

    def create(self, name: str, content: Path | bytes) -> None:
        """Upload an object under the condition that it does not exist; a big one in parts, which appears whole."""
        key = self._prefix + name
        with self._translated(name):
            if isinstance(content, bytes):
                self._client.put_object(Bucket=self._bucket, Key=key, Body=content)
            elif content.stat().st_size <= _PART_SIZE:
                with content.open("rb") as file:
                    self._client.put_object(Bucket=self._bucket, Key=key, Body=file)
            else:
                with TransferManager(self._client, TransferConfig(_PART_SIZE, _PART_SIZE, _PARTS_AT_ONCE)) as manager:
                    manager.upload(str(content), self._bucket, key).result()

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        where = f"{self.uri}: {what}"
        try:
            yield
        except aws.ClientError as error:
            raise _refused(error, where) from error
        except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound) as error:
            raise AccessDenied(f"{where}: {sentence(error)}", hint=_NO_IDENTITY) from error
        except (
            aws.CredentialRetrievalError,
            aws.InvalidConfigError,
            aws.LoginError,
            aws.MetadataRetrievalError,
            aws.SSOError,
            aws.TokenRetrievalError,
        ) as error:
            raise AccessDenied(f"{where}: {sentence(error)}", hint=_RENEW) from error
        except (aws.ConnectionError, aws.HTTPClientError, aws.IncompleteReadError) as error:
            if is_untrusted(error.kwargs.get("error")):
                raise SourceError(f"{where}: {sentence(error)}", hint=UNTRUSTED) from error
            raise SourceUnavailable(f"{where}: {sentence(error)}") from error
        except (FileNotFoundError, PermissionError) as error:  # of a token that AWS_WEB_IDENTITY_TOKEN_FILE names
            raise AccessDenied(f"{where}: {sentence(error)}", hint=_NO_IDENTITY) from error
        except (aws.BotoCoreError, ResponseParserError, KeyError, TypeError, ValueError) as error:
            raise SourceError(f"{where}: {sentence(error)}", hint=_SETTINGS) from error


def _client(region: str | None) -> Any:
    session = botocore.session.get_session()
    # Dates, which nobody asks for here, would take most of the time of a long listing.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    if region:
        session.set_config_variable("region", region)
    client = session.create_client(
        "s3",
        verify=authorities(),
        config=Config(signature_version="s3v4", connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS),
    )
    for operation in ("PutObject", "CompleteMultipartUpload"):  # s3transfer passes no condition on
        client.meta.events.register(f"provide-client-params.s3.{operation}", _only_if_absent)
    return client


def _is_folder(item: dict[str, Any]) -> bool:
    return bool(item["Key"].endswith("/") and not item["Size"])


def _only_if_absent(params: dict[str, Any], **_: object) -> dict[str, Any]:
    return {**params, "IfNoneMatch": "*"}


def _refused(error: aws.ClientError, where: str) -> LoaderError:
    """Return what a refusal means: by the code of its error, and by its status where the code is none that we know."""
    said = f"{where}: {sentence(error)}"
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if error.operation_name.startswith("AssumeRole"):
        return AccessDenied(said, hint="Check AWS_ROLE_ARN, and whom the role trusts")
    if status == 412:
        return Immutable(f"{said}: it exists already", hint="Publish under a new version")
    if status == 404:
        return ObjectNotFound(said, hint="Check the bucket and the prefix")
    if code in _NO_TOKEN:
        return AccessDenied(said, hint=_RENEW)
    if code == "RequestTimeTooSkewed":
        return AccessDenied(said, hint="Correct the clock of this machine")
    if code in _WRONG_KEY:
        return AccessDenied(said, hint="Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: the store knows them not")
    if code in _ELSEWHERE:
        return SourceError(said, hint="Set AWS_REGION to the region of the bucket")
    if status in (401, 403):
        return AccessDenied(said, hint=_DENIED)
    if status == 501:
        return SourceError(said, hint="Use a store that knows conditional writes (If-None-Match): it cannot do this")
    if status in _BUSY or status >= 500:
        return SourceUnavailable(said)
    return SourceError(said, hint=_SETTINGS)
