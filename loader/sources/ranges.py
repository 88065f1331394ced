"""Byte ranges over HTTP: keep-alive connections, and answers that are checked before a byte of them is used.

Any store that answers `GET` with `Range` is read through this; only the URLs and the identity differ. Bytes come as
stored: a gzip-encoded object is not unpacked, by asking for gzip and by not decoding it.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import os
import re
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urljoin, urlsplit

import certifi
import urllib3
import urllib3.exceptions

from loader.errors import AccessDenied, ObjectNotFound, SourceError, SourceUnavailable, WrongAnswer

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
MOST_CONNECTIONS = 32
MOST_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)")
UNTRUSTED = "Name the authority that signed the server's certificate in REQUESTS_CA_BUNDLE, or correct the address"
_REDIRECTS = {301, 302, 303, 307, 308}
_BUSY = {408, 425, 429}

Identify = Callable[[bool], Mapping[str, str]]  # called with True when the last headers were refused


class RangeReader:
    """Reads ranges from one store. Its methods may be called from several threads.

    Args:
        identify: returns the headers that say who asks.
        denied: the hint where the store refuses that identity.
    """

    def __init__(self, identify: Identify, denied: str) -> None:
        self._identify, self._denied = identify, denied
        self._pools: dict[tuple[str, str], urllib3.PoolManager] = {}  # by scheme and host

    @contextlib.contextmanager
    def open(self, url: str, start: int, end: int, where: str, headers: Mapping[str, str]) -> Iterator[RangeBody]:
        """Open the bytes [start, end) of what a URL names.

        Args:
            url: http or https.
            start: the first byte.
            end: after the last byte.
            where: what to call it in an error.
            headers: of this request, such as a condition.

        Raises:
            SourceError: as `loader.sources.Source.open`.
            SourceUnavailable: as well.
        """
        response = self._ask(url, where, {"Range": f"bytes={start}-{end - 1}", **headers})
        try:
            _check_range(response, start, end, where)
            body = RangeBody(response, end - start, where)
            yield body
            if body.left:
                response.close()
        except BaseException:
            response.close()  # what is left of the body must not be taken for the next answer
            raise
        finally:
            response.release_conn()

    def _ask(self, url: str, where: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """Return a good answer to a GET, following redirects."""
        identity, origin = self._identify(False), url
        renewed = False
        for _ in range(MOST_REDIRECTS + 1):
            # An identity is for the store alone, not for where it sends us.
            shown = identity if urlsplit(url).netloc == urlsplit(origin).netloc else {}
            response = self._get(url, where, {"Accept-Encoding": "gzip", **headers, **shown})
            if response.status in (200, 206):
                return response
            location = response.headers.get("Location", "")
            reason = _reason(response)
            response.close()
            if response.status in _REDIRECTS and location:
                url = _redirected(url, location, where)
            elif response.status == 401 and identity and not renewed:
                identity, renewed = self._identify(True), True
            else:
                raise self._refused(response, reason, where)
        raise SourceError(
            f"{where}: more than {MOST_REDIRECTS} redirects, the last one to {_shown(url)!r}",
            hint="Use the final address",
        )

    def _get(self, url: str, where: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool(url).request(
                "GET", url, headers=dict(headers), preload_content=False, decode_content=False, redirect=False,
                retries=False, timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            )  # fmt: skip
        except urllib3.exceptions.LocationValueError as error:
            raise SourceError(f"{where}: {_shown(url)!r} is no address", hint="Check the storageUri") from error
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            if is_untrusted(error):
                raise SourceError(f"{where}: {sentence(error)}", hint=UNTRUSTED) from error
            raise SourceUnavailable(f"{where}: {sentence(error)}") from error

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        place = (parts.scheme, parts.hostname or "")
        if (pool := self._pools.get(place)) is None:
            trusted, proxy = authorities(), _proxy_of(*place)
            kind = urllib3.ProxyManager(proxy, maxsize=MOST_CONNECTIONS, ca_certs=trusted) if proxy else None
            pool = kind or urllib3.PoolManager(maxsize=MOST_CONNECTIONS, ca_certs=trusted)
            pool = self._pools.setdefault(place, pool)
        return pool

    def _refused(self, response: urllib3.BaseHTTPResponse, reason: str, where: str) -> SourceError | SourceUnavailable:
        said = f"{where}: HTTP {response.status}{reason}"
        if response.status in (401, 403):
            return AccessDenied(said, hint=self._denied)
        if response.status in (404, 410, 412, 416):
            what = "empty" if response.status == 416 else "not found"  # not one byte of what was asked for is there
            return ObjectNotFound(
                f"{said}: {what}, or replaced since it was listed",
                hint="Check the address; publish under a new version instead of replacing objects",
            )
        if response.status in _BUSY or response.status >= 500:
            return SourceUnavailable(said, retry_after=_seconds(response.headers.get("Retry-After", "")))
        return SourceError(said, hint="Check the storageUri, and what stands between here and the store")


class RangeBody:
    """The body of one answer.

    Attributes:
        left: bytes that have not been read yet.
        headers: of the answer; names in any case.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse, size: int, where: str) -> None:
        self._response, self.left, self._where = response, size, where
        self.headers: Mapping[str, str] = response.headers

    def read(self, limit: int, /) -> bytes:
        """Return the next bytes, at most limit: b"" only at the end.

        Raises:
            SourceUnavailable: the connection broke off.
        """
        try:
            data = self._response.read(min(limit, self.left)) if self.left else b""
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise SourceUnavailable(f"{self._where}: {sentence(error)}") from error
        if not data and self.left:
            raise SourceUnavailable(f"{self._where}: the answer ended {self.left} bytes early")
        self.left -= len(data)
        return data

    def abort(self) -> None:
        """Make a read that is under way in another thread fail."""
        with contextlib.suppress(ValueError, OSError, RuntimeError):  # it has ended just now
            self._response.shutdown()


