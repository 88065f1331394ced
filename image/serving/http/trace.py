"""What a client says of its request: its id, and the trace that it belongs to (W3C Trace Context). Pure."""

from __future__ import annotations

import os
import re

import msgspec

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_TRACESTATE = re.compile(r"[ -~\t]{1,2048}")
_NOT_OF_AN_ID = re.compile(r"[^!-~]+")
_LONGEST_ID = 128


class Trace(msgspec.Struct, frozen=True):
    """A request's place in a trace.

    Attributes:
        trace_id: of the whole trace, 32 hexadecimal digits.
        parent_id: the span that sent the request.
        span_id: of this server's own span.
        flags: as they came; 01 is sampled.
    """

    trace_id: str
    parent_id: str
    span_id: str
    flags: str

    @property
    def header(self) -> str:
        """The traceparent of whatever follows from this server's span."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def request_id(said: str) -> str:
    """Return a client's own id for its request, without what is not printable ASCII; or a new one.

    Args:
        said: the X-Request-Id header, or "".
    """
    return (_NOT_OF_AN_ID.sub("", said)[:_LONGEST_ID] if said else "") or os.urandom(16).hex()


def parse_traceparent(header: str) -> Trace | None:
    """Return the trace that a traceparent header names, or None where it is not exactly of the standard's form.

    A later version than 00 may have more behind the flags; what it means is not known here, so it is left out.
    """
    match = _TRACEPARENT.fullmatch(header)
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None) or not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return Trace(trace_id, parent_id, os.urandom(8).hex(), flags)


def passed_on(tracestate: str) -> bool:
    """Tell whether a tracestate may go on as it is: visible ASCII of a moderate length."""
    return _TRACESTATE.fullmatch(tracestate) is not None
