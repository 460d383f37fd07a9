"""Embeddings are the official predictor's, once per distinct view."""

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from models.sam import encode
from models.sam_shapes import SIDE
from models.tiny_sam import tiny_sam
from tasks.augment import augment
from tasks.embed import STAGE, embed, encode_views
from tasks.views import View


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    return tiny_sam().eval()


def inputs(sizes=((50, 61), (40, 33)), views=3):
    rng = np.random.default_rng(1)
    height, width = np.max(sizes, axis=0)
    image = rng.integers(0, 256, (len(sizes), height, width, 3), dtype=np.uint8)
    digests = rng.integers(0, 256, (len(sizes), 32), dtype=np.uint8)
    out = augment(
        image=image,
        size=np.array(sizes, np.uint16),
        sha256=digests,
        input_side=SIDE,
        views=views,
        flips=True,
        turns=True,
        scales=(1, 2),
        scale_mode="canvas",
        seed=0,
    )
    return image, out


def test_embeddings_equal_the_official_predictors(sam):
    image, out = inputs()
    found = encode_views(sam, out["augmented"][1], out["input_size"][1], 3, "float32")
    predictor = SamPredictor(sam)
    for row, embedding in zip(out["view"][1], found, strict=True):
        predictor.set_image(np.ascontiguousarray(View.of(row).apply_image(image[1, :40, :33])))
        official = predictor.get_image_embedding()[0].numpy()
        np.testing.assert_allclose(embedding, official, atol=1e-4 * np.abs(official).max())


def test_equal_views_and_equal_images_are_encoded_once(sam):
    _, out = inputs(views=2)
    views = np.concatenate([out["augmented"], out["augmented"][:1]])[:, [0, 1, 0]]
    sizes = np.concatenate([out["input_size"], out["input_size"][:1]])[:, [0, 1, 0]]
    seen = []
    hook = sam.image_encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    found = embed(augmented=views, input_size=sizes, batch=8, model=sam, precision="float32")["embedding"]
    hook.remove()
    assert sum(seen) == 4  # two images of two distinct views
    np.testing.assert_array_equal(found[:, 0], found[:, 2])
    np.testing.assert_array_equal(found[0], found[2])
    assert (found[0, 0] != found[0, 1]).any()


def test_a_call_ahead_of_its_answers_gives_each_image_its_own(sam, monkeypatch):
    """As on a GPU, where the next call is made before the last one's answer is taken."""

    def ahead(model, calls, precision, *, half):
        waiting = []
        for call in calls:
            waiting.append(encode(model, *call, precision, half=half))
            if len(waiting) > 1:
                yield waiting.pop(0)
        yield from waiting

    _, out = inputs(views=4)
    views = np.concatenate([out["augmented"], out["augmented"][:1]])[:, [0, 1, 2, 1, 3]]
    sizes = np.concatenate([out["input_size"], out["input_size"][:1]])[:, [0, 1, 2, 1, 3]]
    arrays = {"augmented": views, "input_size": sizes, "model": sam, "precision": "float32"}
    for batch in (2, 5, 20):  # less than an image, an image, all of them
        expected = embed(**arrays, batch=batch)["embedding"]
        with monkeypatch.context() as patched:
            patched.setattr("models.sam.encode_each", ahead)
            found = embed(**arrays, batch=batch)["embedding"]
        np.testing.assert_array_equal(found, expected)


def test_no_view_is_refused_in_words(sam):
    nothing = np.zeros((0, SIDE, SIDE, 3), np.uint8), np.zeros((0, 2), np.int64)
    with pytest.raises(ValueError, match="no view to encode"):
        encode_views(sam, *nothing, 3, "float32")


def test_an_embedding_depends_on_its_image_alone(sam):
    _, out = inputs()
    arrays = {"augmented": out["augmented"], "input_size": out["input_size"]}
    whole = embed(**arrays, batch=2, model=sam, precision="float32")["embedding"]
    alone = embed(**{k: v[1:] for k, v in arrays.items()}, batch=2, model=sam, precision="float32")[
        "embedding"
    ]
    np.testing.assert_array_equal(whole[1:], alone)


def test_the_array_is_as_declared(sam):
    _, out = inputs(views=1)
    found = embed(
        augmented=out["augmented"], input_size=out["input_size"], batch=1, model=sam, precision="bfloat16"
    )
    STAGE.writes[0].check(found["embedding"])


def test_values_beyond_float16_are_refused_not_stored_as_infinity(sam):
    _, out = inputs(views=1)
    hook = sam.image_encoder.register_forward_hook(lambda _, given, result: result * 1e8)
    with pytest.raises(ValueError, match="beyond float16"):
        embed(
            augmented=out["augmented"], input_size=out["input_size"], batch=1, model=sam, precision="float32"
        )
    hook.remove()


def test_a_large_batch_takes_several_whole_images(sam):
    _, out = inputs(sizes=((50, 61), (40, 33), (64, 64)), views=3)
    seen = []
    hook = sam.image_encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    arrays = {"augmented": out["augmented"], "input_size": out["input_size"]}
    found = embed(**arrays, batch=7, model=sam, precision="float32")["embedding"]
    hook.remove()
    assert seen == [6, 3]
    alone = embed(**arrays, batch=1, model=sam, precision="float32")["embedding"]
    np.testing.assert_allclose(found, alone, atol=2e-3 * np.abs(alone).max())
