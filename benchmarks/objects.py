"""What a store tells of its objects: listings and metadata, as Cloud Storage's JSON API words them."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from bisect import bisect_left
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import google_crc32c

_PAGE = 1000
_WHEN = "2026-01-01T00:00:00.000Z"

Json = dict[str, Any]
About = dict[str, str]  # generation, etag, size, crc32c, md5Hash of one object


class Objects:
    """The objects below a directory of buckets: every file is one, under its path as its name.

    Attributes:
        buckets: what is known of each object, by bucket and name.
    """

    def __init__(self, data: Path) -> None:
        known: dict[int, About] = {}  # hard links to one file are read once
        self.buckets: dict[str, dict[str, About]] = {}
        for path in sorted(path for path in data.rglob("*") if path.is_file()):
            bucket, _, name = path.relative_to(data).as_posix().partition("/")
            inode = path.stat().st_ino
            if inode not in known:
                known[inode] = _describe(path, 1_767_225_600_000_000 + len(known))
            self.buckets.setdefault(bucket, {})[name] = known[inode]
        self._names = {bucket: sorted(objects) for bucket, objects in self.buckets.items()}
        self._listed = functools.cache(self._list)

    def page(self, bucket: str, query: dict[str, str], host: str) -> Json:
        """Return one page of a listing.

        Args:
            bucket: which.
            query: prefix, delimiter, pageToken, maxResults, and fields (items(…) or items/…), all optional.
            host: scheme and address in the links.

        Raises:
            KeyError: there is no such bucket.
        """
        names = self._listed(bucket, query.get("prefix", ""), query.get("delimiter", ""))
        start = int(query.get("pageToken", 0))
        end = start + min(int(query.get("maxResults", _PAGE)), _PAGE)
        asked = query.get("fields", "")
        fields = re.search(r"items\(([\w,]+)\)", asked)
        kept = set(fields[1].split(",")) if fields else set(re.findall(r"items/(\w+)", asked))
        items = [self.metadata(bucket, name, host) for name in names[start:end] if not name.endswith("/")]
        answer: Json = {
            "kind": "storage#objects",
            "prefixes": [name for name in names[start:end] if name.endswith("/")],
            "items": [{key: item[key] for key in item.keys() & kept} for item in items] if kept else items,
        }
        return answer if end >= len(names) else {**answer, "nextPageToken": str(end)}

    def metadata(self, bucket: str, name: str, host: str) -> Json:
        """Return what the API tells of one object.

        Raises:
            KeyError: there is no such object.
        """
        about, path = self.buckets[bucket][name], f"b/{bucket}/o/{quote(name, safe='')}"
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{about['generation']}",
            "selfLink": f"{host}/storage/v1/{path}",
            "mediaLink": f"{host}/download/storage/v1/{path}?generation={about['generation']}&alt=media",
            "name": name,
            "bucket": bucket,
            "metageneration": "1",
            "contentType": "application/octet-stream",
            "storageClass": "STANDARD",
            "timeCreated": _WHEN,
            "updated": _WHEN,
            **about,
        }

    def _list(self, bucket: str, prefix: str, delimiter: str) -> list[str]:
        names = self._names[bucket]
        found = names[bisect_left(names, prefix) : bisect_left(names, prefix + "\U0010ffff")]
        if not delimiter:
            return found
        cuts = ((name, name.find(delimiter, len(prefix))) for name in found)
        return sorted({name if cut < 0 else name[: cut + 1] for name, cut in cuts})


def metadata_server(objects: Objects) -> ThreadingHTTPServer:
    """Return a server on a free port of loopback that answers for everything but the bytes; it is not started yet."""
    return _Server(("127.0.0.1", 0), functools.partial(_Metadata, objects))


class _Server(ThreadingHTTPServer):
    request_queue_size = 256

    def handle_error(self, *_connection: object) -> None:
        """Say nothing: a client that is killed breaks its connections off."""


class _Metadata(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, objects: Objects, *arguments: Any) -> None:
        self._objects = objects
        super().__init__(*arguments)

    def do_GET(self) -> None:
        try:
            status, answer = 200, self._find()
        except KeyError:
            status, answer = 404, {"error": {"code": 404, "message": "Not Found"}}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _find(self) -> Json:
        url = urlsplit(self.path)
        bucket, _, rest = url.path.removeprefix("/storage/v1/b/").partition("/")
        host = f"{self.headers['X-Forwarded-Proto']}://{self.headers['Host']}"
        if rest.startswith("o/"):
            return self._objects.metadata(bucket, unquote(rest[2:]), host)
        if rest == "o":
            return self._objects.page(bucket, {key: values[-1] for key, values in parse_qs(url.query).items()}, host)
        if rest or bucket not in self._objects.buckets:
            raise KeyError(self.path)
        return {"kind": "storage#bucket", "id": bucket, "name": bucket, "storageClass": "STANDARD"}

    def log_message(self, *_words: object) -> None:
        """Say nothing: nginx keeps the log."""


def _describe(path: Path, generation: int) -> About:
    crc, md5 = google_crc32c.Checksum(), hashlib.md5(usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        while block := file.read(1024 * 1024):
            crc.update(block)
            md5.update(block)
    crc32c, md5_hash = (base64.b64encode(digest).decode() for digest in (crc.digest(), md5.digest()))
    return {
        "generation": str(generation),
        "etag": str(generation),
        "size": str(path.stat().st_size),
        "crc32c": crc32c,
        "md5Hash": md5_hash,
    }
