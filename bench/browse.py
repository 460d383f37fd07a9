"""How quick the pages are over a hundred thousand images: python -m bench.browse [--images 100000].

The store is simulated: a catalog of so many images, and receipts of all stages for all blocks, which share the
arrays of one block of random content; the figures are random, too. Everything else is the real thing: the
index, the pages, the pictures.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from flows.browse import load_small_sam, open_backend, open_index
from flows.config import build_config
from storage.arrays import ArraySpec
from storage.catalog import ImageRow, load, save
from storage.receipts import seal
from storage.store import Store
from tasks.registry import stages
from viewer import pages
from viewer.index import SORTS, Index, set_meta
from viewer.rows import take_catalog

BLOCK, CLASSES = 64, ("scratch", "dent", "rust", "rare")
PROMISES = {"first page": 0.2, "any page": 0.05, "thumbnail": 0.02}
"""Seconds."""
MEMORY = 500e6
"""Bytes."""
CLOCK = time.process_time if os.environ.get("BENCH_BUSY") else time.perf_counter
"""Time on the wall; with BENCH_BUSY=1 the processor's alone, for a machine that has other work besides."""
SIZES = {"slot": 1, "class": len(CLASSES), "view": 8, "channel": 3, "extent": 2, "byte": 32, "measure": 2}
QUERIES: dict[str, dict[str, str]] = {f"sort by {name}": {"sort": name} for name in SORTS} | {
    "half of all, by class": {"label": "scratch"},
    "ten images, by class": {"label": "rare"},
    "name: all": {"name": ".png"},
    "name: one": {"name": "0054321"},
    "name: none": {"name": "nothing like it"},
    "name: two letters": {"name": "99"},
    "reviewed": {"review": "any"},
    "changed, by entropy": {"changed": "1", "sort": "entropy"},
    "P1 and P2 split": {"split": "1"},
    "Label contradicted": {"contradicted": "1"},
    "failed: none": {"state": "failed"},
    "class and reviewed": {"label": "dent", "review": "accept"},
}
"""Filters that find much, little and nothing."""


def simulate(root: Path, images: int, side: int) -> Store:
    """Catalog, one block of arrays of `side` pixels, and receipts for all blocks."""
    store = Store(root)
    rng = np.random.default_rng(0)
    store.add_classes(CLASSES)
    drawn = rng.choice(len(CLASSES), images, p=[0.5, 0.3, 0.1999, 0.0001])
    rows = [_row(n, CLASSES[k], side) for n, k in enumerate(drawn.tolist())]
    save(store, rows)
    config = build_config({"data": {"folder": "/nowhere"}, "store": str(root)}, "bench")
    store.objects.put("config.yaml", yaml.safe_dump(config.model_dump(mode="json")).encode())
    _receipts(store, sorted({row.block for row in rows}), side, rng)
    return store


def _row(n: int, name: str, side: int) -> ImageRow:
    return ImageRow(
        id=n, path=f"line {n % 9}/{name}/{n:07d}.png", sha256=f"{n:064x}", width=side, height=side, labels=(name,),
        annotation="", block=f"b{n // BLOCK:06d}", status="active", why="", bytes=1, modified=1,
    )  # fmt: skip


def _receipts(store: Store, blocks: list[str], side: int, rng: np.random.Generator) -> None:
    """Arrays of the stages that a page of many images reads, and a receipt a block of every stage."""
    sizes = SIZES | {"image": BLOCK, "y": side, "x": side}
    for stage in stages():
        real = stage.name in ("ingest", "fuse")  # a thumbnail needs no more
        values = {
            spec.name: _drawn(spec, tuple(sizes.get(d, 4) if real else 1 for d in spec.dims), rng)
            for spec in stage.writes
        }
        made = store.commit(stage.name, blocks[0], "simulated", stage.writes, values, reasons={}, attributes={},
                            failed={}, seconds=1.0)  # fmt: skip
        for n, block in enumerate(blocks):
            copy = made.model_copy(update={"block": block, "fingerprint": f"{n:032x}"})
            (store.root / "receipts" / stage.name / f"{block}.json").write_bytes(seal(copy))


