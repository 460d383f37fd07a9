import contextlib
import tracemalloc

import numpy as np
import pytest
import xarray
from zarr.storage import MemoryStore

from storage.arrays import ArraySpec, content_digest, open_array, read_array, together, write_group

LABEL = ArraySpec(
    name="p1", dims=("image", "y", "x"), dtype="uint8", kind="label map", description="P1", fill=255
)
CAM = ArraySpec(
    name="cam", dims=("image", "slot", "y", "x"), dtype="float16", kind="probability", description="CAM"
)


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return {
        "p1": rng.integers(0, 3, (3, 600, 20)).astype(np.uint8),
        "cam": rng.random((3, 2, 600, 20)).astype(np.float16),
    }


@pytest.fixture
def group(tmp_path, values):
    write_group(tmp_path / "a.zarr", [LABEL, CAM], values, {"stage": "cam"})
    return tmp_path / "a.zarr"


def test_what_is_written_is_read_back(group, values):
    for name, value in values.items():
        np.testing.assert_array_equal(read_array(group, name), value)


@pytest.mark.parametrize(("written", "files"), [(1, 3), (25_000, 3), (100_000, 3), (1 << 20, 1)])
def test_in_pieces_it_is_the_same(tmp_path, values, monkeypatch, written, files):
    """144 kB of three images: however many of them share a shard."""
    monkeypatch.setattr("storage.arrays.PIECE", written)
    digests = write_group(tmp_path / "a.zarr", [LABEL, CAM], values, {})
    assert len(list((tmp_path / "a.zarr/cam/c").glob("*"))) == files
    for name, value in values.items():
        found = read_array(tmp_path / "a.zarr", name)
        np.testing.assert_array_equal(found, value)
        assert found.dtype == value.dtype
        assert digests[name] == content_digest(value)


@pytest.mark.parametrize(
    ("images", "size", "expected"),
    [
        (64, 75 << 20, 16),
        (64, 32 << 20, 64),
        (36, 42 << 20, 18),
        (37, 42 << 20, 19),
        (1, 99 << 20, 1),
        (0, 0, 1),
    ],
)
def test_shards_are_even_where_that_can_be(images, size, expected):
    assert together(images, size) == expected


class Counted(MemoryStore):
    """Counts what is fetched."""

    fetched = 0

    async def get(self, *given, **named):
        self.fetched += 1
        return await super().get(*given, **named)


def test_a_shard_is_fetched_at_once(monkeypatch):
    """Each of 64 images of its own would be 64 requests to an object store, one after the other."""
    monkeypatch.setattr("storage.arrays.PIECE", 64 << 10)
    value, store = np.ones((64, 64, 64), np.uint8), Counted({})  # 256 kB: four shards
    write_group(store, [LABEL], {"p1": value}, {})
    store.fetched = 0
    np.testing.assert_array_equal(read_array(store, "p1"), value)
    assert store.fetched <= 4 + 2


def test_an_array_of_nothing_is_read_back(tmp_path):
    nothing = np.zeros((0, 8, 8), np.uint8)
    write_group(tmp_path / "n.zarr", [LABEL], {"p1": nothing}, {})
    assert read_array(tmp_path / "n.zarr", "p1").shape == (0, 8, 8)


def test_writing_and_reading_hold_little_more_than_the_array(tmp_path, monkeypatch):
    """Not all chunks, and all that is made of them, beside it, as zarr does."""
    value = np.random.default_rng(0).integers(
        0, 256, (64, 256, 512), np.uint8
    )  # 8 MB that cannot be compressed
    monkeypatch.setattr("storage.arrays.PIECE", 1 << 20)
    for n in range(2):  # what is imported and kept at the first time does not count
        tracemalloc.start()
        write_group(tmp_path / f"{n}.zarr", [LABEL], {"p1": value}, {})
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        read_array(tmp_path / f"{n}.zarr", "p1")
        read = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    assert written < value.nbytes  # 0.4 of it, and 2.0 in one piece
    assert read < 2 * value.nbytes  # 1.5, and 4.2


def test_xarray_opens_a_group_as_it_is(group, values):
    with xarray.open_zarr(group, consolidated=False, mask_and_scale=False) as found:
        assert found["cam"].dims == ("image", "slot", "y", "x")
        np.testing.assert_array_equal(found["p1"].values, values["p1"])
        assert found["p1"].attrs["description"] == "P1"


def test_one_shard_an_array_and_one_image_a_chunk(group):
    array = open_array(group, "p1")
    assert array.chunks == (1, 512, 20)
    assert array.shards == (3, 1024, 20)
    assert len(list((group / "p1" / "c").rglob("*/*/0"))) == 1


def test_a_flipped_bit_is_never_read_as_other_data(group, values):
    shard = next(path for path in (group / "cam" / "c").rglob("*") if path.is_file())
    data = shard.read_bytes()
    for place in np.random.default_rng(1).integers(0, len(data), 30):
        broken = bytearray(data)
        broken[place] ^= 1 << int(place % 8)
        shard.write_bytes(bytes(broken))
        with contextlib.suppress(Exception):  # whatever the codec raises: then the flip was seen
            np.testing.assert_array_equal(read_array(group, "cam"), values["cam"])


def test_images_of_nothing_but_zeros_are_still_written(tmp_path):
    empty = {"p1": np.zeros((2, 8, 8), np.uint8)}
    write_group(tmp_path / "z.zarr", [LABEL], empty, {})
    assert any(path.is_file() for path in (tmp_path / "z.zarr" / "p1" / "c").rglob("*"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((2, 8), np.uint8), "expected 3: image × y × x"),
        (np.zeros((2, 8, 8), np.float32), "dtype float32, expected uint8"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        write_group(tmp_path / "b.zarr", [LABEL], {"p1": value}, {})


def test_undeclared_and_missing_arrays_are_refused(tmp_path, values):
    with pytest.raises(ValueError, match="declared"):
        write_group(tmp_path / "b.zarr", [LABEL], values, {})


def test_a_group_is_written_once(group, values):
    with pytest.raises(FileExistsError):
        write_group(group, [LABEL, CAM], values, {})


def test_digest_sees_shape_dtype_and_values():
    a = np.arange(6, dtype=np.uint8)
    digests = {content_digest(x) for x in (a, a.reshape(2, 3), a.astype(np.int8), a + 1)}
    assert len(digests) == 4
    assert content_digest(a) == content_digest(a.copy())
    assert content_digest(np.zeros((0, 3), np.uint8)) == content_digest(np.zeros((0, 3), np.uint8))
