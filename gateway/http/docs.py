"""The page under `/docs`: three files of this package, as bytes with their content types.

The page reads `/api/VERSION/openapi.json` and needs nothing else, from this host or another. It has no inline script and no
inline style, so a policy of `default-src 'self'` is enough for it.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

_FILES = {
    "": ("docs.html", "text/html; charset=utf-8"),
    "docs.css": ("docs.css", "text/css; charset=utf-8"),
    "docs.js": ("docs.js", "text/javascript; charset=utf-8"),
}
"""By what stands behind `/docs/` in the URL."""


@cache
def docs_asset(name: str) -> tuple[bytes, str] | None:
    """The body and content type of `/docs/{name}`, or None where there is no such file. The page itself has no name."""
    if name not in _FILES:
        return None
    file, content_type = _FILES[name]
    return files("gateway.http").joinpath(file).read_bytes(), content_type
