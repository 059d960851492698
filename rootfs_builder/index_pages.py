"""Pages of a package index: read from either form (PEP 503 HTML, PEP 691 JSON), written in either form. Builder.

Only what a resolver needs is kept. What cannot be used (other URL schemes, odd file names) is left out.
"""

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, TypeVar
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import msgspec
from packaging.utils import canonicalize_name

from runtime import file_names

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
ACCEPT = f"{JSON_TYPE}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEXT_CHARS_MAX = 500


@dataclass(frozen=True, slots=True)
class IndexFile:
    """One file of a page. `sha256`: '' when the index does not say. `metadata`: PEP 658's, '' none, else its digest

    or 'true'. `yanked`: None, or the reason, which may be ''.
    """

    filename: str
    url: str
    sha256: str = ""
    requires_python: str = ""
    size: int | None = None
    upload_time: str = ""
    yanked: str | None = None
    metadata: str = ""


class _JsonFile(msgspec.Struct):
    filename: str
    url: str
    hashes: dict[str, str] = {}
    requires_python: str | None = msgspec.field(default=None, name="requires-python")
    size: int | None = None
    upload_time: str | None = msgspec.field(default=None, name="upload-time")
    yanked: bool | str = False
    core: bool | dict[str, str] = msgspec.field(default=False, name="core-metadata")
    dist_info: bool | dict[str, str] = msgspec.field(default=False, name="dist-info-metadata")


class _JsonPage(msgspec.Struct):
    files: list[_JsonFile] = []


class _JsonRoot(msgspec.Struct):
    projects: list[dict[str, Any]] = []


_Page = TypeVar("_Page", _JsonPage, _JsonRoot)


def parse(body: bytes, content_type: str, base: str) -> list[IndexFile]:
    """The files of a project's page. base: where the page came from. Raises ValueError for what is no such page."""
    if "json" in content_type:
        page = _decoded(body, _JsonPage)
        found = [_from_json(each, base) for each in page.files]
    else:
        anchors = _Anchors(body)
        found = [_from_html(text, attributes, anchors.base(base)) for text, attributes in anchors.found]
    return [each for each in found if each is not None]


def projects(body: bytes, content_type: str) -> list[str]:
    """Normalised names on the root page of an index. Raises ValueError."""
    if "json" in content_type:
        names = [str(each.get("name", "")) for each in _decoded(body, _JsonRoot).projects]
    else:
        names = [text for text, _ in _Anchors(body).found]
    return sorted({canonicalize_name(name) for name in names if file_names.is_safe(name)})


def render_json(name: str, files: Iterable[IndexFile]) -> bytes:
    """A project's page as PEP 691 has it."""
    rows = []
    for each in files:
        row: dict[str, Any] = {"filename": each.filename, "url": each.url, "hashes": {}}
        if each.sha256:
            row["hashes"] = {"sha256": each.sha256}
        if each.requires_python:
            row["requires-python"] = each.requires_python
        if each.size is not None:
            row["size"] = each.size
        if each.upload_time:
            row["upload-time"] = each.upload_time
        if each.yanked is not None:
            row["yanked"] = each.yanked or True
        if each.metadata:
            row["core-metadata"] = True if each.metadata == "true" else {"sha256": each.metadata}
        rows.append(row)
    return msgspec.json.encode({"meta": {"api-version": "1.1"}, "name": name, "versions": [], "files": rows})


def render_html(files: Iterable[IndexFile]) -> bytes:
    """A project's page as PEP 503 has it, for programs older than PEP 691."""
    lines = []
    for each in files:
        attributes = {
            "href": each.url + (f"#sha256={each.sha256}" if each.sha256 else ""),
            "data-requires-python": each.requires_python or None,
            "data-yanked": each.yanked,
            "data-core-metadata": f"sha256={each.metadata}" if len(each.metadata) == 64 else each.metadata or None,
        }
        shown = "".join(f' {key}="{html.escape(text)}"' for key, text in attributes.items() if text is not None)
        lines.append(f"<a{shown}>{html.escape(each.filename)}</a><br>\n")
    return f"<!DOCTYPE html>\n<html><body>\n{''.join(lines)}</body></html>\n".encode()


