"""Small images whose classes raise a channel of SAM's features."""

import numpy as np
import torch

from models.agreement import UNKNOWN, Target
from models.appearance import lesson, look

CPU = torch.device("cpu")
CELLS = 8
"""Of SAM's features, on each side."""


def scene(seed, k, size=(32, 32), known=True):
    """Class k raises channel k where it is; all channels are noisy. Returns features, image, target, slot_class, defect."""
    rng = np.random.default_rng(seed)
    defect = np.zeros(size, bool)
    top, left = rng.integers(0, 16, 2)
    if k:
        defect[top : top + 12, left : left + 12] = True
    feature = rng.normal(0, 0.5, (4, CELLS, CELLS))
    cells = defect.reshape(CELLS, size[0] // CELLS, CELLS, size[1] // CELLS).mean((1, 3))
    feature[k] += 3 * cells * (k > 0)
    slot = np.where(defect, 1, 0).astype(np.uint8) if known else np.full(size, UNKNOWN, np.uint8)
    target = Target(slot, np.ones(size, np.float32))
    image = rng.integers(90, 110, (*size, 3), np.uint8)
    return feature.astype(np.float16), image, target, np.array([k], np.uint8), defect


def asked(net, feature, image, classes):
    """What the features alone say: SAM is silent."""
    shape = image.shape[:2]
    return look(net, feature, image, classes, np.zeros((len(classes), *shape), np.float32), np.zeros(shape))


def lesson_of(seed, k, mark=False, **how):
    """The lesson of a scene; mark: the user has marked one pixel in the middle of the defect."""
    feature, image, target, slot_class, defect = scene(seed, k, **how)
    annotation = np.full(defect.shape, UNKNOWN, np.uint8)
    if mark:
        annotation[tuple(np.argwhere(defect).mean(0).astype(int))] = k
    return lesson(feature, image, target, slot_class, annotation, np.where(defect, k, 0).astype(np.uint8))


def lessons(seeds, **how):
    """Of both classes and of none, in turn."""
    return [lesson_of(seed, seed % 3, **how) for seed in seeds]


def trusted(net):
    """A network that is listened to in all classes."""
    net.trust.fill_(1)
    return net
