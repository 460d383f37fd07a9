"""`bluemask browse`: the page is up at once; what takes seconds to import comes behind it."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import uvicorn

from viewer.guard import hosts_of, is_loopback
from viewer.index import Index
from viewer.server import Site, create_app
from viewer.words import so_many

if TYPE_CHECKING:
    import numpy as np

    from flows.config import Config
    from storage.store import Store
    from tasks.reading import Labelled
    from viewer.backend import Backend, Segment
    from viewer.refresh import BlockState, Refresher
    from viewer.trainings import Training

PAUSE = 1.5
"""Seconds between two looks at the store; a look without a change costs a few milliseconds."""


class Keeper:
    """The thread that imports, opens the store, and keeps the index up to date."""

    def __init__(self, root: Path, index: Index, masks: Path | None) -> None:
        """root: of the store; masks: folder of ground-truth label PNGs, None where there are none."""
        self.root, self.index, self.masks = root, index, masks
        self.stop = threading.Event()
        self._ready = threading.Event()
        self._backend: Backend | None = None
        self._fault: Exception | None = None
        self._unread = ""
        self._count, self._reading = 0, True
        self.thread = threading.Thread(target=self._work, name="index", daemon=True)

    def backend(self) -> Backend:
        """The backend, once it is there. Raises what went wrong on the way."""
        self._ready.wait()
        if self._backend is None:
            raise self._fault or RuntimeError("the store could not be opened")
        return self._backend

    def pulse(self) -> dict[str, Any]:
        """How often the index changed, what is being done, and by whom the store is written; empty where nothing is."""
        doing, run, stages = "", "", list[str]()
        if self._backend is not None:
            done, total = self._backend.refresher.progress
            doing = f"reading figures: {done} of {so_many(total, 'blocks')}" if total else ""
            stages, run = _stage_names(), _underway(self._backend.store)
        if not doing and self._reading:
            doing = "reading the store"
        fault = str(self._fault or self._unread)
        return {"count": self._count, "doing": doing, "run": run, "stages": stages, "fault": fault}

    def trainings(self) -> list[Training]:
        """The last training of each network; none as long as the store is not open.

        Nor where what is known of them cannot be read, which `pulse` tells: the page that shows faults must not fail for one.
        """
        if self._backend is None:
            return []
        try:
            found = _trainings(self._backend.store)
        except (RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
            self._unread = f"of the trainings nothing can be read: {error}"
            return []
        self._unread = ""
        return found

    def _work(self) -> None:
        try:
            self._first_rows()
            self._backend = open_backend(self.root, self.index, self.masks)
            self._backend.refresher.on_change = self._changed
        except Exception as error:  # noqa: BLE001 (told to whoever asks for the backend)
            self._fault = error
            return
        finally:
            self._ready.set()
        threading.Thread(target=load_small_sam, args=(self._backend.store,), daemon=True).start()
        while not self.stop.is_set():
            self._look(self._backend.refresher)
            self.stop.wait(PAUSE)

    def _first_rows(self) -> None:
        """A new index gets the catalog's rows before anything heavy is imported: there is something to see."""
        if self.index.meta("states") is None:
            from storage.catalog import load
            from storage.store import Store
            from viewer.rows import take_catalog

            take_catalog(self.index, load(Store.existing(self.root)))
            self._changed()

    def _look(self, refresher: Refresher) -> None:
        started = time.monotonic()
        try:
            refresher.run(self.stop)
            self._fault = None
        except Exception as error:  # noqa: BLE001 (a file that is being replaced or damaged: told, tried again)
            self._fault = error
        self._reading = False
        self.stop.wait(min(30.0, 3 * (time.monotonic() - started)))

    def _changed(self) -> None:
        self._count += 1


def _stage_names() -> list[str]:
    from tasks.registry import stages

    return [stage.name for stage in stages()]


def _trainings(store: Store) -> list[Training]:
    from flows.summary import stored_config
    from flows.trained import last_trainings

    return last_trainings(store, stored_config(store))


def _underway(store: Store) -> str:
    from flows.underway import words_of

    return words_of(store)


def open_backend(root: Path, index: Index, masks: Path | None) -> Backend:
    """Everything that reads arrays: slow to import, and therefore done in the background."""
    from flows.figures import remembered
    from flows.summary import stored_config
    from storage.store import Store
    from viewer.backend import Backend
    from viewer.refresh import Refresher

    store = Store.existing(root)
    refresher = Refresher(store, index, lambda: block_states(store), lambda: remembered(store))
    truth = None if masks is None else _truth_in(masks)
    return Backend(store, index, refresher, segmenter(store, stored_config(store)), truth)


def block_states(store: Store) -> dict[str, dict[str, BlockState]]:
    """Stage → block → how it stands, as the next run would see it."""
    from flows.summary import plan_of, stored_config
    from tasks.registry import stages
    from viewer.refresh import BlockState

    plan = plan_of(store, stored_config(store))
    found: dict[str, dict[str, BlockState]] = {}
    for stage in stages():
        errors = {block: failure.error for block, failure in store.failures(stage.name).items()}
        found[stage.name] = {}
        for block in plan.blocks:
            state = plan.state(stage, block)
            why = "" if state == "fresh" else errors.get(block) or plan.why(stage, block)
            found[stage.name][block] = BlockState(state, why, plan.receipts[stage.name].get(block))
    return found


