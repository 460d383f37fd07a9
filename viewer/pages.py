"""The pages as HTML: what they show is gathered here, how it looks is in the templates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from viewer import style
from viewer.index import NO_DEFECT, REVIEWS, SORTS, STATES, Index, Page, Query
from viewer.trainings import PICTURES, Training
from viewer.words import so_many

SIZE = 60
"""Images a page."""
BINS = 96
"""Most columns of the heat map: beyond, a column stands for several blocks."""
SORT_TITLES = {
    "doubt": "Most doubtful first",
    "entropy": "Views disagree (entropy)",
    "disagreement": "P1 and P2 disagree",
    "empty": "Missing from P",
    "unsure": "Lowest confidence",
    "name": "Name",
}
STATE_TITLES = {
    "labelled": "Labelled",
    "stale": "To be made anew",
    "failed": "Failed",
    "waiting": "No label yet",
    "quarantined": "Quarantined",
    "retired": "Retired",
}
REVIEW_TITLES = {
    "none": "Not reviewed",
    "accept": "Accepted",
    "reject": "Rejected",
    "correct": "Needs correction",
    "again": "Look again",
    "corrected": "Corrected by hand",
    "any": "Reviewed",
}
WORST = ("failed", "missing", "stale", "fresh")


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader,
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        sort_titles=SORT_TITLES, state_titles=STATE_TITLES, review_titles=REVIEW_TITLES, states=style.STATES,
        version=_asset_version(),
    )  # fmt: skip
    environment.filters["many"] = so_many
    environment.filters["share"] = lambda value: f"{100 * value:.0f} %"
    return environment


def _asset_version() -> str:
    """Changes with the pages' own files, so that no browser keeps an old one."""
    return str(max(path.stat().st_mtime_ns for path in (Path(__file__).parent / "static").iterdir()))[-10:]


def render(name: str, **values: Any) -> str:
    """A template with its values; what comes from files and names is escaped."""
    return _environment().get_template(name).render(**values)


def fault(status: int, text: str) -> str:
    """A page that says in a sentence what went wrong."""
    return render("fault.html", title="bluemask", status=status, text=text)


def query_of(given: Mapping[str, str]) -> Query:
    """The overview's query from an address; raises ValueError for values that no page can show."""
    known = {
        name: given[name][:300] for name in ("sort", "name", "label", "state", "review") if given.get(name)
    }
    flags = {name: given.get(name) == "1" for name in ("split", "changed", "contradicted")}
    return Query(**known, **flags)  # type: ignore[arg-type]


