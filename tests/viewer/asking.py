"""Requests to the application itself, without a socket."""

import anyio
import httpx

ORIGIN = "http://127.0.0.1:8650"


class Client:
    """Requests to the application itself, without a socket."""

    def __init__(self, app, origin=ORIGIN):
        self.app, self.origin = app, origin

    def __call__(self, method, path, **how):
        async def ask():
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=self.origin) as client:
                return await client.request(method, path, **how)

        return anyio.run(ask)

    def get(self, path, **how):
        return self("GET", path, **how)

    def post(self, path, **how):
        how["headers"] = {"origin": self.origin, **how.get("headers", {})}
        return self("POST", path, **how)
