"""The page at /docs, on which a person watches the models load and tries them. It asks for nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

from flask import Request, Response


class File(NamedTuple):
    """One file of the page."""

    media_type: str
    content: bytes


def _read(name: str, media_type: str) -> File:
    return File(media_type, (files(__name__) / name).read_bytes())


FILES = {
    "/docs": _read("page.html", "text/html"),
    "/docs/page.css": _read("page.css", "text/css"),
    "/docs/page.js": _read("page.js", "text/javascript"),
}
HEADERS = {
    # Nothing inline, nothing from elsewhere. A blob is the preview of a chosen image; the empty icon is data.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def serve(request: Request) -> Response:
    """Answer with one file of the page, or with 304 where the browser has it already."""
    file = FILES[request.path]
    response = Response(file.content, mimetype=file.media_type)
    response.headers.update(HEADERS)
    return revalidated(response, request)


def revalidated(response: Response, request: Request) -> Response:
    """Let a browser keep an answer, and ask each time whether it is still true: a new image brings new files."""
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response
