"""Who may log in at the broker, and with which rights: over RabbitMQ's management API."""

import ssl
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote

import httpx

from shared.core.identity.rights import Rights
from shared.errors import Unavailable

ANSWER_S = 20.0
NO_PASSWORD: Mapping[str, str] = {"password_hash": "", "tags": ""}  # a certificate alone logs in


class BrokerUsers:
    """Users of one virtual host.

    Each call is idempotent: what is there already is replaced, what is gone stays gone.
    """

    def __init__(self, client: httpx.AsyncClient, vhost: str) -> None:
        self._client, self._vhost = client, quote(vhost, safe="")

    @classmethod
    def at(cls, url: str, vhost: str, context: ssl.SSLContext | None = None) -> Self:
        """The API at `url`, https://user:password@host:port, of a user with the tag `administrator`."""
        return cls(httpx.AsyncClient(base_url=url, verify=context or True, timeout=ANSWER_S), vhost)

    async def admit(self, name: str, rights: Rights) -> None:
        """Let `name` in by its certificate, with these rights and no others. Raises: Unavailable."""
        user = quote(name, safe="")
        await self._put(f"/api/users/{user}", NO_PASSWORD)
        await self._delete(f"/api/topic-permissions/{self._vhost}/{user}")
        for exchange, (write, read) in rights.topics.items():
            topic = {"exchange": exchange, "write": write, "read": read}
            await self._put(f"/api/topic-permissions/{self._vhost}/{user}", topic)
        names = {"configure": rights.configure, "write": rights.write, "read": rights.read}
        await self._put(f"/api/permissions/{self._vhost}/{user}", names)

    async def expel(self, name: str) -> None:
        """Let `name` in no more, and close what connections it has. Raises: Unavailable."""
        await self._delete(f"/api/users/{quote(name, safe='')}")

    async def names(self) -> set[str]:
        """Who has rights in the virtual host. Raises: Unavailable."""
        found = await self._ask("GET", f"/api/vhosts/{self._vhost}/permissions")
        return {str(one["user"]) for one in found.json()}

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def _put(self, path: str, content: Mapping[str, Any]) -> None:
        await self._ask("PUT", path, dict(content))

    async def _delete(self, path: str) -> None:
        await self._ask("DELETE", path, missing=True)

    async def _ask(
        self, method: str, path: str, content: dict[str, Any] | None = None, *, missing: bool = False
    ) -> httpx.Response:
        try:
            answer = await self._client.request(method, path, json=content)
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            raise Unavailable(f"the management API does not answer: {type(error).__name__}") from None
        if answer.is_success or (missing and answer.status_code == httpx.codes.NOT_FOUND):
            return answer
        raise Unavailable(f"the management API says {answer.status_code} to {method} {path}")
