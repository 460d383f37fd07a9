"""Objects in an S3-compatible store, and the writer's lease there."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store
from zarr.abc.store import Store as ZarrStore
from zarr.storage import ObjectStore

from storage.index import Mark
from storage.lock import KEY, StoreLockedError, alive, guard, holder, next_token, sentence, token_of
from storage.objects import StoreUnwritableError, Tag
from storage.receipts import now

SCHEME = "s3:"
LEASE = 30.0
"""Seconds without a sign of life after which a holder is taken for dead."""
PATIENCE = timedelta(seconds=120)
"""How long a server may be away: it is asked again, with growing pauses."""


def address(root: Path) -> str | None:
    """The URL of a store that lies in an object store, such as s3://bucket/prefix; None for a folder.

    A path collapses the two slashes of a URL, so one is enough.
    """
    text = root.as_posix()
    return f"s3://{text[len(SCHEME) :].lstrip('/')}" if text.startswith(SCHEME) else None


def connect(url: str) -> S3Store:
    """The bucket and prefix. Endpoint, region and keys come from the environment (AWS_…), never from a config."""
    retry: Any = {
        "max_retries": 40,
        "retry_timeout": PATIENCE,
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=3),
            "base": 2,
        },
    }
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    options: Any = {"timeout": timedelta(seconds=60), "allow_http": plain}
    return S3Store.from_url(url, client_options=options, retry_config=retry)


class RemoteObjects:
    """The verbs of `Objects` on an object store. Every object appears whole or not at all."""

    def __init__(self, url: str) -> None:
        """url: s3://bucket/prefix."""
        self.url = url
        self.bucket = connect(url)

    def __reduce__(self) -> tuple[type[RemoteObjects], tuple[str]]:
        """In another process it connects anew, with that process's keys."""
        return RemoteObjects, (self.url,)

    def get(self, key: str) -> bytes | None:
        """Bytes of an object, or None where there is none."""
        return self.tagged(key)[0]

    def tagged(self, key: str) -> tuple[bytes | None, Tag]:
        """Bytes of an object and which version of it they are."""
        try:
            found = obstore.get(self.bucket, key)
            return bytes(found.bytes()), found.meta["e_tag"]
        except FileNotFoundError:
            return None, None

    def put(self, key: str, value: bytes) -> None:
        """Replace an object; durable on return."""
        with _told(self.url, key):
            obstore.put(self.bucket, key, value)

    def create(self, key: str, value: bytes) -> bool:
        """Make an object only where there is none; False where there is one."""
        return self._conditional(key, value, "create")

    def swap(self, key: str, value: bytes, seen: Tag) -> bool:
        """Replace an object only if it is still the version seen; False where it is another."""
        return self._conditional(key, value, "create" if seen is None else {"e_tag": seen})

    def _conditional(self, key: str, value: bytes, mode: Any) -> bool:
        with _told(self.url, key):
            try:
                obstore.put(self.bucket, key, value, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                # an answer that was lost makes a second try meet its own first one
                return self.get(key) == value
            return True

    def list(self, prefix: str, suffix: str = "") -> Iterator[str]:
        """Keys, and folders of keys, directly below `prefix` that end in `suffix`, sorted."""
        found = obstore.list_with_delimiter(self.bucket, prefix or None)
        keys = {meta["path"] for meta in found["objects"]} | {*found["common_prefixes"]}
        yield from sorted(key.rstrip("/") for key in keys if key.rstrip("/").endswith(suffix))

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of every object below `prefix`, by its key relative to that."""
        start = len(prefix) + 1 if prefix else 0
        return {
            meta["path"][start:]: meta["size"]
            for page in obstore.list(self.bucket, prefix or None)
            for meta in page
        }

    def holds(self, prefix: str, wanted: Mapping[str, int]) -> bool:
        """Whether all these objects are below `prefix`, each with so many bytes."""
        sizes = self.sizes(prefix)
        return all(sizes.get(name) == size for name, size in wanted.items())

    def marks(self, prefix: str) -> dict[str, Mark]:
        """Size and time of change of each block's receipt in a stage's folder."""
        found = {}
        for meta in obstore.list_with_delimiter(self.bucket, prefix)["objects"]:
            block, dot, rest = meta["path"].rsplit("/", 1)[-1].partition(".")
            if (dot, rest) == (".", "json"):
                found[block] = (meta["size"], int(meta["last_modified"].timestamp() * 1e9))
        return dict(sorted(found.items()))

    def delete(self, key: str) -> None:
        """Remove an object, or all below it; nothing happens where there is none."""
        below = [f"{key}/{name}" for name in self.sizes(key)]
        for part in (key, *below):
            try:
                obstore.delete(self.bucket, part)
            except FileNotFoundError:
                continue

    def write_tree(self, name: str, ending: str, files: Mapping[str, Any]) -> str:
        """Write some files under a folder of their own; without its receipt none of it counts.

        The folder's name is never used twice: a worker that was taken for dead may still be writing.
        """
        key = f"{name}-{secrets.token_hex(4)}{ending}"
        for relative, data in files.items():
            self.put(f"{key}/{relative}", data)
        return key

    def zarr(self, key: str) -> ZarrStore:
        """A folder for Zarr, to read."""
        return ObjectStore(connect(f"{self.url}/{key}"), read_only=True)

    def sweep(self) -> int:
        """Nothing is half written in an object store; what no receipt names, `bluemask prune` removes."""
        return 0


@contextmanager
def _told(url: str, key: str) -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        said = str(error).split("\n", 1)[0]
        raise StoreUnwritableError(
            f"{url}: {key} cannot be written ({said}); see that the server answers, then run the same command again"
        ) from error


# -- the writer's lease -----------------------------------------------------------------------------------


def _dead(text: bytes) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    try:
        known = json.loads(text)
        return bool(known.get("free")) or alive(known) is False
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return False


@contextmanager
def writer_lease(objects: RemoteObjects, lease: float = LEASE) -> Iterator[int]:
    """Hold the only writing place of a store in an object store; gives the holder's token.

    Made by a conditional create, renewed three times a lease, taken over by a conditional replacement where the
    holder showed no life for a whole lease, as seen by our own clock: no two clocks are ever compared.
    Raises StoreLockedError where another holds it.
    """
    since = now()
    token, text, tag = _take(objects, lease, since)
    ended = threading.Event()
    keeper = threading.Thread(
        target=_renew, args=(objects, (token, since), text, tag, lease, ended), daemon=True
    )
    keeper.start()
    try:
        yield token
    finally:
        ended.set()
        keeper.join(timeout=lease)
        _release(objects, token, since)


def _take(objects: RemoteObjects, lease: float, since: str) -> tuple[int, bytes, Tag]:
    _refuse_careless(objects)
    held, seen = objects.tagged(KEY)
    if held is not None and not _dead(held):
        _await(objects, held, seen, lease)
    token = next_token(held)
    text = _text(token, since)
    if not objects.swap(KEY, text, seen):
        raise StoreLockedError(sentence(objects.url, objects.get(KEY) or b""))
    return token, text, objects.tagged(KEY)[1]


def _text(token: int, since: str, *, free: bool = False) -> bytes:
    known = holder(token, since) | {"beat": secrets.token_hex(4), "free": free}
    return json.dumps(known).encode()


def _await(objects: RemoteObjects, held: bytes, seen: Tag, lease: float) -> None:
    """Watch a lock for a lease: one that moves is alive."""
    until = time.monotonic() + lease
    while time.monotonic() < until:
        time.sleep(min(0.5, lease / 10))
        if objects.tagged(KEY)[1] != seen:
            raise StoreLockedError(sentence(objects.url, held))


def _refuse_careless(objects: RemoteObjects) -> None:
    """A server that ignores conditions would let two writers in: it is found out before anything is written."""
    probe = f"probe-{secrets.token_hex(4)}"
    try:
        first, second = objects.create(probe, b"1"), objects.create(probe, b"2")
        if not first or second or objects.swap(probe, b"3", '"0"'):
            raise StoreUnwritableError(
                f"{objects.url}: the server ignores conditional writes (If-None-Match, If-Match), without which two "
                "runs could write at once; use a server that knows them"
            )
    finally:
        objects.delete(probe)


def _renew(
    objects: RemoteObjects,
    mine: tuple[int, str],
    text: bytes,
    tag: Tag,
    lease: float,
    ended: threading.Event,
) -> None:
    """Show life; whoever lost the lock finds out at its next commit. mine: token, and since when."""
    while not ended.wait(lease / 3):
        text = _text(*mine)
        try:
            if not objects.swap(KEY, text, tag) and token_of(objects.get(KEY)) != mine[0]:
                return  # a beat whose answer was lost is ours all the same
            tag = objects.tagged(KEY)[1]
        except (StoreUnwritableError, BaseError):
            continue  # the server is away: the next beat will tell


def _release(objects: RemoteObjects, token: int, since: str) -> None:
    """Free the place; the token stays, so that the next one is higher."""
    try:
        held, seen = objects.tagged(KEY)
        guard(objects, token)
        if held is not None:
            objects.swap(KEY, _text(token, since, free=True), seen)
    except (StoreLockedError, StoreUnwritableError, BaseError):
        return  # another has it, or the lease runs out by itself
