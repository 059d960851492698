"""Files of the package index: fetched several at a time, bounded, verified against their hashes. Builder.

The addresses come from the index by way of uv. A password is sent to the index it belongs to (one of netrc: to its
host) and to nobody else; it never reaches a message.
"""

import asyncio
import errno
import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import aiohttp

from rootfs_builder import index_source, trees
from runtime.errors import BuildError
from runtime.model import Locked

AT_ONCE = 6
TRIES = 3
PAUSE_S = 0.5  # before the second try, doubled for each further one
CONNECT_S = 10.0
QUIET_S = 30.0  # the longest silence of the index
_CHUNK_BYTES = 1 << 20
_STATUS_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")


class _AgainError(Exception):
    """A failure that may pass."""


class Downloads:
    """Fetches for one build. `environ`: what uv got (uv.environment), which names the indexes and certificates."""

    def __init__(self, session: aiohttp.ClientSession, environ: Mapping[str, str], *, bytes_max: int) -> None:
        self._session = session
        self._environ = environ
        self._authorizations = dict(_authorizations(environ))
        self._reads_files = any(url.startswith("file:") for url in _indexes(environ)) or "UV_FIND_LINKS" in environ
        self._left = bytes_max
        self._bytes_max = bytes_max
        self._room = asyncio.Semaphore(AT_ONCE)
        self.done_bytes = 0

    async def fetch(self, locked: Locked, target: Path, tick: Callable[[], None]) -> None:
        """Write one verified file to target. Raises BuildError that names the file and what to do."""
        async with self._room:
            for attempt in range(1, TRIES + 1):
                try:
                    return await self._try(locked, target, tick)
                except (_AgainError, aiohttp.ClientError, TimeoutError) as error:
                    if attempt == TRIES:
                        raise _failed(locked, error) from error
                except OSError as error:
                    raise trees.writing_failed(error, f"write {locked.filename}") from error
                await asyncio.sleep(PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))  # noqa: S311

    async def _try(self, locked: Locked, target: Path, tick: Callable[[], None]) -> None:
        digest, written = hashlib.sha256(), 0
        try:
            with open(target, "wb", buffering=0) as file:
                async for chunk in self._chunks(locked):
                    self._take(locked, len(chunk))
                    written += len(chunk)
                    digest.update(chunk)
                    file.write(chunk)
                    tick()
            if digest.hexdigest() != locked.sha256 and locked.size and written < locked.size:
                raise _AgainError(f"it ended after {written} of {locked.size} bytes")
        except (_AgainError, aiohttp.ClientError, TimeoutError):
            self._left += written  # the next try fetches it again
            self.done_bytes -= written
            raise
        if digest.hexdigest() != locked.sha256:
            raise BuildError(
                "install",
                f"{locked.filename} has another hash than the lock: sha256:{digest.hexdigest()}",
                hint="the index, or somebody on the way to it, has changed the file: do not use it",
            )

    async def _chunks(self, locked: Locked) -> AsyncIterator[bytes]:
        if locked.url.startswith("file:"):
            for chunk in self._local_chunks(locked):
                yield chunk
            return
        async with self._answer(locked) as answer:
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                yield chunk

    @asynccontextmanager
    async def _answer(self, locked: Locked) -> AsyncIterator[aiohttp.ClientResponse]:
        parts = urlsplit(locked.url)
        if parts.scheme not in ("http", "https"):
            raise BuildError("install", f"the index names {locked.filename} at no http address")
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
        url, headers = bare.geturl(), {"Accept-Encoding": "identity"}
        authorization = self._authorizations.get(index_source.origin(url))
        if authorization := authorization or index_source.authorization_for(bare, self._environ):
            headers["Authorization"] = authorization
        async with self._session.get(url, headers=headers, proxy=_proxy_of(url)) as answer:
            if answer.status in _STATUS_AGAIN:
                raise _AgainError(f"it answers {answer.status}")
            if answer.status != 200:
                raise _failed(locked, f"it answers {answer.status}")
            yield answer

    def _local_chunks(self, locked: Locked) -> Iterable[bytes]:
        """A file of an index that is a folder of this machine, which only the operator can configure."""
        if not self._reads_files:
            raise BuildError("install", f"the index names {locked.filename} at an address of this machine")
        try:
            with open(url2pathname(urlsplit(locked.url).path), "rb", buffering=0) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise _failed(locked, os.strerror(error.errno or errno.EIO)) from error

    def _take(self, locked: Locked, count: int) -> None:
        self._left -= count
        self.done_bytes += count
        if self._left < 0:
            raise BuildError(
                "limit",
                f"{locked.filename} makes the packages larger than environment_bytes, {self._bytes_max >> 20} MiB",
                hint="raise environment_bytes, or do without the package",
            )


@asynccontextmanager
async def opened(environ: Mapping[str, str], *, bytes_max: int) -> AsyncIterator[Downloads]:
    """Downloads with a session of their own. Proxies are those of the process's variables."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=QUIET_S)
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        yield Downloads(session, environ, bytes_max=bytes_max)


def _authorizations(environ: Mapping[str, str]) -> Iterable[tuple[index_source.Origin, str]]:
    """What indexes want to hear, whose addresses hold names and passwords, by origin."""
    for url in _indexes(environ):
        parts = urlsplit(url)
        if parts.username or parts.password:
            yield index_source.origin(url), index_source.authorization_for(parts, environ)


def _indexes(environ: Mapping[str, str]) -> list[str]:
    words = [word for name in _INDEX_VARIABLES for word in environ.get(name, "").split()]
    return [word.partition("=")[2] if "://" in word.partition("=")[2] else word for word in words]


def _proxy_of(url: str) -> str | None:
    """The proxy to take, if it is one that aiohttp can speak to."""
    proxy = index_source.proxy_of(url) or ""
    proxy = proxy if "://" in proxy or not proxy else f"http://{proxy}"
    return proxy if proxy.startswith("http://") else None


def _failed(locked: Locked, why: object) -> BuildError:
    text = str(why) or ("it is silent" if isinstance(why, TimeoutError) else type(why).__name__)
    for secret in filter(None, (urlsplit(locked.url).username, urlsplit(locked.url).password)):
        text = text.replace(secret, "****")
    return BuildError(
        "install",
        f"cannot download {locked.filename}: {text}",
        hint="check that this node reaches the package index (setting index_url), and try again",
    )