def authorities() -> str:
    """Return the file of certificates whose signatures are trusted."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or certifi.where()


def is_untrusted(error: BaseException | None) -> bool:
    """Tell whether a server's certificate is what made a request fail: asking again gets the same one."""
    while error and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def _check_range(response: urllib3.BaseHTTPResponse, start: int, end: int, where: str) -> None:
    length = response.headers.get("Content-Length", "")
    if response.status == 200:
        if start == 0 and length == str(end):
            return  # the whole object was asked for
        raise WrongAnswer(
            f"{where}: bytes {start} to {end} were asked for, and the whole object came",
            hint="The store, or a proxy on the way, ignores Range: sync from a store that does not",
        )
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if found is None or (int(found[1]), int(found[2]) + 1) != (start, end) or length not in ("", str(end - start)):
        raise WrongAnswer(
            f"{where}: expected bytes {start} to {end}, got Content-Range "
            f"{response.headers.get('Content-Range')!r} with Content-Length {length!r}",
            hint="The store, or a proxy on the way, answers wrongly: sync from a store that does not",
        )


def _redirected(url: str, location: str, where: str) -> str:
    try:
        target = urljoin(url, location)
    except ValueError:
        target = location
    kinds = ("https",) if urlsplit(url).scheme == "https" else ("http", "https")
    if target.partition(":")[0].lower() not in kinds or not _is_address(target):
        raise SourceError(
            f"{where}: the store redirects to {_shown(target)!r}, expected an address of {' or '.join(kinds)}",
            hint="Use the final address, with https",
        )
    return target


def _shown(url: str) -> str:
    """Return an address without its query, which may hold a signature."""
    return url.partition("?")[0][:200]


def _is_address(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname) and urlsplit(url).port != 0
    except ValueError:
        return False


def _proxy_of(scheme: str, host: str) -> str:
    if not host or urllib.request.proxy_bypass(host):
        return ""
    return urllib.request.getproxies().get(scheme, "")


def _reason(response: urllib3.BaseHTTPResponse) -> str:
    """Return the start of what a refusal says, as text."""
    with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
        text = response.read(2000).decode("utf-8", "replace")
        return f" ({' '.join(text.split())[:200]})" if text.strip() else ""
    return ""


def _seconds(retry_after: str) -> float:
    """Return the pause that a Retry-After header asks for, in seconds or as a date."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return 0.0


def sentence(error: Exception) -> str:
    """Return a library's error as the end of a sentence."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
