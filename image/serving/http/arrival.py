"""Bytes of one connection, until they are a whole request.

The fast parser of gunicorn watches them as they come, and says no more than when to hand them over. What they mean is
for others to say, afterwards: `plain` where there is only one way to read them, or else gunicorn's own parser, in a
thread; it reads from here, and finds an end where bytes are missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gunicorn.http.unreader import Unreader
from gunicorn_h1c import H1CProtocol  # type: ignore[import-untyped]

MAX_HEAD_BYTES = 64 * 1024
MAX_FRAMING_BYTES = 1024 * 1024  # sizes and ends of chunks: a body of tiny chunks costs more to read than to send


class Arrival(Unreader):
    """The request that is arriving on a connection, and what has come behind it.

    Args:
        max_body: bytes of a body.
        is_stranger: tells, from a path and a header Authorization, that the body is not worth waiting for; or None.

    Attributes:
        size: bytes that have come.
        whole: whether the request has come with its body.
        ready: whether there is nothing to wait for: it is whole, or it can only be refused.
        refusal: the status and the sentence to refuse it with, where gunicorn and the app would not.
        is_from_stranger: whether it can only be refused because of who sent it.
        starved: whether more was read than had come. Where the next request begins is unknown then.
    """

    def __init__(self, max_body: int, is_stranger: Callable[[str, str], bool] | None) -> None:
        super().__init__()
        self._max_body, self._is_stranger = max_body, is_stranger
        self._parser = H1CProtocol(on_headers_complete=self._note_head, on_body=self._count_body)
        self._pieces: deque[bytes] = deque()
        self.size = self._body = 0
        self._has_head = self._told = False
        self.whole = self.ready = self.is_from_stranger = self.starved = False
        self.refusal: tuple[int, str] | None = None

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        self._pieces.append(data)
        self.size += len(data)
        if self.ready:
            return
        try:
            self._parser.feed(data)
        except Exception:  # it has several classes called ParseError; gunicorn's own parser says what is wrong
            self.ready = True
            return
        if self._parser.is_complete:
            self.ready = self.whole = True
        elif not self._has_head:
            if self.size > MAX_HEAD_BYTES:
                self._refuse(431, f"the request's head has more than {MAX_HEAD_BYTES} bytes")
        elif max(self._parser.content_length or 0, self._body) > self._max_body:
            self.ready = True  # the app says how much it takes
        elif self.size - self._body > MAX_HEAD_BYTES + MAX_FRAMING_BYTES:
            self._refuse(413, f"the chunks of the body take more than {MAX_FRAMING_BYTES} bytes beside what is in them")

    def end(self) -> None:
        """Take note that nothing more will come."""
        self.ready = True

    @property
    def waits_to_continue(self) -> bool:
        """Whether the client has sent a head and waits to be told to go on with the body; said once."""
        if not self._has_head or self.ready or self._told or self._body:
            return False
        expected = self._parser.get_header(b"expect") or b""
        self._told = True
        return bool(expected.lower() == b"100-continue")

    def next(self) -> None:
        """Begin the next request with what has come behind this one."""
        rest = self.take_buffered() + b"".join(self._pieces)
        self._pieces.clear()
        self._parser.reset()
        self.size = self._body = 0
        self._has_head = self._told = False
        self.whole = self.ready = self.is_from_stranger = self.starved = False
        if rest:
            self.feed(rest)

    @property
    def content(self) -> bytes:
        """All that has come and was not taken."""
        if len(self._pieces) > 1:
            whole = b"".join(self._pieces)
            self._pieces.clear()
            self._pieces.append(whole)
        return self._pieces[0]

    def keep_from(self, start: int) -> None:
        """Forget what was read of the content otherwise than by gunicorn's parser."""
        rest = self.content[start:]
        self._pieces.clear()
        if rest:
            self._pieces.append(rest)

    def chunk(self, size_hint: int | None = None) -> bytes:  # noqa: ARG002 - gunicorn gives it
        """Return the next piece of what has come; gunicorn's parser calls this."""
        if self._pieces:
            return self._pieces.popleft()
        self.starved = True
        return b""

    def _refuse(self, status: int, sentence: str) -> None:
        self.ready, self.refusal = True, (status, sentence)

    def _note_head(self) -> None:
        """Refuse what the fast parser lets pass, and another reader in front of us may have read otherwise."""
        self._has_head = True
        head, end, _ = self.content.partition(b"\r\n\r\n")
        lines = head.replace(b"\r\n", b"\r")
        if not end or b"\n" in lines:
            self._refuse(400, "not a request of HTTP: a header line ends without a carriage return")
        elif b"\r " in lines or b"\r\t" in lines:
            self._refuse(400, "not a request of HTTP: a folded header line")
        elif self._is_stranger is not None:
            path, _, _ = self._parser.path.decode("latin-1").partition("?")
            authorization = self._parser.get_header(b"authorization") or b""
            self.ready = self.is_from_stranger = self._is_stranger(path, authorization.decode("latin-1"))

    def _count_body(self, data: bytes) -> None:
        self._body += len(data)
