"""What a night leaves: its figures, their drift against the last night, alerts, a report, Prefect artifacts."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

import numpy as np

from flows import figures
from flows.config import AlertConfig
from flows.outcome import Summary
from flows.plan import Plan, digest_of
from flows.steps import Run
from storage.arrays import content_digest
from storage.receipts import now
from storage.reviews import Reviews
from storage.store import Store
from tasks.doubt import contradiction_of
from tasks.registry import stage, writer

LAST = "nights/last.json"
"""The figures of the last night that was closed."""


@dataclass
class Night:
    """A night in figures."""

    images: int
    quarantined: int
    """Images that could not be read, when they were looked at or later, or whose marks do not fit."""
    shares: dict[str, float]
    """Share of the pixels of all images that P gives to each class."""
    entropy: float
    """Mean entropy over all images, in bits."""
    changed: int = 0
    """Images that were there before and have another label map now."""
    compared: int = 0
    """Images that were there before."""
    drift: dict[str, float] = field(default_factory=dict)
    """Relative change of each class's share since the last night."""
    entropy_drift: float = 0.0
    """Change of the mean entropy, in bits."""
    contradictions: int = 0
    """Images whose label the classifier contradicts, or did before it learned from that label, as long as nobody has judged it."""
    contradicted: list[str] = field(default_factory=list)
    """The flattest of these, in words."""


def close_night(run: Run, before: Mapping[str, str]) -> Summary:
    """Close a run: its summary, and, where its labels changed or an alert rule holds, what the night leaves.

    before: content digests of P by block, as they were at its start.
    """
    summary = run.close()
    store, config = run.store, run.config
    moved = any(vars(summary.catalogue.changes).values())  # what was removed is told no more
    idle = summary.idle and not moved and run.digests("fuse") == before
    if not idle or store.objects.get(LAST) is None:
        night = take_stock(store, run.plan, summary)
        summary.alerts += alerts(night, config.alerts)
        record = write_report(store, summary, night)
    else:
        known = store.read_json(LAST)
        night = Night(
            **known["night"] | {"quarantined": len(summary.quarantined) + len(summary.failed_images)}
        )
        night.drift, night.entropy_drift, night.changed = {}, 0.0, 0
        summary.alerts += alerts(night, config.alerts)
        record = known["report"]
    if not idle and store.local:
        from flows.report import report_of_run  # the browser page's libraries are loaded where there is work

        summary.notes.append(report_of_run(store.root))
        if run.plan.receipts["fuse"]:
            root = quote(str(store.root))
            summary.notes.append(
                f"next: `bluemask browse {root}` shows the labels to doubt first, "
                f"`bluemask export {root} FOLDER` writes them for a training"
            )
    summary.contradictions, summary.contradicted = night.contradictions, night.contradicted
    summary.changed, summary.compared = night.changed, night.compared
    if _in_a_flow():
        leave_artifacts(store, summary, night, record)
    return summary


def _in_a_flow() -> bool:
    """Whether Prefect runs us; it is not loaded to find out."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


# -- figures ----------------------------------------------------------------------------------------------


def take_stock(store: Store, plan: Plan, summary: Summary) -> Night:
    """Figures of every labelled image, read anew only where the label is; compared with the last night's."""
    old = {(row["id"], row["sha256"]): row for row in figures.load(store)}
    rows = [row for block in plan.blocks for row in _of_block(store, plan, block, old)]
    figures.settle(rows, Reviews(store))
    figures.save(store, rows)
    last = (store.read_json(LAST) or {}).get("night")
    night = _sum(rows, plan.classes, len(summary.quarantined) + len(summary.failed_images))
    contradicted = [row for row in rows if row["contradiction"]]
    night.contradictions, night.contradicted = len(contradicted), figures.in_words(contradicted, plan)
    both = [(old[key], row) for row in rows if (key := (row["id"], row["sha256"])) in old]
    night.compared, night.changed = len(both), sum(a["label"] != b["label"] for a, b in both)
    if last is not None:
        night.drift = {
            name: share / last["shares"][name] - 1
            for name, share in night.shares.items()
            if last["shares"].get(name)
        }
        night.entropy_drift = night.entropy - last["entropy"]
    return night


def _of_block(
    store: Store, plan: Plan, block: str, old: Mapping[tuple[int, str], Any]
) -> Iterable[dict[str, Any]]:
    """One row per live image of a block; what could not be done this night keeps what the last one said of it."""
    active = [(n, row) for n, row in enumerate(plan.blocks[block]) if row.status == "active"]
    if not plan.fresh(stage("fuse"), block):
        yield from (old[row.id, row.sha256] for _, row in active if (row.id, row.sha256) in old)
        return
    made = digest_of(
        [
            plan.receipts["fuse"][block].arrays["p"].digest,
            plan.receipts["ensemble"][block].fingerprint,
            plan.receipts["cam"][block].arrays["score"].digest,
        ]
    )
    failed = plan.receipts["ingest"][block].failed
    yield from (
        old[row.id, row.sha256] for _, row in active if row.id in failed and (row.id, row.sha256) in old
    )
    live = [(n, row) for n, row in active if row.id not in failed]
    known = [old.get((row.id, row.sha256)) for _, row in live]
    if all(item is not None and item["made"] == made for item in known):
        yield from (item for item in known if item is not None)
        return
    arrays = {
        name: _read(store, plan, name, block) for name in ("p", "entropy", "size", "slot_class", "score")
    }
    for n, row in live:
        height, width = arrays["size"][n]
        label, entropy = arrays["p"][n, :height, :width], arrays["entropy"][n, :, :height, :width]
        counts = np.bincount(label.ravel(), minlength=256)
        found = contradiction_of(arrays["slot_class"][n], arrays["score"][n])
        yield {
            "id": row.id,
            "sha256": row.sha256,
            "made": made,
            "label": content_digest(np.ascontiguousarray(label)),
            "pixels": int(label.size),
            "counts": counts[: len(plan.classes) + 1].tolist(),
            "entropy": float(entropy.mean(dtype=np.float64)) if entropy.size else 0.0,
            "contradiction": figures.still(old.get((row.id, row.sha256)), arrays["slot_class"][n])
            if found is None
            else vars(found) | {"earlier": False},
        }


