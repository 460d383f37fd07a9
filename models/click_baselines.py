"""What a user could ask with the same clicks and no weights: GrabCut and the random walker."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from models.defects import Mask

BETA = 130.0
"""Of the random walker: how fast an edge weakens with the squared difference of grey, over ten times its standard
deviation; scikit-image's default."""
ROUNDS = 5
"""Of GrabCut, the usual number."""


def grab_cut(image: NDArray[np.uint8], clicks: NDArray[np.float32]) -> Mask:
    """GrabCut (Rother et al. 2004) from clicks: a disc of 2 pixels around each is the object, the frame is not.

    image: (y, x, 3) uint8; clicks: (n, 2) x, y. Returns (y, x) bool.
    """
    trimap = np.full(image.shape[:2], cv2.GC_PR_BGD, np.uint8)
    discs = np.zeros_like(trimap)
    for x, y in np.round(clicks).astype(int).tolist():
        cv2.circle(discs, (x, y), 2, 1, -1)
    near = cv2.dilate(discs, np.ones((9, 9), np.uint8)) > 0
    trimap[near] = cv2.GC_PR_FGD  # or there would be no colours to begin with
    trimap[_frame(trimap.shape)] = cv2.GC_BGD
    trimap[discs > 0] = cv2.GC_FGD
    ground, thing = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    whole = (0, 0, 1, 1)  # not looked at: the trimap says all
    cv2.grabCut(np.ascontiguousarray(image), trimap, whole, ground, thing, ROUNDS, cv2.GC_INIT_WITH_MASK)
    return np.asarray((trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD))


def random_walker(image: NDArray[np.uint8], clicks: NDArray[np.float32]) -> Mask:
    """The random walker (Grady 2006): whether one who starts at a pixel meets a click before the image's frame.

    image: (y, x, 3) uint8; clicks: (n, 2) x, y. Returns (y, x) bool, probability above a half.
    """
    # here, as a machine that only trains has no need of it
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import laplacian
    from scipy.sparse.linalg import spsolve

    grey = image.mean(2) / 255
    height, width = grey.shape
    number = np.arange(grey.size).reshape(grey.shape)
    pairs = [(number[:-1].ravel(), number[1:].ravel()), (number[:, :-1].ravel(), number[:, 1:].ravel())]
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    contrast = np.square(grey.ravel()[a] - grey.ravel()[b])
    weight = np.exp(-BETA * contrast / (10 * max(grey.std(), 1e-3))) + 1e-6
    graph = coo_array((np.r_[weight, weight], (np.r_[a, b], np.r_[b, a])), shape=(grey.size, grey.size))
    seeds = np.where(_frame(grey.shape), 0.0, np.nan)
    at = np.round(clicks).astype(int)
    seeds[at[:, 1].clip(0, height - 1), at[:, 0].clip(0, width - 1)] = 1
    known = ~np.isnan(seeds.ravel())
    system = laplacian(graph.tocsr()).tocsr()
    right = -system[~known][:, known] @ seeds.ravel()[known]
    chance = seeds.ravel().copy()
    chance[~known] = spsolve(system[~known][:, ~known].tocsc(), right)
    return np.asarray(chance.reshape(grey.shape) > 0.5)


def _frame(shape: tuple[int, ...]) -> Mask:
    """The outermost pixels."""
    frame = np.ones(shape, bool)
    frame[1:-1, 1:-1] = False
    return frame


BASELINES: dict[str, Callable[[NDArray[np.uint8], NDArray[np.float32]], Mask]] = {
    "GrabCut": grab_cut,
    "random walker": random_walker,
}
