"""The baseline of `throughput`: an HTTP server that answers a JSON body with itself. A process of its own.

`application` is what people write with aiohttp; `lowlevel` is aiohttp without router, middlewares and signals,
as the gateway uses it. Prints its port when it listens.
"""

import asyncio
import json
import socket
import sys

import uvloop
from aiohttp import web


async def _application(request: web.Request) -> web.Response:
    return web.json_response(json.loads(await request.read()))


async def _lowlevel(request: web.BaseRequest) -> web.Response:
    return web.Response(body=await request.read(), content_type="application/json")


async def _serve(kind: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    runner: web.BaseRunner
    if kind == "application":
        application = web.Application()
        application.router.add_post("/v1/functions/{name}/invocations", _application)
        runner = web.AppRunner(application, access_log=None)
    else:
        runner = web.ServerRunner(web.Server(_lowlevel, access_log=None))
    await runner.setup()
    await web.SockSite(runner, listener).start()
    print(listener.getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until whoever measures has ended
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
