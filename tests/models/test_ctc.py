import math

import pytest
import torch
from torch.nn import functional

from models.ctc import (
    BACKGROUND,
    FOREGROUND,
    PADDING,
    QUEUE,
    UNCERTAIN,
    Crops,
    TokenContrast,
    choose_crops,
    cut,
    info_nce,
    judge,
    regions,
)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def contrast(classes: int = 2) -> TokenContrast:
    torch.manual_seed(0)
    return TokenContrast(8, classes, 6, temperature=0.5, momentum=0.9)


def test_g_moves_by_exactly_one_minus_rho():
    module = contrast()
    with torch.no_grad():
        module.local.weight += 1
        module.local.bias -= 2
    before = [p.clone() for p in module.whole.parameters()]
    module.follow()
    for old, slow, fast in zip(before, module.whole.parameters(), module.local.parameters(), strict=True):
        torch.testing.assert_close(slow - old, (1 - 0.9) * (fast - old))


def test_aligning_the_positives_lowers_the_loss():
    anchor, positive, negative = unit(6), unit(4, 6, seed=1), unit(5, 6, seed=2)
    losses = [
        info_nce(anchor, functional.normalize(positive + pull * anchor, dim=1), negative, 0.5)
        for pull in (0, 1, 4)
    ]
    assert losses[0] > losses[1] > losses[2] > 0


def test_pushing_the_negatives_away_lowers_the_loss():
    anchor, positive, negative = unit(6), unit(4, 6, seed=1), unit(5, 6, seed=2)
    away = functional.normalize(negative - 3 * anchor, dim=1)
    assert info_nce(anchor, positive, away, 0.5) < info_nce(anchor, positive, negative, 0.5)


def test_info_nce_is_eq_2_with_its_minus_sign():
    anchor, positive, negative = unit(6), unit(1, 6, seed=1), unit(3, 6, seed=2)
    hit = math.exp(float(positive[0] @ anchor) / 0.5)
    others = sum(math.exp(float(q @ anchor) / 0.5) for q in negative)
    expected = -math.log(hit / (hit + others + 1e-6))
    assert float(info_nce(anchor, positive, negative, 0.5)) == pytest.approx(expected, rel=1e-5)


def test_without_positive_or_negative_the_loss_is_finite_and_without_effect():
    anchor, some, none = unit(6), unit(3, 6, seed=1), torch.zeros(0, 6)
    assert float(info_nce(anchor, none, some, 0.5)) == 0
    positive = some.clone().requires_grad_(True)
    loss = info_nce(anchor, positive, none, 0.5)
    loss.backward()
    assert 0 <= float(loss.detach()) < 1e-4
    assert positive.grad is not None
    assert positive.grad.abs().max() < 1e-4


def test_info_nce_stays_finite_at_a_tiny_temperature():
    assert torch.isfinite(info_nce(unit(6), unit(2, 6, seed=1), unit(2, 6, seed=2), 1e-3))


def test_regions_follow_low_and_high_of_present_classes():
    maps = torch.zeros(1, 2, 2, 3)
    maps[0, 0] = torch.tensor([[10.0, 5.0, 1.0], [-3.0, 2.5, 7.0]])
    maps[0, 1, 1, 0] = 99.0  # not in the label
    valid = torch.tensor([[[True, True, True], [True, True, False]]])
    found = regions(maps, torch.tensor([[1.0, 0.0]]), valid, 0.25, 0.7)
    assert found.tolist() == [[[FOREGROUND, UNCERTAIN, BACKGROUND], [BACKGROUND, BACKGROUND, PADDING]]]
    assert (regions(maps, torch.zeros(1, 2), valid, 0.25, 0.7)[valid] == BACKGROUND).all()


def test_a_crop_on_a_tiny_defect_is_positive_and_pure_background_negative():
    found = torch.full((1, 10, 10), BACKGROUND)
    found[0, 5, 5] = UNCERTAIN  # one patch: a mean region value far below 0.2
    boxes = torch.tensor([[16, 16, 64, 64], [0, 0, 32, 32]])
    positive, negative = judge(found, 8, torch.tensor([0, 0]), boxes)
    assert positive.tolist() == [True, False]
    assert negative.tolist() == [False, True]


def test_crops_are_centred_in_regions_that_are_not_foreground_and_lie_inside():
    found = torch.full((2, 8, 8), FOREGROUND)
    found[0, :, :4] = BACKGROUND
    found[0, 6:] = PADDING
    crops = choose_crops(found, 8, 16, 50, torch.Generator().manual_seed(0))
    assert crops.image.unique().tolist() == [0]  # the other image is foreground alone
    assert len(crops.box) == 50
    assert (crops.box >= 0).all()
    assert (crops.box[:, 2] <= 48).all()
    middle = (crops.box[:, 1] + crops.box[:, 3]) / 2
    assert (middle <= 4 * 8).all()


def test_crops_are_exactly_the_pixels_that_the_cam_saw_under_a_flip():
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = torch.full((1, 8, 8), FOREGROUND)
    found[0, 1, 6] = UNCERTAIN
    crops = choose_crops(found, 8, 16, 4, torch.Generator().manual_seed(1))
    mirrored = Crops(crops.image, crops.box.clone(), crops.positive, crops.negative)
    mirrored.box[:, 1], mirrored.box[:, 3] = 64 - crops.box[:, 3], 64 - crops.box[:, 1]
    here = cut(pixels, crops, 16)
    for piece, (top, left, bottom, right) in zip(here, crops.box.tolist(), strict=True):
        assert torch.equal(piece, pixels[0, :, top:bottom, left:right])
    assert torch.equal(cut(pixels.flip(-1), mirrored, 16), here.flip(-1))
    assert not torch.equal(cut(pixels.flip(-1), crops, 16), here)


def some_crops() -> Crops:
    return Crops(
        torch.tensor([0, 0, 0, 1]), torch.zeros(4, 4, dtype=torch.int64),
        torch.tensor([True, True, False, False]), torch.tensor([False, False, True, True]),
    )  # fmt: skip


def test_p_is_detached_wholly():
    module, token = contrast(), unit(2, 2, 8).requires_grad_(True)
    local = unit(4, 2, 8, seed=1).requires_grad_(True)
    module.loss(token, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), local, some_crops()).backward()
    assert token.grad is None
    assert all(p.grad is None for p in module.whole.parameters())
    assert local.grad is not None
    assert local.grad[:3, 0].abs().sum() > 0
    assert local.grad[:, 1].abs().sum() == 0  # each class with its own tokens


def test_nothing_to_contrast_gives_zero():
    module = contrast()
    loss = module.loss(unit(2, 2, 8), torch.zeros(2, 2), unit(4, 2, 8, seed=1), some_crops())
    assert float(loss) == 0


def test_negatives_of_good_images_are_remembered_and_the_oldest_leave():
    module = contrast()
    alone = module.loss(unit(2, 2, 8), torch.eye(2), unit(4, 2, 8, seed=1), some_crops())
    module.remember(unit(10, 2, 8, seed=3))
    assert int(module.filled) == 10
    more = module.loss(unit(2, 2, 8), torch.eye(2), unit(4, 2, 8, seed=1), some_crops())
    assert more > alone
    last = unit(1, 2, 8, seed=4)
    module.remember(unit(QUEUE - 10, 2, 8, seed=5))
    module.remember(last)
    assert torch.allclose(module.queue[0], functional.normalize(module.local(last)[0], dim=1))
    assert torch.allclose(module.queue.norm(dim=2), torch.ones(QUEUE, 2), atol=1e-5)