def _read(store: Store, plan: Plan, name: str, block: str) -> np.ndarray:
    return store.read(plan.receipts[writer(name).name][block], name)


def _sum(rows: list[dict[str, Any]], classes: list[str], quarantined: int) -> Night:
    pixels = sum(row["pixels"] for row in rows) or 1
    shares = {
        name: sum(row["counts"][k] for row in rows if k < len(row["counts"])) / pixels
        for k, name in enumerate(classes, start=1)
    }
    entropy = sum(row["entropy"] for row in rows) / max(1, len(rows))
    return Night(len(rows), quarantined, shares, entropy)


# -- alerts -----------------------------------------------------------------------------------------------


def alerts(night: Night, rules: AlertConfig) -> list[str]:
    """The rules that are broken, a sentence each."""
    found = []
    share = night.quarantined / max(1, night.images + night.quarantined)
    if rules.quarantined is not None and share > rules.quarantined:
        found.append(
            f"{share:.1%} of the images could not be read or bear marks that do not fit, more than alerts.quarantined = {rules.quarantined:g}"
        )
    for name, change in night.drift.items():
        if rules.drift is not None and abs(change) > rules.drift:
            found.append(
                f"share of {name!r} pixels moved by {change:+.0%}, more than alerts.drift = {rules.drift:g}"
            )
    if rules.entropy is not None and night.entropy_drift > rules.entropy:
        found.append(
            f"mean entropy rose by {night.entropy_drift:.3f} bits, more than alerts.entropy = {rules.entropy:g}"
        )
    changed = night.changed / max(1, night.compared)
    if rules.changed is not None and changed > rules.changed:
        found.append(f"{changed:.0%} of the label maps changed, more than alerts.changed = {rules.changed:g}")
    return found


# -- what people read -------------------------------------------------------------------------------------


def table(summary: Summary, night: Night) -> list[dict[str, str]]:
    """The night as rows of a name and a value."""
    changes = summary.catalogue.changes
    redone = max(
        (count for name, count in summary.images.items() if not name.startswith("train_")), default=0
    )
    rows: dict[str, Any] = {
        "images": night.images,
        "new": len(changes.new),
        "changed": len(changes.changed),
        "moved": len(changes.moved),
        "relabelled": len(changes.relabelled),
        "removed": len(changes.removed),
        "redone": redone,
        "failed": len(summary.failures) + len(summary.failed_images),
        "quarantined": len(summary.quarantined),
    }
    rows |= {f"minutes {name}": f"{seconds / 60:.2f}" for name, seconds in summary.seconds.items()}
    for name, share in night.shares.items():
        drift = f" ({night.drift[name]:+.1%})" if name in night.drift else ""
        rows[f"{name} pixels"] = f"{share:.3%}{drift}"
    rows["mean entropy (bit)"] = f"{night.entropy:.4f} ({night.entropy_drift:+.4f})"
    rows["labels contradicted"] = night.contradictions
    rows["label maps changed"] = f"{night.changed} of {night.compared}"
    rows |= {f"alert {n}": text for n, text in enumerate(summary.alerts, start=1)}
    return [{"what": name, "value": str(value)} for name, value in rows.items()]


def write_report(store: Store, summary: Summary, night: Night) -> str:
    """Write the night's report, a page that needs nothing else, and its figures; gives its key."""
    made = now()
    key = f"nights/{made.replace(':', '').replace('+0000', 'Z')}.html"
    cells = "".join(
        f"<tr><th>{html.escape(row['what'])}</th><td>{html.escape(row['value'])}</td></tr>"
        for row in table(summary, night)
    )
    faults = summary.failures | summary.failed_images | {row.path: row.why for row in summary.quarantined}
    listed = "".join(f"<li><b>{html.escape(k)}</b> {html.escape(v)}</li>" for k, v in faults.items())
    page = (
        f"<!doctype html><meta charset=utf-8><title>bluemask {made}</title><style>body{{font:15px sans-serif;"
        "margin:2em}th{text-align:left;padding-right:2em}</style>"
        f"<h1>{html.escape(store.name)}</h1><p>{made}</p><table>{cells}</table><ul>{listed}</ul>"
    )
    store.put(key, page.encode())
    store.write_json(LAST, {"made": made, "report": key, "night": vars(night)})
    return key


def leave_artifacts(store: Store, summary: Summary, night: Night, report: str) -> None:
    """The table, and a link to the report, beside the flow run."""
    from prefect.artifacts import create_link_artifact, create_table_artifact

    create_table_artifact(
        table=table(summary, night),
        key="bluemask-night",
        description=f"{store.name}: what changed and how it went",
    )
    link = (store.root / "report.html").resolve().as_uri() if store.local else f"{store.name}/{report}"
    create_link_artifact(link=link, link_text="report of this night", key="bluemask-report")
