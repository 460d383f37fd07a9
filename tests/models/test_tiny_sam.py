"""`tiny` is a Sam like any other."""

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from models.measure_sam import piece_iou
from models.sam import build_sam
from models.sam_shapes import SIDE, STRIDE, WIDTH
from models.tiny_sam import LocalContrast, decode_groups, tiny_sam


@pytest.fixture(scope="module")
def sam():
    return build_sam("tiny")


@pytest.fixture(scope="module")
def embedding(sam):
    frames = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return sam.image_encoder(frames)


def test_an_untrained_one_has_the_shapes_that_sam_promises():
    torch.manual_seed(0)
    sam = tiny_sam().eval()
    grid = SIDE // STRIDE
    with torch.inference_mode():
        embedding = sam.image_encoder(torch.zeros(1, 3, SIDE, SIDE))
    assert embedding.shape == (1, WIDTH, grid, grid)
    assert sam.prompt_encoder.get_dense_pe().shape == (1, WIDTH, grid, grid)
    assert sam.prompt_encoder.mask_input_size == (SIDE, SIDE)
    assert sum(p.numel() for p in sam.parameters()) < 3e6


def prompts(groups, points, seed=1):
    random = torch.Generator().manual_seed(seed)
    xy = SIDE * torch.rand(groups, points, 2, generator=random)
    return xy, (torch.rand(groups, points, generator=random) < 0.7).float()


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_decoding_many_images_at_once_equals_the_official_decoder(sam, embedding, boxed, masked):
    owner = torch.tensor([0, 1, 1, 0])
    points, labels = prompts(4, 3)
    boxes = torch.tensor([[10.0, 20, 50, 60]]).expand(4, 4) if boxed else None
    masks = torch.randn(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) if masked else None
    with torch.inference_mode():
        logits, iou = decode_groups(sam, embedding, owner, (points, labels), boxes, masks)
        for group, image in enumerate(owner):
            here = slice(group, group + 1)
            sparse, dense = sam.prompt_encoder(
                (points[here], labels[here]),
                None if boxes is None else boxes[here],
                None if masks is None else masks[here],
            )
            place = sam.prompt_encoder.get_dense_pe()
            three = sam.mask_decoder(embedding[image][None], place, sparse, dense, True)
            one = sam.mask_decoder(embedding[image][None], place, sparse, dense, False)
            torch.testing.assert_close(logits[here, 1:], three[0], rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(iou[here, 1:], three[1], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(logits[here, :1], one[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(200, 200), (90, 128), (301, 57)])
def test_the_official_predictor_takes_it(sam, size):
    predictor = SamPredictor(sam)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    predictor.set_image(image)
    points = np.array([[size[1] / 2, size[0] / 2], [3, 4], [5, 6]])
    masks, iou, low = predictor.predict(points, np.array([1, 1, 0]))
    assert masks.shape == (3, *size)
    assert iou.shape == (3,)
    assert low.shape == (3, SIDE, SIDE)
    again, _, _ = predictor.predict(points, np.array([1, 1, 0]), mask_input=low[:1], multimask_output=False)
    assert again.shape == (1, *size)


def test_the_embedding_sees_the_whole_image(sam):
    plain = torch.zeros(1, 3, SIDE, SIDE)
    marked = plain.clone()
    marked[:, :, -24:, -24:] = 2
    with torch.inference_mode():
        change = (sam.image_encoder(marked) - sam.image_encoder(plain)).abs()
    assert change[..., 0, 0].max() > 1e-3


def test_local_contrast_does_not_depend_on_the_level_or_strength():
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    one, two = LocalContrast()(x), LocalContrast()(5 * x + 2)
    assert one.shape == (1, 5, 64, 64)
    torch.testing.assert_close(two[:, 3], 5 * one[:, 3], rtol=1e-3, atol=1e-3)
    assert (two[:, 4] - one[:, 4]).abs().mean() < 0.05 * one[:, 4].abs().mean()


def test_three_clicks_find_a_piece_on_images_never_seen(sam):
    found = [iou for _, iou, _ in piece_iou(sam, images=40, points=3)]
    assert len(found) > 60
    assert np.mean(found) >= 0.60


def test_more_clicks_find_more(sam):
    one, five = (np.mean([iou for _, iou, _ in piece_iou(sam, images=20, points=n)]) for n in (1, 5))
    assert five > one
