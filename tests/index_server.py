"""A package index on loopback, of files that a test gives it: both page forms, a password, and ways to misbehave."""

import asyncio
import base64
import hashlib
import html
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

JSON_TYPE = "application/vnd.pypi.simple.v1+json"


@dataclass
class IndexServer:
    """Files by project; requests as they came. `url` is known while it serves."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    metadata: dict[str, bytes] = field(default_factory=dict)
    form: str = "json"
    password: str = ""
    answers: dict[str, Callable[[web.Request], Any]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    url: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)  # path, Authorization

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["IndexServer"]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path
        self.seen.append((path, request.headers.get("Authorization", "")))
        if path in self.silent:
            await asyncio.Event().wait()
        if path in self.answers:
            answer = self.answers[path](request)
            return await answer if inspect.isawaitable(answer) else answer
        wanted = "Basic " + base64.b64encode(f"user:{self.password}".encode()).decode()
        if self.password and request.headers.get("Authorization") != wanted:
            return web.Response(status=401)
        parts = path.strip("/").split("/")
        if parts == ["simple"]:
            links = [{"name": name} for name in self.files]
            return web.json_response({"projects": links}, content_type=JSON_TYPE)
        if len(parts) == 2 and parts[0] == "simple" and parts[1] in self.files:
            return self._page(parts[1])
        if len(parts) == 2 and parts[0] == "pool":
            found = {name: data for files in self.files.values() for name, data in files.items()}
            found |= {f"{name}.metadata": data for name, data in self.metadata.items()}
            if parts[1] in found:
                return web.Response(body=found[parts[1]])
        return web.Response(status=404)

    def _page(self, project: str) -> web.Response:
        rows = [(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in self.files[project].items()]
        if self.form == "json":
            files = [
                {
                    "filename": name,
                    "url": f"../../pool/{name}",
                    "hashes": {"sha256": digest},
                    "size": size,
                    "core-metadata": self._digest(name) or False,
                }
                for name, digest, size in rows
            ]
            return web.json_response({"meta": {}, "name": project, "files": files}, content_type=JSON_TYPE)
        links = ""
        for name, digest, _ in rows:
            metadata = self._digest(name)
            extra = f' data-core-metadata="sha256={metadata["sha256"]}"' if metadata else ""
            links += f'<a href="../../pool/{html.escape(name)}#sha256={digest}"{extra}>{name}</a><br>\n'
        return web.Response(text=f"<html><body>{links}</body></html>", content_type="text/html")

    def _digest(self, name: str) -> dict[str, str]:
        data = self.metadata.get(name)
        return {"sha256": hashlib.sha256(data).hexdigest()} if data is not None else {}
