"""What `bench.quality` runs, and the rows of its tables: every row with the sentence that explains it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flows.config import Config

Kind = Literal["run", "ceiling", "withheld"]
Changes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """One way to make the labels of a set.

    changes: to the set's config, by section; kind: a run of the pipeline, or what is trained beside the run `full`.
    vit: the variant whose trained ViT it takes, its own name for one of its own. group: for choosing it.
    """

    name: str
    says: str
    changes: Changes = field(default_factory=dict)
    kind: Kind = "run"
    vit: str = "full"
    group: str = "paper"

    @property
    def needs(self) -> tuple[str, ...]:
        """Variants that must be done before."""
        base = "full" if self.kind != "run" else self.vit
        return () if base == self.name else (base,)

    def missing(self) -> str | None:
        """The key that this version's config does not have, if any: a switch that is yet to come."""
        for section, values in self.changes.items():
            if section not in Config.model_fields:
                return section
            known = getattr(Config.model_fields[section].annotation, "model_fields", {})
            for key in values:
                if key not in known:
                    return f"{section}.{key}"
        return None


def _switch(name: str, says: str, vit: str = "full", **changes: dict[str, Any]) -> Variant:
    return Variant(name, says, changes, vit=vit, group="refinements")


VARIANTS: tuple[Variant, ...] = (
    # runs that share their views stand together, so that SAM's encoder is run once for all of them
    Variant("plain", "no Class Token Contrast", {"train_vit": {"contrast": 0.0}}, vit="plain"),
    _switch("no-objectness", "the ViT is not told by the embedded start where evidence may lie", "no-objectness",
            train_vit={"objectness": False}),
    _switch("no-distil", "the patch map does not learn from objectness", "no-distil", train_vit={"distil": 0.0}),
    Variant("full", "the set's config as it is: CTC, all views, no masks"),
    Variant("ceiling", "the same fusion networks taught by masks, 5-fold, nothing held back from them", kind="ceiling",
            group="references"),
    Variant("withheld", "two ViTs, each trained without the images that it scores", kind="withheld",
            group="references"),
    _switch("one-scale", "the CAM from one scale", cam={"scales": [1.0]}),
    _switch("no-mirror", "the CAM without the mirrored image", cam={"flip": False}),
    _switch("boxes", "SAM is given the piece's box too", mask={"boxes": True}),
    _switch("dense", "SAM is given the CAM as a soft mask too", mask={"dense": True}),
    _switch("single-mask", "SAM's single mask instead of a choice of three", mask={"multimask": False}),
    _switch("no-robbing", "the fusion network always sees CAM, mean and entropy in training",
            train_fusion={"drop_cam": 0.0, "drop_sam": 0.0, "drop_all": 0.0}),
    _switch("no-consistency", "fusion is not asked for views that agree", train_fusion={"consistency": 0.0}),
    _switch("one-look", "fusion looks at the image once instead of four times mirrored", fuse={"views": 1}),
    _switch("no-guide", "P's outlines do not follow the image's edges", fuse={"guide": False}),
    _switch("affinity", "patch-to-patch affinity spreads the CAM", cam={"affinity": True}),
    _switch("attention", "class-to-patch attention is fused with the CAM", cam={"attention": True}),
    _switch("adaptive", "the CAM is refined by the pixels' own colours", cam={"adaptive": True}),
    Variant("points", "annotation: SAM is asked by one random interior point of each piece, drawn from the masks",
            group="annotation"),
    Variant("flips", "views that mirror and turn, all at scale 1",
            {"augment": {"views": 8, "flips": True, "turns": True, "scales": [1]}}),
    Variant("scales", "views at scales 0.5, 1 and 2, none mirrored or turned",
            {"augment": {"views": 6, "flips": False, "turns": False, "scales": [0.5, 1, 2]}}),
    _switch("resize", "the paper's scales to the letter, which SAM's own resize undoes",
            augment={"views": 8, "scales": [0.5, 1, 2], "scale_mode": "resize"}),
)  # fmt: skip
"""In the order in which they are run."""
BY_NAME = {variant.name: variant for variant in VARIANTS}
GROUPS = tuple(dict.fromkeys(variant.group for variant in VARIANTS))
USUAL = ("paper", "annotation", "references")
"""Groups that are run where none is named."""


