"""A training that is due as its recipe changed says which key or version it was."""

import io
import re

import pytest
from labelled_store import Silent
from rich.console import Console

from flows import promotion, recipes, training
from flows.forecast import print_plan
from flows.networks import PROMOTED, promoted
from flows.plan import digest_of
from flows.recipes import recorded, what_changed
from flows.steps import Run


def why(labelled, kind, **sections):
    """Why a network is to be trained, with some fields of the config's sections changed."""
    config = labelled.config.model_copy(
        update={
            name: getattr(labelled.config, name).model_copy(update=values)
            for name, values in sections.items()
        }
    )
    plan = Run(labelled.store, config, Silent(), dry=True).plan
    decision = training.decide(labelled.store, config, plan, kind)
    return decision.why if decision.train else None


def test_a_key_is_named_with_both_values_and_of_the_cams_who_reads_it(labelled_once):
    assert why(labelled_once, "vit") is None
    assert why(labelled_once, "vit", cam={"low": 0.3}) == "cam.low 0.25 → 0.3, read by CTC and distillation"
    assert why(labelled_once, "vit", cam={"scales": (1.0,)}) == (
        "cam.scales [0.5, 1.0, 1.5] → [1.0], read by the calibration of the ViT's confidence"
    )
    assert why(labelled_once, "vit", train_vit={"seed": 3, "rate": 1e-4}) == (
        "train_vit.seed 0 → 3; train_vit.rate 0.0002 → 0.0001"
    )
    assert why(labelled_once, "fusion", train_fusion={"floor": 0.2}).startswith("train_fusion.floor ")


def test_what_changed_in_bluemask_itself_is_named(labelled_once, monkeypatch):
    monkeypatch.setitem(recipes.VERSIONS, "fusion", recipes.VERSIONS["fusion"] + 1)
    now = recipes.VERSIONS["fusion"]
    assert why(labelled_once, "fusion") == f"bluemask's fusion training, version {now - 1} → {now}"
    assert why(labelled_once, "vit") is None


def test_another_start_and_keys_that_came_or_went_are_named(labelled_once):
    config = labelled_once.config
    before = recorded(config, "vit") | {"start": ["0"]}
    assert what_changed(before, config, "vit") == "the weights that it begins from are others"
    known = recorded(config, "vit")
    old = {**known["keys"], "train_vit.once": 1}
    old.pop("train_vit.seed")
    assert what_changed(known | {"keys": old}, config, "vit") == (
        "train_vit.seed is new, 0; train_vit.once is no key any more"
    )
    other = known | {"keys": {name: "other" for name in known["keys"]}}
    assert what_changed(other, config, "vit").endswith(f"; and {len(known['keys']) - recipes.NAMED} more")


def test_an_older_record_says_what_it_can(labelled):
    everything = labelled.store.read_json(PROMOTED)
    del everything["vit"]["recipe"]
    labelled.store.write_json(PROMOTED, everything)
    assert why(labelled, "vit") is None, "nothing is trained anew for it"
    assert why(labelled, "vit", cam={"low": 0.3}) == "train_vit changed in the config, or in bluemask itself"


def test_plan_prints_it_and_the_network_taken_back_has_its_own(labelled):
    text = labelled.root.joinpath("run.yaml").read_text()
    labelled.root.joinpath("run.yaml").write_text(text + "cam:\n  low: 0.3\n")
    sink = io.StringIO()
    print_plan(labelled.root / "run.yaml", Console(file=sink, width=250), Console(file=io.StringIO()))
    assert re.search(r"train_vit .* cam\.low 0\.25 → 0\.3, read by CTC", sink.getvalue())
    entry = promoted(labelled.store, "vit")
    promotion.promote(labelled.store, "vit", entry | {"digest": "d", "recipe": {}, "run": "r"})
    promotion.rollback(labelled.store, labelled.config, "vit")
    assert promoted(labelled.store, "vit")["recipe"] == entry["recipe"]


@pytest.mark.parametrize("kind", ["vit", "fusion"])
def test_the_record_is_all_that_the_digest_is_of(labelled_once, kind):
    known = promoted(labelled_once.store, kind)["recipe"]
    assert known == recorded(labelled_once.config, kind)
    section = recipes.training_section(labelled_once.config, kind)
    assert {name.split(".")[1] for name in known["keys"]} == set(section)


def test_what_is_known_of_trained_networks_outlives_a_new_version():
    """Another way to write the same down would have every store train, and make all its labels, anew."""
    made = digest_of([7, {"rate": 0.5, "scales": [1, "x"], "none": None}, "start"])
    assert made == "287c209d6645a9207b9d7c1f773cf384"
