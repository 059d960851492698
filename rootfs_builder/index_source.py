"""Which package index a build uses, and what is needed to speak to it: credentials, proxies. Builder.

The same decision as uv's own run (uv.environment). The password goes to the index's origin and nowhere else.
"""

import base64
import netrc
import os
import re
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from rootfs_builder import uv
from rootfs_builder.children import Command, run
from runtime.errors import BuildError

_DEFAULT = re.compile(r"by\s+default:\s+<(https?://[^>\s]+)>")
Origin = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class IndexSource:
    """`url`: of the index's root, without password and trailing slash. `authorization`: the header's value, or ''."""

    url: str
    authorization: str

    @classmethod
    def find(
        cls, environ: Mapping[str, str], index_url: str, extra_index_urls: Sequence[str] = ()
    ) -> tuple["IndexSource", ...]:
        """All indexes in the order that uv asks them, the default one last. Arguments: the settings.

        '' takes what uv, else pip, is configured with, else uv's default. Raises BuildError of kind `index`.
        """
        found = uv.environment(
            environ, cache="", scratch="/nonexistent", index_url=index_url, extra_index_urls=extra_index_urls
        )
        extra = (found.get("UV_INDEX", "") + " " + found.get("UV_EXTRA_INDEX_URL", "")).split()
        default = found.get("UV_DEFAULT_INDEX") or found.get("UV_INDEX_URL") or _uv_default()
        return tuple(cls._of(url, environ) for url in (*extra, default))

    @classmethod
    def _of(cls, chosen: str, environ: Mapping[str, str]) -> "IndexSource":
        chosen = re.sub(r"^[A-Za-z0-9._-]+=", "", chosen)  # uv takes NAME=URL
        try:
            parts = urlsplit(chosen)
            if parts.scheme not in ("http", "https") or not parts.hostname or not origin(chosen):
                raise ValueError
        except ValueError:
            raise BuildError(
                "index",
                "sdists are built with indexes that are reached by HTTP, and this node has another",
                hint="set index_url, and extra_index_urls, to http or https URLs of package indexes",
            ) from None
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
        return cls(bare.rstrip("/"), authorization_for(parts, environ))

    def headers(self, url: str) -> dict[str, str]:
        """What a request for this URL is to carry."""
        if self.authorization and origin(url) == origin(self.url):
            return {"Authorization": self.authorization}
        return {}


def origin(url: str) -> Origin:
    """Scheme, host, port. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)


def proxy_of(url: str) -> str | None:
    """The HTTP proxy that variables name for this URL."""
    scheme, host, port = origin(url)
    if urllib.request.proxy_bypass(f"{host}:{port}"):
        return None
    found = urllib.request.getproxies_environment()
    return found.get(scheme) or found.get("all") or None


def authorization_for(parts: SplitResult, environ: Mapping[str, str]) -> str:
    """The header's value for what a URL itself holds, else for its host's entry in netrc(5); or ''."""
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not user and not password:
        user, password = _from_netrc(parts.hostname or "", environ)
    if not user and not password:
        return ""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _from_netrc(host: str, environ: Mapping[str, str]) -> tuple[str, str]:
    path = environ.get("NETRC") or os.path.join(environ.get("HOME", "/nonexistent"), ".netrc")
    try:
        found = netrc.netrc(path).authenticators(host)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return "", ""
    return (found[0], found[2] or "") if found else ("", "")


def _uv_default() -> str:
    """The index that uv takes when nobody names one, in its own words."""
    ended = run(Command((*uv.program(), "pip", "compile", "--help"), {"NO_COLOR": "1", "PATH": os.defpath}))
    found = _DEFAULT.search(ended.output)
    if found is None:
        raise BuildError("index", "uv does not say its default index", hint="set index_url")
    return found[1].rstrip("/")