@dataclass(frozen=True)
class Line:
    """One line of a table: a label map of a variant. part: of the page; label: P1°, P2° and so on."""

    part: str
    title: str
    variant: str
    label: str
    says: str


def _branches(part: str, title: str, variant: str, says: str) -> list[Line]:
    return [Line(part, f"{title}: {label}", variant, label, says) for label in ("P1°", "P2°", "P")]


REFERENCES = [
    Line("references", "all background", "full", "all 0", "no defect anywhere"),
    Line("references", "Otsu", "full", "Otsu", "one threshold an image, the smaller side is the class of its label"),
    Line("references", "ceiling", "ceiling", "P", BY_NAME["ceiling"].says),
]  # fmt: skip
PAPER = [
    Line("table 3", "M1", "plain", "P1°", "the ViT's CAM without CTC, no SAM"),
    Line("table 3", "M1 + CTC", "full", "P1°", "the ViT's CAM with CTC, no SAM"),
    Line("table 3", "M1 + SAM", "plain", "P", "fusion of the CAM without CTC and SAM over all views"),
    Line("table 3", "M1 + CTC + SAM", "full", "P", "the whole method"),
    Line("table 2", "no SAM", "full", "P1°", "the CAM with CTC alone"),
    Line("table 2", "flips", "flips", "P", BY_NAME["flips"].says),
    Line("table 2", "scales", "scales", "P", BY_NAME["scales"].says),
    Line("table 2", "all views", "full", "P", "the set's own views: mirrors, turns and scales"),
    Line("table 2, P2° alone", "flips", "flips", "P2°", "the majority of the views, before fusion"),
    Line("table 2, P2° alone", "scales", "scales", "P2°", "the majority of the views, before fusion"),
    Line("table 2, P2° alone", "all views", "full", "P2°", "the majority of the views, before fusion"),
    Line("branches", "P1", "full", "P1", "the CAM, 255 (counted as wrong) between L and H"),
    Line("branches", "P1°", "full", "P1°", "the CAM from (L + H) / 2 on"),
    Line("branches", "P1°, other threshold", "full", "picked",
         "the CAM from the threshold that is best on one half of the images, scored on the other half, both ways"),
    Line("branches", "P2", "full", "P2", "SAM's views, 255 (counted as wrong) where they disagree"),
    Line("branches", "P2°", "full", "P2°", "the majority of SAM's views"),
    Line("branches", "P", "full", "P", "the fusion"),
]  # fmt: skip
LINES: list[Line] = [
    *REFERENCES,
    *PAPER,
    *_branches("annotation", "points", "points", BY_NAME["points"].says),
    *(
        line
        for variant in VARIANTS
        if variant.group == "refinements"
        for line in _branches("refinements", variant.name, variant.name, variant.says)
    ),
]
"""Of the tables of labels, in order."""


def chosen(words: Sequence[str]) -> list[Variant]:
    """Variants by names and groups, with those that they need, in the order of VARIANTS.

    Raises ValueError for a word that is neither.
    """
    known = {*BY_NAME, *GROUPS, "all"}
    if strange := [word for word in words if word not in known]:
        raise ValueError(f"{strange[0]!r} is no row; there are: {', '.join([*GROUPS, *BY_NAME, 'all'])}")
    wanted = {v.name for v in VARIANTS if {v.name, v.group, "all"} & set(words)}
    while more := {name for one in wanted for name in BY_NAME[one].needs} - wanted:
        wanted |= more
    return [variant for variant in VARIANTS if variant.name in wanted]


def present(variants: Iterable[Variant]) -> tuple[list[Variant], list[str]]:
    """Those whose switches this version has, and a sentence for each of the others."""
    found = list(variants)
    absent = [
        f"{v.name}: left out, this version's config has no {key}" for v in found if (key := v.missing())
    ]
    return [variant for variant in found if variant.missing() is None], absent
