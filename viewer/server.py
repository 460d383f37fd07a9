"""The local site: overview, image, run, and what the pages ask of it. Light to import, so that it is up at once."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from viewer import pages, style
from viewer.guard import Guard, TooLarge
from viewer.index import Index
from viewer.trainings import Training

if TYPE_CHECKING:
    from viewer.backend import Backend

HERE = Path(__file__).parent
FOREVER = {"cache-control": "private, max-age=31536000, immutable"}
"""For what bears the digest of its content in its address."""
Id = Annotated[int, InPath(ge=0, lt=2**31)]
Slot = Annotated[int, Query(ge=0, lt=255)]
Pixel = Annotated[int, Query(ge=0, lt=2**20)]
Version = Annotated[str, Query(max_length=64)]


@dataclass
class Site:
    """What the server is given.

    title: the store's name; index: already open; backend: waits for what takes seconds to import, and raises what
    went wrong there; pulse: a number that grows whenever the index changed, and what is going on; facts: of the
    run page (links, places) that the flows know; trainings: the last one of each network, none as long as they are not known.
    """

    title: str
    index: Index
    backend: Callable[[], Backend]
    pulse: Callable[[], dict[str, Any]]
    facts: dict[str, str] = field(default_factory=dict)
    trainings: Callable[[], list[Training]] = list


class Judged(BaseModel):
    """A verdict or a note."""

    model_config = ConfigDict(extra="forbid")

    verdict: str | None = Field(default=None, max_length=10)
    note: str = Field(default="", max_length=4000)
    count: int = Field(ge=0)


class Count(BaseModel):
    """The version of a review that the page saw."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(ge=0)


class Clicked(BaseModel):
    """Points for SAM: x, y, and 1 on what is meant or 0 beside it."""

    model_config = ConfigDict(extra="forbid")

    points: list[tuple[float, float, int]] = Field(min_length=1, max_length=64)