def _drawn(spec: ArraySpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Random values in squares of 16 pixels; a label map is a few pieces of one class on background."""
    if spec.kind == "label map":
        label = np.zeros(shape, np.uint8)
        for n, top in itertools.product(range(shape[0]), rng.integers(0, max(1, shape[1] - 90), 5)):
            label[n, top : top + 80, top // 2 : top // 2 + 60] = 1
        return label
    dtype = spec.dtype
    coarse = tuple(-(-n // 16) if n > 64 else n for n in shape)
    values: np.ndarray = (
        rng.integers(0, 4, coarse) if np.dtype(dtype).kind in "ui" else rng.random(coarse, np.float32)
    )
    for axis, n in enumerate(shape):
        values = np.repeat(values, 16, axis)[(slice(None),) * axis + (slice(n),)] if n > 64 else values
    return (values > 0.5 if dtype == "bool" else values).astype(dtype)


def simulate_figures(index: Index, images: int) -> None:
    """Figures of every image: to read them from arrays is done once, when a block is made."""
    figures = np.random.default_rng(1).random((images, 5))
    with index.writing() as db:
        db.executemany(
            "UPDATE image SET doubt=?, entropy=?, disagreement=?, empty=?, unsure=?, state='labelled', "
            "made='2026-01-01T00:00:00', content=printf('%032x', id) WHERE id=?",
            [(*row, n) for n, row in enumerate(figures.tolist())],
        )
        some = [(n,) for n in range(0, images, 977)]
        db.executemany("UPDATE image SET review='accept', changed=1, contradicted=1 WHERE id=?", some)


def best(ask: Callable[[], object], times: int = 5) -> float:
    """Seconds of the quickest of some calls."""
    found = []
    for _ in range(times):
        started = CLOCK()
        ask()
        found.append(CLOCK() - started)
    return min(found)


def measure(index: Index, images: int) -> dict[str, float]:
    """Seconds of every query's first page, and of one deep inside."""
    times = {}
    for name, given in QUERIES.items():
        times[name] = best(partial(overview, index, given))
        column = SORTS[pages.query_of(given).sort]
        sql = f"SELECT id FROM image ORDER BY {column} LIMIT 1 OFFSET ?"
        deep = str(index.connection().execute(sql, (images * 6 // 10,)).fetchone()[0])
        times[f"{name}, deep"] = best(partial(overview, index, {**given, "after": deep}))
    return times


def overview(index: Index, given: dict[str, str]) -> str:
    """A page as the server makes it."""
    pulse: dict[str, Any] = {"count": 1, "doing": "", "stages": []}
    return pages.overview("bench", index, pulse, given)


def main() -> int:
    """Make the store and its index, measure in a process of its own, and say whether every promise is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=1024, help="of an image, in pixels")
    parser.add_argument("--measure", type=Path, help="only measure, in this store")
    given = parser.parse_args()
    if given.measure:
        return report(given.measure, given.images)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        store = simulate(root, given.images, given.side)
        _index(store, given.images)
        command = [
            sys.executable,
            "-m",
            "bench.browse",
            "--images",
            str(given.images),
            "--measure",
            str(root),
        ]
        return subprocess.run(command, cwd=ROOT, check=False).returncode


def _index(store: Store, images: int) -> None:
    """The index as it is after the first look; the state of the blocks is the plan's affair, not measured here."""
    index = open_index(store.root)
    backend = open_backend(store.root, index, None)
    started = time.perf_counter()
    take_catalog(index, load(store))
    print(f"index of {images} images in {time.perf_counter() - started:.1f} s", flush=True)
    simulate_figures(index, images)
    backend.refresher._count()
    with index.writing() as db:
        set_meta(db, {"seen": backend.refresher._look()})


def report(root: Path, images: int) -> int:
    """Print the figures. Returns 1 where a promise is broken, else 0."""
    started = CLOCK()
    index = open_index(root)
    overview(index, {})
    times = {"first page": CLOCK() - started}
    backend = open_backend(root, index, None)
    backend.refresher.run()
    times |= measure(index, images)
    backend.thumbnail(0)
    times["thumbnail"] = best(lambda: backend.thumbnail(images // 2))
    broken = 0
    for name, seconds in times.items():
        allowed = PROMISES.get(name, PROMISES["any page"])
        broken += seconds > allowed
        print(
            f"{name:28} {1000 * seconds:8.1f} ms" + f"  MORE THAN {1000 * allowed:.0f}" * (seconds > allowed)
        )
    before, _ = _memory()
    load_small_sam(backend.store)
    own, shared = _memory()
    print(
        f"memory {own / 1e6:.0f} MB of its own"
        + "  MORE THAN 500" * (own > MEMORY)
        + f" ({before / 1e6:.0f} before SAM was loaded for the editor), {shared / 1e6:.0f} of mapped libraries"
    )
    return int(broken > 0 or own > MEMORY)


def _memory() -> tuple[float, float]:
    """Bytes that this process holds now: its own, and files mapped into it, which are the system's cache."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, shared = (1024.0 * int(status[name].split()[0]) for name in ("RssAnon", "RssFile"))
    return own, shared


if __name__ == "__main__":
    raise SystemExit(main())
