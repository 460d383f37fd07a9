import numpy as np
import pytest

from models.cams import object_map
from models.start import load_start
from models.surfaces import generate
from models.vit import ClassTokenViT, build_vit
from tasks import objectness
from tasks.cam import STAGE, cam, label_map, normalised, p1_hard

HOW = {
    "precision": "float32", "scales": (1.0,), "flip": False, "low": 0.25, "high": 0.7, "attention": False,
    "affinity": False, "adaptive": False, "guided": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> ClassTokenViT:
    return build_vit("tiny", 3, side=64, objectness=True).eval()


@pytest.fixture(scope="module")
def block() -> dict[str, np.ndarray]:
    image, size = np.zeros((3, 70, 90, 3), np.uint8), np.array([[70, 60], [50, 90], [64, 64]], np.uint16)
    for index, (height, width) in enumerate(size):
        drawn = generate(40 + index, size=(int(height), int(width)), kind="blob", defects=2)
        image[index, :height, :width] = drawn.image
    label = np.array([[True, False, True], [False, True, False], [False, False, False]])
    slot_class = np.array([[1, 3], [2, 0], [0, 0]], np.uint8)
    known = objectness.objectness(
        image=image, size=size, guided=True, model=load_start(), precision="float32"
    )
    return {"image": image, "size": size, "label": label, "slot_class": slot_class, **known}


@pytest.fixture(scope="module")
def made(model, block) -> dict[str, np.ndarray]:
    return cam(model=model, **block, **HOW)


def test_the_arrays_fit_their_declaration(made):
    assert {spec.name for spec in STAGE.writes} == set(made)
    for spec in STAGE.writes:
        spec.check(made[spec.name])
    assert made["cam"].shape == (3, 2, 70, 90)
    assert made["score"].shape == (3, 3)
    assert made["cam"].min() >= 0
    assert made["cam"].max() <= 1


def test_padding_is_zero_in_the_cam_and_unknown_in_p1(made):
    assert (made["cam"][0, :, :, 60:] == 0).all()
    assert (made["p1"][0, :, 60:] == 255).all()
    assert (made["p1"][1, 50:] == 255).all()


def test_unused_slots_and_images_without_a_label_are_empty(made):
    assert (made["cam"][1, 1] == 0).all()
    assert (made["cam"][2] == 0).all()
    assert (made["p1"][2, :64, :64] == 0).all()
    assert made["cam"][0, 0].max() > 0


def test_p1_names_only_the_label_s_classes(made):
    assert set(np.unique(made["p1"][0])) <= {0, 1, 3, 255}
    assert set(np.unique(made["p1"][1])) <= {0, 2, 255}


def test_an_image_does_not_depend_on_its_neighbours_or_padding(model, block, made):
    height, width = block["size"][1]
    alone = {name: value[1:2] for name, value in block.items()}
    for name in ("image", "objectness"):
        alone[name] = alone[name][:, :height, :width]
    single = cam(model=model, **alone, **HOW)
    assert np.array_equal(single["cam"][0], made["cam"][1, :, :height, :width])
    assert np.array_equal(single["score"][0], made["score"][1])


def test_a_block_older_than_the_newest_class_still_works(model, block, made):
    older = {name: value[1:2] for name, value in block.items()}
    older["label"] = older["label"][:, :2]
    assert np.array_equal(cam(model=model, **older, **HOW)["cam"][0], made["cam"][1])


def test_a_class_that_the_network_does_not_know_is_refused(model, block):
    newer = dict(block, label=np.pad(block["label"], ((0, 0), (0, 1)), constant_values=True))
    with pytest.raises(ValueError, match="labelled with class 4, but the network knows 3 classes"):
        cam(model=model, **newer, **HOW)
    empty_column = dict(block, label=np.pad(block["label"], ((0, 0), (0, 1))))
    assert cam(model=model, **empty_column, **HOW)["score"].shape == (3, 3)


def test_low_and_high_must_be_in_order(model, block):
    with pytest.raises(ValueError, match="expected 0 ≤ low < high ≤ 1"):
        cam(model=model, **block, **{**HOW, "low": 0.8})


def test_weak_evidence_is_not_blown_up_to_one():
    weak = np.full((20, 20), 0.05, np.float32)
    assert normalised(weak, tau=0.8).max() == pytest.approx(0.05 / 0.4)
    assert normalised(20 * weak, tau=0.8).max() == pytest.approx(1)
    assert normalised(0 * weak, tau=0).max() == 0


def test_one_outlier_does_not_push_the_rest_down():
    cam_map = np.full((20, 20), 0.1, np.float32)
    cam_map[4:9, 4:9] = 0.6
    outlier = cam_map.copy()
    outlier[15, 15] = 0.9
    assert normalised(outlier, 0)[6, 6] == pytest.approx(normalised(cam_map, 0)[6, 6])


def test_p1_is_unsure_between_low_and_high_and_p1_hard_never():
    values = np.array([[[0.1, 0.25, 0.4, 0.7, 0.9]], [[0.0, 0.1, 0.6, 0.2, 0.95]]])
    slots = np.array([2, 5], np.uint8)
    assert label_map(values, slots, 0.25, 0.7).tolist() == [[0, 0, 255, 2, 5]]
    assert p1_hard(values, slots, 0.25, 0.7).tolist() == [[0, 0, 5, 2, 5]]


def test_objectness_is_had_once_and_is_what_a_network_finds_itself(model, block, made):
    objectness.STAGE.writes[0].check(block["objectness"])
    for n, (height, width) in enumerate(block["size"].tolist()):
        inside = block["objectness"][n, :height, :width]
        own = object_map(model, np.ascontiguousarray(block["image"][n, :height, :width]))
        np.testing.assert_array_equal(inside, own.astype(np.float16))
        assert block["objectness"][n].sum() == pytest.approx(inside.sum(dtype=np.float32), rel=1e-3), (
            "0 in padding"
        )
    alone = cam(model=model, **block, **{**HOW, "guided": False})
    assert np.abs(alone["cam"].astype(np.float32) - made["cam"]).max() < 2e-3, (
        "but for the rounding to 16 bits"
    )
    assert (alone["p1"] != made["p1"]).mean() < 1e-3


def test_a_network_of_another_start_does_not_go_by_that_of_today(model, block):
    older = build_vit("tiny", 3, side=64, objectness=True).eval()
    older.start.kind.weight.mul_(1.5)
    assert (model.as_shipped, older.as_shipped) == (True, False)
    wrong = dict(block, objectness=np.zeros_like(block["objectness"]))
    assert np.array_equal(
        cam(model=older, **wrong, **HOW)["cam"], cam(model=older, **block, **{**HOW, "guided": False})["cam"]
    )


def test_where_no_network_asks_for_it_nothing_is_computed(block):
    found = objectness.objectness(
        image=block["image"], size=block["size"], guided=False, model=None, precision="float32"
    )
    assert not found["objectness"].any()