def segmenter(store: Store, config: Config) -> Segment:
    """SAM for clicked points: from the kept embedding, else the image is encoded once and remembered."""
    from flows.networks import load_model, precision_of
    from storage.store import StoreError
    from tasks.click import click_masks, whole_embedding

    known: dict[str, np.ndarray] = {}
    lock = threading.Lock()

    def embedding(item: Labelled, model: Any) -> np.ndarray:
        key = item.row.sha256
        if key not in known:
            try:
                found = item.array("embedding")[0]
            except StoreError:  # the config keeps none
                found = whole_embedding(model, item.array("image"), precision_of(config))
            while len(known) > 3:
                known.pop(next(iter(known)))
            known[key] = found
        return known[key]

    def segment(item: Labelled, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with lock:  # one network, one question at a time
            model = load_model(store, config, "sam")
            size = (item.row.height, item.row.width)
            return click_masks(model, embedding(item, model), points, size)

    return segment


def load_small_sam(store: Store) -> None:
    """Have `tiny` SAM in memory before anybody clicks: what takes seconds is torch, not its 5 MB.

    An official SAM holds up to 2.6 GB and may have to be fetched; it waits until an editor is opened.
    """
    from flows.networks import load_model
    from flows.summary import stored_config

    with suppress(Exception):  # what is wrong is told to whoever clicks
        config = stored_config(store)
        if config.sam.model == "tiny":
            load_model(store, config, "sam")


def _truth_in(folder: Path) -> Callable[[str], Path | None]:
    from tasks.evaluate import EvaluationError, find_masks

    def truth(image: str) -> Path | None:
        try:
            return find_masks(folder, [image])[image]
        except EvaluationError:
            return None

    if not folder.is_dir():
        raise EvaluationError(f"{folder} is no folder; give the one with the ground-truth PNGs")
    return truth


# -- the command ------------------------------------------------------------------------------------------


def browse(root: Path, *, host: str, port: int, masks: Path | None, show: bool) -> None:
    """Serve a store's pages until interrupted.

    host, port: where; port 0 takes any free one. masks: ground truth to compare with; show: whether the browser
    is opened. Raises StoreError where there is no store, OSError where the port is taken.
    """
    if not (root / "catalog.parquet").is_file():
        from storage.store import Store

        refuse_remote(Store.existing(root))
    index = open_index(root)
    keeper = Keeper(root, index, masks)
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    title = "/".join(root.resolve().parts[-2:])
    site = Site(title, index, keeper.backend, keeper.pulse, facts(root, index), keeper.trainings)
    app = create_app(site, hosts=_hosts(host, port), token=token)
    address = f"http://{_shown(host)}:{port}/" + (f"?token={token}" if token else "")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", server_header=False))
    threading.Thread(target=_announce, args=(server, address, show, keeper), daemon=True).start()
    try:
        server.run(sockets=[listening])
    finally:
        keeper.stop.set()


def _announce(server: uvicorn.Server, address: str, show: bool, keeper: Keeper) -> None:
    while not server.started:
        time.sleep(0.01)
    typer.echo(f"{address}  (Ctrl-C ends it)")
    if show:
        webbrowser.open(address)
    keeper.thread.start()  # after the first page had its turn


def refuse_remote(store: Store) -> None:
    """Raises StoreError for a store that lies in no folder: its pages need an index beside the arrays."""
    if not store.local:
        from storage.store import StoreError

        raise StoreError(
            f"{store.name} lies in an object store; copy it into a folder and name that (only labels: `bluemask export`)"
        )


def open_index(root: Path) -> Index:
    """The store's index; in a folder of its own where the store may not be written to."""
    if os.access(root, os.W_OK):
        return Index(root / "browse" / "index.sqlite")
    folder = Path(tempfile.mkdtemp(prefix="bluemask-"))
    typer.echo(
        f"{root} may not be written to: the index lies in {folder}, and reviews cannot be kept", err=True
    )
    return Index(folder / "index.sqlite")


def facts(root: Path, index: Index) -> dict[str, str]:
    """What the run page says besides: where things lie, and Prefect's own page."""
    server = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL", "").removesuffix("/api")
    found = {"Store": str(root.resolve()), "Index": str(index.path.resolve())}
    if (root / "report.html").is_file():
        found["Report"] = str((root / "report.html").resolve())
    found["Prefect"] = server or "no server is named; set PREFECT_API_URL to see runs there"
    return found


def _hosts(host: str, port: int) -> frozenset[str]:
    # bound to every address it has any number of names; there the token is what counts
    return frozenset() if host in ("0.0.0.0", "::") else hosts_of(host, port)


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise OSError(
            f"{host}:{port} cannot be had ({error.strerror}); choose another with --port"
        ) from error
    return listening