def create_app(site: Site, *, hosts: frozenset[str], token: str | None) -> Guard:
    """The site as an ASGI application behind its guard. hosts, token: as `Guard` takes them."""
    app = FastAPI(title="bluemask", docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    _pages(app, site)
    _pictures(app, site)
    _answers(app, site)
    _changes(app, site)
    _errors(app)
    return Guard(app, hosts=hosts, token=token)


def _pages(app: FastAPI, site: Site) -> None:
    @app.get("/", response_class=HTMLResponse)
    def overview(request: Request) -> HTMLResponse:
        return HTMLResponse(pages.overview(site.title, site.index, site.pulse(), dict(request.query_params)))

    @app.get("/image/{image}", response_class=HTMLResponse)
    def image(request: Request, image: Id) -> HTMLResponse:
        row = site.index.image(image)
        if row is None:
            raise HTTPException(404, f"no image has the number {image}")
        data = site.backend().page(image)
        given = dict(request.query_params)
        return HTMLResponse(pages.image(site.title, site.index, row, data, site.pulse(), given))

    @app.get("/run", response_class=HTMLResponse)
    def run() -> HTMLResponse:
        trainings = site.trainings()  # first: the pulse tells what cannot be read of them
        return HTMLResponse(pages.run(site.title, site.index, site.pulse(), site.facts, trainings))

    @app.get("/palette.css")
    def palette() -> Response:
        return Response(style.stylesheet(), media_type="text/css")


def _pictures(app: FastAPI, site: Site) -> None:
    @app.get("/thumb/{image}.jpg")
    def thumb(image: Id, v: Version = "") -> Response:
        picture, sound = site.backend().thumbnail_of(image)
        how = FOREVER if v and sound else {"cache-control": "no-store"}
        return Response(picture, media_type="image/jpeg", headers=how)

    @app.get("/panel/{image}/{name}.png")
    def panel(
        image: Id, name: Annotated[str, InPath(pattern=r"^[a-z0-9-]{1,20}$")], v: Version, slot: Slot = 0
    ) -> Response:
        return Response(site.backend().panel(image, name, slot, v), media_type="image/png", headers=FOREVER)

    @app.get("/training/{folder}/{name}.png")
    def training(
        folder: Annotated[str, InPath(pattern=r"^[a-z]{1,10}-[0-9a-f]{12}$")],
        name: Annotated[str, InPath(pattern=r"^[a-z]{1,20}$")],
        v: Version,
    ) -> Response:
        return Response(site.backend().training(folder, name), media_type="image/png", headers=FOREVER)


def _answers(app: FastAPI, site: Site) -> None:
    @app.get("/api/pulse")
    def pulse() -> dict[str, Any]:
        return site.pulse()

    @app.get("/api/value/{image}")
    def value(image: Id, x: Pixel, y: Pixel, slot: Slot = 0) -> dict[str, Any]:
        return site.backend().values(image, slot, x, y)

    @app.get("/api/label/{image}")
    def label(image: Id) -> Response:
        packed = zlib.compress(site.backend().label(image).tobytes(), 1)
        return Response(packed, media_type="application/octet-stream", headers={"cache-control": "no-store"})

    @app.post("/api/click/{image}")
    def click(image: Id, body: Clicked) -> dict[str, Any]:
        import numpy as np

        masks, iou = site.backend().click(image, np.array(body.points, np.float64))
        packed = [
            base64.b64encode(zlib.compress(mask.astype(np.uint8).tobytes(), 1)).decode() for mask in masks
        ]
        return {"masks": packed, "iou": [round(float(v), 3) for v in iou]}


def _changes(app: FastAPI, site: Site) -> None:
    @app.get("/api/review/{image}")
    def reviewed(image: Id) -> dict[str, Any]:
        backend = site.backend()
        return backend.review_of(backend.open(image))

    @app.post("/api/review/{image}")
    def review(image: Id, body: Judged) -> dict[str, Any]:
        return site.backend().judge(image, body.verdict, body.note, body.count)

    @app.post("/api/undo/{image}")
    def undo(image: Id, body: Count) -> dict[str, Any]:
        return site.backend().undo(image, body.count)

    @app.post("/api/correct/{image}")
    async def correct(
        request: Request,
        image: Id,
        count: Annotated[int, Query(ge=0)],
        note: Annotated[str, Query(max_length=4000)] = "",
    ) -> dict[str, Any]:
        from starlette.concurrency import run_in_threadpool

        return await run_in_threadpool(_correct, site, image, await request.body(), note, count)


def _correct(site: Site, image: int, packed: bytes, note: str, count: int) -> dict[str, Any]:
    """Unpack a mask, never more of it than the image has pixels, and keep it."""
    import numpy as np

    height, width = site.backend().open(image).size
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(packed, height * width + 1)
    except zlib.error as error:
        raise ValueError("the mask is not packed as it should be") from error
    if len(raw) != height * width or not unpacker.eof:
        raise ValueError(f"the mask does not have the {height * width} pixels of the image")
    return site.backend().correct(image, np.frombuffer(raw, np.uint8).reshape(height, width), note, count)


def _errors(app: FastAPI) -> None:
    """An error is a sentence: JSON for scripts, a page for people; never a traceback."""
    known = {"Missing": 404, "Torn": 409, "ReviewConflict": 409, "StoreError": 409, "ValueError": 422}

    def answer(request: Request, status: int, text: str) -> Response:
        if request.url.path.startswith(("/api/", "/panel/", "/thumb/")):
            return JSONResponse({"error": text}, status)
        return HTMLResponse(pages.fault(status, text), status)

    async def ours(request: Request, error: Exception) -> Response:
        names = [kind.__name__ for kind in type(error).__mro__]
        status = next(known[name] for name in names if name in known)
        return answer(request, status, str(error) if status != 422 else _first_line(error))

    async def large(request: Request, error: Exception) -> Response:
        return answer(request, 413, str(error))

    app.add_exception_handler(ValueError, ours)
    app.add_exception_handler(RuntimeError, ours_or_500(ours, answer))
    app.add_exception_handler(TooLarge, large)
    app.add_exception_handler(
        StarletteHTTPException, lambda request, error: answer(request, error.status_code, str(error.detail))
    )


def ours_or_500(ours: Any, answer: Any) -> Any:
    """Store errors are told to people; any other RuntimeError is a fault of ours, told without its inside."""

    async def handler(request: Request, error: Exception) -> Response:
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & {"Missing", "Torn", "ReviewConflict", "StoreError"}:
            return await ours(request, error)  # type: ignore[no-any-return]
        return answer(request, 500, f"{type(error).__name__}: {_first_line(error)}")  # type: ignore[no-any-return]

    return handler


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
