import numpy as np
import pytest
import torch

from models.fusion import BOUND, CHANNELS, FusionNet, FusionShape
from models.fusion_patches import Patch
from models.fusion_trust import BOUNDS, net_alone, warranted
from models.photometry import contrast

SIDE = 16


pytestmark = pytest.mark.usefixtures("one_thread")


class Looker(FusionNet):
    """A network whose word about the image is known: `sign` times 4 logits where the image is dark."""

    def __init__(self, sign):
        super().__init__(FusionShape((4, 4, 4, 4)))
        self.sign = sign

    def forward(self, x):
        said = super().forward(x)  # its head is 0: this is what CAM and SAM say
        seen = self.sign * 4 * torch.where(x[:, 0] < 0, 1.0, -1.0)
        return said + self.bound * torch.tanh(seen / self.bound)


def patch(seed, unsure=True):
    """Dark on the left, where the defect is; the CAM and SAM say so, one weakly, one beside the border."""
    rng = np.random.default_rng(seed)
    dark = np.arange(SIDE) < 4 + seed % 8
    image = np.where(dark, 60, 190)[None, :, None] + rng.integers(-9, 9, (SIDE, SIDE, 3))
    defect = np.broadcast_to(dark, (SIDE, SIDE))
    weak = np.where(defect, 150, 105) if unsure else np.where(defect, 255, 0)
    evidence = np.stack([weak, weak, np.full_like(weak, 60), np.full_like(weak, 128)]).astype(np.uint8)[None]
    whole = np.full((SIDE, SIDE), 255, np.uint8)
    image = image.astype(np.uint8)
    return Patch(image, evidence, defect.astype(np.uint8), whole, whole > 0, contrast(image), 0)


def test_an_image_that_tells_the_truth_is_listened_to_and_one_that_lies_is_not():
    unseen = [patch(seed) for seed in range(6)]
    assert warranted(Looker(+1), unseen, "float32") == BOUND
    assert warranted(Looker(-1), unseen, "float32") == 0


def test_one_that_tells_the_truth_half_of_the_time_is_not_listened_to_either():
    class Guesser(Looker):
        def forward(self, x):
            self.sign = 1 if float(x[0, 0].mean()) > float(x[0, 1].mean()) else -1
            return super().forward(x)

    assert warranted(Guesser(+1), [patch(seed) for seed in range(12)], "float32") <= 0.5


def test_where_nothing_is_known_the_image_is_not_listened_to():
    assert warranted(Looker(+1), [], "float32") == 0
    ground = [patch(seed)._replace(slot=np.zeros((SIDE, SIDE), np.uint8)) for seed in range(3)]
    assert warranted(Looker(+1), ground, "float32") == 0
    assert BOUNDS[0] == 0
    assert BOUNDS[-1] == BOUND


def test_measuring_leaves_the_network_as_it_was():
    net = Looker(+1)
    net.bound.fill_(1.5)
    x = np.random.default_rng(0).random((CHANNELS, SIDE, SIDE), np.float32)
    assert np.abs(net_alone(net, x, np.zeros((SIDE, SIDE), np.float32), "float32")).max() > 3.9
    assert float(net.bound) == 1.5
