"""Procedural surfaces: reproducible, exact, varied."""

import numpy as np
import pytest

from models.surfaces import KINDS, SMALLEST_PIECE, generate


@pytest.mark.parametrize("seed", [0, 7, 123456])
def test_the_same_seed_gives_the_same_bytes(seed):
    one, two = generate(seed), generate(seed)
    assert one.image.tobytes() == two.image.tobytes()
    assert one.instances.tobytes() == two.instances.tobytes()
    assert one.kinds.tobytes() == two.kinds.tobytes()


def test_other_seeds_give_other_images():
    images = {generate(seed).image.tobytes() for seed in range(20)}
    assert len(images) == 20


@pytest.mark.parametrize("size", [(128, 128), (64, 200), (97, 33), (256, 256)])
def test_shapes_and_types(size):
    surface = generate(3, size=size)
    assert surface.image.shape == (*size, 3)
    assert surface.image.dtype == np.uint8
    assert surface.instances.shape == (len(surface.kinds), *size)
    assert surface.instances.dtype == bool
    assert surface.kinds.dtype == np.uint8


def test_pieces_keep_apart_and_are_not_too_small():
    for seed in range(60):
        surface = generate(seed)
        assert surface.instances.sum(0).max(initial=0) <= 1
        assert all(mask.sum() >= SMALLEST_PIECE for mask in surface.instances)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_alone(kind):
    drawn = [generate(seed, kind=kind).kinds for seed in range(12)]
    assert {int(k) for kinds in drawn for k in kinds} == {KINDS.index(kind)}
    assert max(len(kinds) for kinds in drawn) > 1


def test_the_seed_draws_every_kind_and_mixtures_and_good_surfaces():
    kinds = [set(generate(seed).kinds.tolist()) for seed in range(150)]
    assert set().union(*kinds) == set(range(len(KINDS)))
    assert any(len(found) > 1 for found in kinds)
    assert any(not found for found in kinds)


def test_no_defects_when_none_are_asked_for():
    surface = generate(11, defects=0)
    assert surface.instances.shape == (0, 128, 128)
    assert surface.image.std() > 0


def test_defects_are_bright_and_dark():
    signs = set()
    for seed in range(40):
        surface = generate(seed, kind="ellipse", defects=1)
        if len(surface.kinds):
            grey, mask = surface.image.mean(2), surface.instances[0]
            signs.add(bool(grey[mask].mean() > grey[~mask].mean()))
    assert signs == {True, False}


def test_sizes_run_from_tiny_to_large():
    areas = [mask.mean() for seed in range(150) for mask in generate(seed).instances]
    assert min(areas) < 0.002
    assert max(areas) > 0.1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"kind": "hole"}, "hole"), ({"size": (8, 128)}, "8 x 128"), ({"defects": -1}, "-1")],
)
def test_errors_name_the_value(arguments, named):
    with pytest.raises(ValueError, match=named):
        generate(0, **arguments)