def _number(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 11 else None


def overview(title: str, index: Index, pulse: Mapping[str, Any], given: Mapping[str, str]) -> str:
    """The grid of images with its filters."""
    query = query_of(given)
    total, classes = index.count(query), index.meta("classes") or []
    page = Page([], before=False, after=False)
    if total:
        page = index.page(query, size=SIZE, after=_number(given, "after"), before=_number(given, "before"))
    return render(
        "overview.html",
        title=title,
        query=query,
        page=page,
        pulse=pulse,
        total=total,
        facets=_facets(index, query),
        cards=[_card(row, query, classes) for row in page.rows],
        address=lambda **change: address(query, **change),
        no_defect=NO_DEFECT,
    )


def address(query: Query, path: str = "/", **change: Any) -> str:
    """The address of a page with a changed query; what is no part of the query is appended."""
    own = {name: value for name, value in change.items() if name in Query.__dataclass_fields__}
    rest = {name: value for name, value in change.items() if name not in own and value is not None}
    words = urlencode({**replace(query, **own).parameters(), **rest})
    return f"{path}?{words}" if words else path


def _facets(index: Index, query: Query) -> dict[str, Any]:
    """Every filter with the number of images that it finds in the whole store."""
    counts, classes = index.meta("class counts") or {}, index.meta("classes") or []
    states, reviews = index.meta("states") or {}, dict(index.meta("reviews") or {})
    reviews |= {
        "corrected": index.meta("corrected") or 0,
        "any": sum(n for name, n in reviews.items() if name != "none"),
    }
    names = [*classes, *([NO_DEFECT] if NO_DEFECT in counts else [])]
    return {
        "classes": [
            {"name": name, "index": k, "count": counts.get(name, [0, 0, 0])[0]}
            for k, name in enumerate(names, start=1)
        ],
        "states": [(name, states.get(name, 0)) for name in STATES if states.get(name) or query.state == name],
        "reviews": [
            (name, reviews.get(name, 0)) for name in REVIEWS if reviews.get(name) or query.review == name
        ],
        "split": index.meta("split") or 0,
        "changed": index.meta("changed") or 0,
        "contradicted": index.meta("contradicted") or 0,
        "sorts": list(SORTS),
    }


def _card(row: dict[str, Any], query: Query, classes: list[str]) -> dict[str, Any]:
    figure = query.sort if query.sort != "name" else "doubt"
    content = row["mask"] or row["content"]
    return {
        **told(row, classes),
        "thumb": f"/thumb/{row['id']}.jpg" + (f"?v={content[:16]}" if content else ""),
        "link": address(query, f"/image/{row['id']}"),
        "figure": row[figure],
        "known": row[figure] >= 0,
        "chips": [(name, classes.index(name) + 1 if name in classes else 0) for name in row["labels"]],
        "alt": f"{row['path']}, {', '.join(row['labels']) or 'no defect'}",
    }


def told(row: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    """A row with the names of what its label and the classifier say, None where they do not contradict each other."""
    names = ["no defect", *classes]
    found = {name: None if row[name] is None else names[row[name]] for name in ("given", "said")}
    return {**row, "given_name": found["given"], "said_name": found["said"]}


def image(
    title: str,
    index: Index,
    row: dict[str, Any],
    data: dict[str, Any],
    pulse: Mapping[str, Any],
    given: Mapping[str, str],
) -> str:
    """One image's way through the method; pulse: tells whether a run is under way that may label it."""
    query = query_of(given)
    previous, following = index.neighbours(query, row["id"])
    classes = index.meta("classes") or []
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for panel in data["panels"]:
        groups[panel["group"]].append(panel)
    total = max(1, row["width"] * row["height"])
    return render(
        "image.html",
        title=title,
        row=told(row, classes),
        data=data,
        pulse=pulse,
        groups=groups,
        classes=classes,
        area=[(k, classes[k - 1], n / total) for k, n in sorted(row["area"].items()) if k <= len(classes)],
        previous=None if previous is None else address(query, f"/image/{previous}"),
        following=None if following is None else address(query, f"/image/{following}"),
        marked=sorted(
            {mark["class"] for marks in data.get("marks", {}).values() for mark in marks}, reverse=True
        ),
        back=address(query),
        chips=[(name, classes.index(name) + 1 if name in classes else 0) for name in row["labels"]],
        script={**data, "classes": classes, "colours": [style.colour(k + 1) for k in range(len(classes))]},
    )


def run(
    title: str,
    index: Index,
    pulse: Mapping[str, Any],
    facts: Mapping[str, str],
    trainings: Sequence[Training] = (),
) -> str:
    """How the store stands: stage × blocks, times, trainings, nights, and what could not be read."""
    blocks = index.blocks()
    stages = list(dict.fromkeys(pulse.get("stages") or [item["stage"] for item in blocks]))
    return render(
        "run.html",
        title=title,
        facts=facts,
        pulse=pulse,
        heat=heat_map(blocks, stages),
        times=times(blocks, stages, trainings),
        trainings=[training for training in trainings if training.pictures],
        shown=PICTURES,
        failures=[item for item in blocks if item["state"] == "failed"][:50],
        nights=nights(index),
        classes=index.meta("classes") or [],
        quarantined=index.page(Query(state="quarantined", sort="name"), size=100),
        quarantine_count=(index.meta("states") or {}).get("quarantined", 0),
    )


def heat_map(blocks: list[dict[str, Any]], stages: list[str]) -> dict[str, Any]:
    """Stage × blocks in at most BINS columns; a cell of several blocks has the state of its worst."""
    names = sorted({item["block"] for item in blocks})
    step = max(1, -(-len(names) // BINS))
    bins = [names[n : n + step] for n in range(0, len(names), step)]
    known = {(item["stage"], item["block"]): item for item in blocks}
    rows = []
    for stage in stages:
        cells = [[known[stage, block] for block in part if (stage, block) in known] for part in bins]
        rows.append((stage, [_cell(part, found) for part, found in zip(bins, cells, strict=True)]))
    return {"rows": rows, "blocks": len(names), "step": step}


def _cell(names: list[str], found: list[dict[str, Any]]) -> dict[str, Any]:
    where = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    states = [item["state"] for item in found] or ["missing"]
    worst = next(state for state in WORST if state in states)
    why = next((item["why"] for item in found if item["state"] == worst and item["why"]), "")
    seconds = sum(item["seconds"] for item in found)
    return {"state": worst, "text": f"{where}: {style.STATES[worst][1]}" + (f" ({why})" if why else ""),
            "seconds": seconds}  # fmt: skip


def times(
    blocks: list[dict[str, Any]], stages: list[str], trainings: Sequence[Training] = ()
) -> list[dict[str, Any]]:
    """A row a stage: seconds that its present arrays took, images, the share of the longest, when last made.

    Before it a row for the network that it needs, with what the last training took. A training goes through its images again
    and again: it has no rate.
    """
    rows: list[dict[str, Any]] = []
    for stage in stages:
        for training in trainings:
            if training.before == stage and training.made:
                about = {"seconds": training.seconds, "images": training.images, "made": training.made}
                rows.append({"stage": training.name, "rate": None, **about})
        own = [item for item in blocks if item["stage"] == stage]
        seconds, images = sum(item["seconds"] for item in own), sum(item["images"] for item in own)
        made = max((item["made"] for item in own), default="")
        rate = images / seconds if seconds > 0 else None
        rows.append({"stage": stage, "rate": rate, "seconds": seconds, "images": images, "made": made})
    longest = max((row["seconds"] for row in rows), default=0) or 1
    return [{**row, "share": row["seconds"] / longest} for row in rows]


def nights(index: Index) -> list[dict[str, Any]]:
    """Labels by the day on which they were made, newest first: how the figures drift."""
    sql = (
        "SELECT substr(made, 1, 10) AS night, count(*) AS images, avg(entropy) AS entropy, avg(unsure) AS unsure, "
        "avg(disagreement) AS disagreement, sum(changed) AS changed FROM image WHERE active AND made != '' "
        "GROUP BY night ORDER BY night DESC LIMIT 14"
    )
    found = [dict(row) for row in index.connection().execute(sql)]
    areas = (
        "SELECT substr(made, 1, 10) AS night, j.key AS class, sum(j.value) * 1.0 / (SELECT sum(width * height) FROM image i2 "
        "WHERE i2.active AND substr(i2.made, 1, 10) = substr(image.made, 1, 10)) AS share FROM image JOIN detail USING (id), "
        "json_each(detail.area) AS j WHERE active AND made != '' GROUP BY night, class"
    )
    share: dict[str, dict[int, float]] = defaultdict(dict)
    for row in index.connection().execute(areas):
        share[row["night"]][int(row["class"])] = row["share"]
    return [{**row, "share": share[row["night"]]} for row in found]
