"""Requests to the application itself, without a socket."""

import anyio
import httpx

from viewer.guard import hosts_of
from viewer.server import Site, create_app

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


def backend_of(labelled):
    from flows.browse import open_backend, open_index

    made = open_backend(labelled.store.root, open_index(labelled.store.root), labelled.root / "masks")
    assert made.refresher.run()
    return made


def client_of(backend):
    site = Site("a <store>", backend.index, lambda: backend, lambda: {"count": 1, "doing": "", "stages": []})
    return Client(create_app(site, hosts=hosts_of("127.0.0.1", 8650), token=None))


def ids(backend, **how):
    from viewer.index import Query

    return [row["id"] for row in backend.index.page(Query(**how), size=50).rows]
