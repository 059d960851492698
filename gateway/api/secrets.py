"""POST /v1/rotate-key: another key for the secrets at rest. Secrets themselves are set by a deploy, and never read."""

import msgspec
from aiohttp import web

from gateway.api import problems
from gateway.secret_key import SecretsError
from gateway.services import Services


class SecretRoutes:
    """Handlers of the secrets' key."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def rotate_key(self, _: web.BaseRequest, __: str) -> web.StreamResponse:
        """POST /v1/rotate-key."""
        try:
            key, count = await self._services.registry.change_key()
        except SecretsError as error:
            raise problems.unreadable_secrets(error) from error
        return web.Response(body=msgspec.json.encode({"key": key, "secrets": count}), content_type="application/json")