def render_root(names: Iterable[str], *, as_json: bool) -> bytes:
    """The root page."""
    if as_json:
        return msgspec.json.encode({"meta": {"api-version": "1.1"}, "projects": [{"name": name} for name in names]})
    links = "".join(f'<a href="/simple/{name}/">{name}</a><br>\n' for name in names)
    return f"<!DOCTYPE html>\n<html><body>\n{links}</body></html>\n".encode()


def _decoded(body: bytes, kind: type[_Page]) -> _Page:
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError as error:
        raise ValueError("the page is nested too deep") from error


class _Anchors(HTMLParser):
    """All <a> of a page with their text and attributes, and its <base>."""

    def __init__(self, body: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._base = ""
        self._open: dict[str, str | None] | None = None
        self._text = ""
        self.feed(body.decode(errors="replace"))
        self.close()

    def base(self, page: str) -> str:
        return urljoin(page, self._base) if self._base else page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "base" and not self._base:
            self._base = dict(attrs).get("href") or ""
        elif tag == "a":
            self._open, self._text = dict(attrs), ""

    def handle_data(self, data: str) -> None:
        if self._open is not None and len(self._text) < _TEXT_CHARS_MAX:
            self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._open is not None:
            self.found.append((self._text.strip(), self._open))
            self._open = None


def _from_json(row: _JsonFile, base: str) -> IndexFile | None:
    url = _usable(row.url, base)
    if not file_names.is_safe(row.filename) or not url:
        return None
    metadata = row.core or row.dist_info
    digest = _digest(metadata.get("sha256", "")) if isinstance(metadata, dict) else ""
    return IndexFile(
        filename=row.filename,
        url=url,
        sha256=_digest(row.hashes.get("sha256", "")),
        requires_python=(row.requires_python or "")[:_TEXT_CHARS_MAX],
        size=row.size,
        upload_time=(row.upload_time or "")[:64],
        yanked=row.yanked[:_TEXT_CHARS_MAX] if isinstance(row.yanked, str) else "" if row.yanked else None,
        metadata=digest or ("true" if metadata else ""),
    )


def _from_html(text: str, attributes: dict[str, str | None], base: str) -> IndexFile | None:
    href, fragment = urldefrag(attributes.get("href") or "")
    url = _usable(href, base)
    filename = text if file_names.is_safe(text) else unquote(urlsplit(url).path.rpartition("/")[2])
    if not url or not file_names.is_safe(filename):
        return None
    metadata = attributes.get("data-core-metadata") or attributes.get("data-dist-info-metadata") or ""
    has_yanked = "data-yanked" in attributes
    return IndexFile(
        filename=filename,
        url=url,
        sha256=_digest(fragment.removeprefix("sha256=")),
        requires_python=(attributes.get("data-requires-python") or "")[:_TEXT_CHARS_MAX],
        yanked=(attributes.get("data-yanked") or "")[:_TEXT_CHARS_MAX] if has_yanked else None,
        metadata=_digest(metadata.removeprefix("sha256=")) or ("true" if metadata and metadata != "false" else ""),
    )


def _usable(url: str, base: str) -> str:
    """The whole URL without fragment and password, or '' where it is none that can be fetched."""
    try:
        whole = urlsplit(urldefrag(urljoin(base, url))[0])
        if whole.scheme not in ("http", "https") or not whole.hostname or not whole.geturl().isascii():
            return ""
        return whole._replace(netloc=whole.netloc.rpartition("@")[2]).geturl()
    except ValueError:
        return ""


def _digest(text: str) -> str:
    return text.lower() if _SHA256.fullmatch(text.lower()) else ""
