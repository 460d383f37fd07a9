import json
from pathlib import Path

import numpy as np
import pytest

from storage.reviews import MOST, Review, ReviewConflict, Reviews, label_digest
from storage.store import Store, StoreError
from storage.verify import check_documents

SHA = "ab" * 32


@pytest.fixture
def reviews(tmp_path):
    return Reviews(Store(tmp_path))


def mask(shape=(7, 11)):
    return np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), shape)


def test_the_last_entry_counts_and_can_be_taken_back(reviews):
    assert reviews.history(SHA).last == Review()
    reviews.add(SHA, Review(verdict="reject", judged="x"))
    reviews.add(SHA, Review(verdict="accept", judged="y", note="ö"))
    assert reviews.history(SHA).last.verdict == "accept"
    assert reviews.undo(SHA).last.verdict == "reject"
    assert reviews.undo(SHA).last.verdict is None
    assert reviews.undo(SHA).entries == ()


def test_nobody_overwrites_what_they_have_not_seen(reviews):
    seen = reviews.history(SHA).count
    reviews.add(SHA, Review(verdict="accept"), expected=seen)
    with pytest.raises(ReviewConflict, match="1 times by now, not 0"):
        reviews.add(SHA, Review(verdict="reject"), expected=seen)
    with pytest.raises(ReviewConflict):
        reviews.undo(SHA, expected=seen)
    assert reviews.history(SHA).last.verdict == "accept"


def test_a_mask_comes_back_bit_for_bit(reviews):
    drawn = mask()
    digest = reviews.keep_mask(SHA, drawn)
    reviews.add(SHA, Review(mask=digest))
    np.testing.assert_array_equal(reviews.mask(SHA), drawn)
    assert reviews.masks() == {SHA: digest}
    assert reviews.mask("cd" * 32) is None


def test_a_mask_that_was_rejected_since_teaches_nothing(reviews):
    digest = reviews.keep_mask(SHA, mask())
    reviews.add(SHA, Review(mask=digest))
    reviews.add(SHA, Review(verdict="reject", mask=digest))
    assert reviews.masks() == {}
    reviews.add(SHA, Review(verdict="accept", mask=digest))
    assert reviews.masks() == {SHA: digest}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_damaged_review_or_mask_is_an_error_and_comes_back_from_its_copy(reviews, tmp_path):
    digest = reviews.keep_mask(SHA, mask())
    reviews.add(SHA, Review(verdict="accept", mask=digest))
    for pattern in ("*.png", "*.json"):
        file = next((tmp_path / "reviews").glob(pattern))
        for damage in (flip, Path.unlink):
            damage(file)
            fresh = Reviews(Store(tmp_path))
            with pytest.raises(StoreError, match=r"verify .* --repair"):
                fresh.mask(SHA)
            if pattern == "*.json":
                with pytest.raises(StoreError, match=r"verify .* --repair"):
                    fresh.masks()
            store = Store(tmp_path)
            (finding,) = check_documents(store)
            assert finding.key == f"reviews/{file.name}"
            assert store.documents.repair(finding.key)
            np.testing.assert_array_equal(Reviews(Store(tmp_path)).mask(SHA), mask())
            assert Reviews(Store(tmp_path)).masks() == {SHA: digest}


def test_a_damaged_review_is_not_written_over_nor_forgotten(reviews, tmp_path):
    reviews.add(SHA, Review(verdict="accept"))
    for file in (tmp_path / "reviews" / f"{SHA}.json", tmp_path / "copies" / "reviews" / f"{SHA}.json"):
        file.write_text("{")
    fresh = Reviews(Store(tmp_path))
    with pytest.raises(StoreError, match="not what was written"):
        fresh.add(SHA, Review(verdict="reject"))
    with pytest.raises(StoreError, match="not what was written"):
        fresh.masks()


def test_a_review_by_hand_that_is_no_review_is_told(reviews, tmp_path):
    file = tmp_path / "reviews" / f"{SHA}.json"
    file.parent.mkdir()
    file.write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        reviews.history(SHA)


def test_only_images_have_reviews(reviews, tmp_path):
    for name in ("../../x", "AB" * 32, "", "ab" * 31):
        with pytest.raises(ValueError, match="no sha256"):
            reviews.add(name, Review(verdict="accept"))
    assert list(reviews.images()) == []
    assert not (tmp_path / "reviews").exists()


def test_the_history_is_bounded_but_its_count_is_not(reviews):
    for n in range(MOST + 5):
        reviews.add(SHA, Review(note=str(n)))
    history = reviews.history(SHA)
    assert (len(history.entries), history.count) == (MOST, MOST + 5)
    assert json.loads((reviews._store.root / "reviews" / f"{SHA}.json").read_text())["count"] == MOST + 5


def test_a_label_is_told_from_another_by_content_and_shape():
    label = mask()
    other = label.copy()
    other[0, 0] ^= 1
    assert label_digest(label) == label_digest(np.asfortranarray(label))
    assert len({label_digest(label), label_digest(other), label_digest(label.T)}) == 3
