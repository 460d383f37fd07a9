"""The table of stages and arrays in docs/store.md, derived from the declarations: python -m tasks.document."""

from __future__ import annotations

from pathlib import Path

from storage.arrays import ArraySpec
from tasks.registry import stages

PAGE = Path(__file__).resolve().parent.parent / "docs" / "store.md"
BEGIN, END = "<!-- stages: made by `make docs` -->", "<!-- end of stages -->"


def _array_row(spec: ArraySpec) -> str:
    fill = "NaN" if spec.fill != spec.fill else f"{spec.fill:g}"
    units = f" ({spec.units})" if spec.units else ""
    return f"| `{spec.name}` | {' × '.join(spec.dims)} | {spec.dtype} | {spec.kind} | {fill} | {spec.description}{units} |"


def stage_tables() -> str:
    """Markdown: a paragraph and a table for every stage, in the order in which they run."""
    parts = []
    for stage in stages():
        reads = ", ".join(f"`{name}`" for name in stage.inputs) or "the user's files"
        config = ", ".join(f"`{name}`" for name in stage.config) or "nothing"
        facts = "".join(f", `{name}`" for name in stage.facts)
        model = f" Network: {stage.model}." if stage.model else ""
        parts += [
            f"### {stage.name}\n",
            f"{stage.summary[0].upper()}{stage.summary[1:].rstrip('.')}.",
            f"Reads {reads}; config: {config}{facts}; version {stage.version}.{model}\n",
            "| array | axes | dtype | kind | fill | what it is |",
            "| --- | --- | --- | --- | --- | --- |",
            *(_array_row(spec) for spec in stage.writes),
            "",
        ]
    return "\n".join(parts)


def with_tables(page: str) -> str:
    """The page with the part between the two marks made anew. Raises ValueError where a mark is missing."""
    if BEGIN not in page or END not in page:
        raise ValueError(f"{PAGE} lacks the mark {BEGIN!r} or {END!r}; put both back")
    head, rest = page.split(BEGIN, 1)
    return f"{head}{BEGIN}\n\n{stage_tables()}\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    """Rewrite docs/store.md."""
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
