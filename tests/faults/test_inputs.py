"""Whatever lies in the image folder: each bad file is named with reason and remedy, the good ones come out alike."""

import os
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from pinned_site import pinned_site
from small_run import Silent, draw

from flows.browse import open_backend, open_index
from flows.catalogue import refresh
from flows.outputs import finished
from flows.steps import Run
from storage.catalog import load
from storage.documents import file_digest
from storage.lock import writer_lock
from storage.sources import SourceError
from tasks.registry import stages


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width=60_000, height=60_000):
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def bad_files(folder, good):
    """Write every file that cannot be used; gives a word of the reason that is expected for each."""
    data = good.read_bytes()
    picture = Image.open(good).convert("L")
    files = {
        "empty.png": (b"", "empty"),
        "truncated.png": (data[: len(data) // 2], "truncated"),
        "garbage.png": (os.urandom(500), "not a PNG"),
        "noend.png": (data[:-12], "truncated"),
        "bomb.png": (bomb(), "max_megapixels"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    picture.save(folder / "pages.tif", save_all=True, append_images=[picture])
    Image.fromarray(np.random.default_rng(0).random((20, 20)).astype(np.float32)).save(folder / "float.tif")
    return {name: word for name, (_, word) in files.items()} | {"pages.tif": "pages", "float.tif": "32-bit"}


def odd_files(folder, good):
    """Files that look strange but are images all the same."""
    picture = Image.open(good).convert("RGB")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("RGBA").save(folder / "alpha.png")
    picture.convert("1").save(folder / "onebit.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "rotated.jpg", exif=exif)
    Image.fromarray(np.full((1, 1), 90, np.uint8)).save(folder / "one.png")
    cv2.imwrite(str(folder / "deep.png"), np.arange(600, dtype=np.uint16).reshape(20, 30) * 7)
    long = folder.joinpath(*["d" * 60] * 4)
    long.mkdir(parents=True)
    picture.save(long / ("x" * 60 + ".png"))
    names = ["ünï – 表面.png", "new\nline.png", "space and 'quote'.png"]
    for n, name in enumerate(names):
        picture.resize((21 + n, 20)).save(folder / name)
    (folder / "twice.png").write_bytes(good.read_bytes())
    made = [
        "cmyk.jpg",
        "palette.png",
        "alpha.png",
        "onebit.png",
        "rotated.jpg",
        "one.png",
        "deep.png",
        "twice.png",
    ]
    return [*made, *names, (long / ("x" * 60 + ".png")).relative_to(folder).as_posix()]


def strange_entries(folder, outside):
    """Entries that are no plain files; gives a word of the note that is expected for each."""
    outside.mkdir()
    Image.new("L", (20, 20)).save(outside / "secret.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "escape.png").symlink_to(outside / "secret.png")
    (folder / "folder").symlink_to(outside)
    (folder / "named.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    return {
        "loop.png": "link",
        "escape.png": "link out of",
        "folder": "not followed",
        "pipe.png": "no plain file",
    }


def test_each_bad_file_is_named_and_the_good_ones_come_out_alike(site, tell):
    before, folder = site.digests(), site.images / "dent"
    good = folder / "001.png"
    bad, odd = bad_files(folder, good), odd_files(folder, good)
    notes = strange_entries(folder, site.root / "outside")
    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        for step in run.steps():
            if not isinstance(step, str):
                run.stage(step)
        summary = run.close()
    assert not summary.failures
    assert summary.exit_code == 3
    why = {row.path: row.why for row in summary.quarantined}
    assert set(why) == {f"dent/{name}" for name in bad}
    for name, word in bad.items():
        assert word in why[f"dent/{name}"], f"{name}: {why[f'dent/{name}']}"
    for name, word in notes.items():
        assert any(f"dent/{name}" in note and word in note for note in summary.catalogue.problems), name
    live = {row.path for row in load(site.store) if row.status == "active" and row.block}
    assert {f"dent/{name}" for name in odd} <= live
    assert not any("secret" in row.path or "folder/" in row.path for row in load(site.store))
    assert before.items() <= site.digests().items(), "the good images' arrays are unchanged"
    assert summary.failed_images == {}
    tell(
        "bad inputs",
        len(bad) + len(odd) + len(notes),
        "each named with file, reason and remedy; good ones unchanged",
    )


def test_an_image_that_vanishes_under_way_takes_no_neighbour_with_it(site, tell):
    folder = site.images / "dent"
    for n in range(3):
        draw(site.images, f"dent/new{n}.png", 7_000_000 + n)
    lost, data = folder / "new1.png", (folder / "new1.png").read_bytes()
    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        lost.unlink()
        for step in run.steps():
            if not isinstance(step, str):
                run.stage(step)
        summary = run.close()
    assert set(summary.failed_images) == {"dent/new1.png"}
    assert not summary.failures
    assert summary.exit_code == 3
    done = {item.row.path for item in finished(site.store, site.config)}
    assert {"dent/new0.png", "dent/new2.png"} <= done
    assert "dent/new1.png" not in done
    index = open_index(site.store.root)
    open_backend(site.store.root, index, None).refresher.run()
    seen = dict(
        index.connection().execute("SELECT path, state FROM image WHERE path LIKE 'dent/new%'").fetchall()
    )
    assert seen == {"dent/new0.png": "labelled", "dent/new1.png": "failed", "dent/new2.png": "labelled"}
    assert "new1.png" in site.call("status", str(site.store.root)).stdout
    lost.write_bytes(data)
    assert site.todo() == {"ingest": 3}, "it is tried again, once a run"
    site.finish()
    assert "dent/new1.png" in {item.row.path for item in finished(site.store, site.config)}
    assert site.todo() == {}
    tell("image lost while a run is under way", 1, "named; its block's other images labelled; done when back")


def test_a_share_that_goes_under_way_is_a_failure_and_not_black_images(site, monkeypatch):
    for n in range(4):
        draw(site.images, f"dent/new{n}.png", 7_100_000 + n)
    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        for path in (site.images / "dent").glob("new*"):
            path.unlink()
        run.stage(stages()[0])
        run.stage(stages()[1])
        summary = run.close()
    assert summary.exit_code == 1
    (said,) = summary.failures.values()
    assert "none of its images could be had" in said
    assert not summary.failed_images


def test_a_second_try_that_breaks_is_told(site, monkeypatch):
    for n in range(2):
        draw(site.images, f"dent/new{n}.png", 7_200_000 + n)
    lost = site.images / "dent" / "new1.png"
    data = lost.read_bytes()
    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        lost.unlink()
        run.stage(stages()[0])
    lost.write_bytes(data)

    def broken(*_):
        raise RuntimeError("broken")

    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        monkeypatch.setattr("flows.execute.Job._ingest", broken)
        run.stage(stages()[0])
        summary = run.close()
    assert any("broken" in said for said in summary.failures.values())
    assert "ingest" not in summary.done


@pytest.mark.parametrize(("width", "status"), [(20_000, "quarantined"), (2_500, "active")])
def test_a_very_long_image_is_done_or_refused_alone(tmp_path, width, status):
    site = pinned_site(tmp_path / "site", images=1)
    noise = np.random.default_rng(0).integers(90, 110, (20, width)).astype(np.uint8)
    cv2.imwrite(str(site.images / "blob" / "long.png"), noise)
    assert site.finish()["fuse"] == 1
    row = next(row for row in load(site.store) if row.path == "blob/long.png")
    assert row.status == status
    if status == "quarantined":
        assert "20000 × 20 pixels: too narrow" in row.why


def test_a_jpeg_whose_bits_flip_later_is_another_image(site):
    path = site.images / "dent" / "photo.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8))
    site.finish()
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time: as a failing disk has it
    site.change(data={"folder": "images", "max_gone": 1.0})
    site.finish()
    rows = [row for row in load(site.store) if row.path == "dent/photo.jpg"]
    assert rows[0].status == "retired"
    assert rows[-1].sha256 == file_digest(path)


def test_a_brighter_image_than_the_range_is_refused_not_clipped(site):
    cv2.imwrite(str(site.images / "dent" / "ten.png"), np.arange(900, dtype=np.uint16).reshape(30, 30))
    site.finish()
    assert site.store.read_json("value_range.json") == [0, 1023]
    cv2.imwrite(str(site.images / "dent" / "twelve.png"), np.full((30, 30), 4000, np.uint16))
    site.finish()
    row = next(row for row in load(site.store) if row.path == "dent/twelve.png")
    assert row.status == "quarantined"
    assert "data.value_range: [0, 4095]" in row.why


def test_equal_images_that_move_together_keep_both_rows(site):
    twin = site.images / "dent" / "twin.png"
    twin.write_bytes((site.images / "dent" / "001.png").read_bytes())
    site.finish()
    rows = len(load(site.store))
    (site.images / "scratch" / "deep").mkdir()
    for n, name in enumerate(("001.png", "twin.png")):
        os.rename(site.images / "dent" / name, site.images / "scratch" / "deep" / f"{n}.png")
    done = site.finish()
    assert "embed" not in done
    assert len(load(site.store)) == rows


# -- labels.csv -------------------------------------------------------------------------------------------

GOOD = [("dent/001.png", "dent"), ("blob/000.png", "blob"), ("good/003.png", "")]


def look(site, text, encoding="utf-8"):
    (site.images / "labels.csv").write_bytes(text.encode(encoding))
    site.change(data={"folder": "images", "max_gone": 1.0})
    return refresh(site.store, site.config, lambda done, total: None, write=False)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_labels_with_bom_and_crlf_are_read(site, ending, encoding):
    text = ending.join(["image,labels", *(",".join(line) for line in GOOD), ""])
    rows = {row.path: row for row in look(site, text, encoding).rows if row.status == "active"}
    assert {path: rows[path].labels for path, _ in GOOD} == {
        path: (label,) if label else () for path, label in GOOD
    }


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (["dent/001.png,dent", "dent/001.png,dent"], "stands in line 2 already"),
        (["dent/001.png,dent", "dent/none.png,dent"], "not there"),
        (["dent/001.png,dent"], "not named in labels.csv"),
    ],
)
def test_odd_rows_are_noted(site, lines, part):
    found = look(site, "\n".join(["image,labels", *lines]))
    assert any(part in problem for problem in found.problems), found.problems


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (["dent/001.png,dent", "dent/001.png,blob"], "other labels"),
        (["../outside.png,dent"], "not below"),
        (["/etc/passwd,dent"], "not below"),
        (["dent/001.txt,dent"], "no image format"),
    ],
)
def test_wrong_rows_stop_the_run_by_line(site, lines, part):
    with pytest.raises(SourceError, match=rf"line \d.*{part}"):
        look(site, "\n".join(["image,labels", *lines]))


def test_an_unknown_class_is_a_class_of_its_own_and_said_to_be_new(site):
    text = "\n".join(["image,labels", *(",".join(line) for line in GOOD), "scratch/002.png,dnet"])
    found = look(site, text)
    assert found.classes[-1] == "dnet"
    assert any("'dnet'" in problem and "new" in problem for problem in found.problems), found.problems


def test_the_same_picture_with_different_labels_is_told(site):
    shutil.copyfile(site.images / "dent" / "001.png", site.images / "blob" / "also.png")
    shutil.copyfile(site.images / "dent" / "001.png", site.images / "dent" / "again.png")
    shutil.copyfile(site.images / "dent" / "005.png", site.images / "dent" / "twice.png")
    with writer_lock(site.store.root):
        told = [p for p in Run(site.store, site.config, Silent(), dry=True).catalogue.problems if "same" in p]
    assert len(told) == 1
    assert told[0].startswith("the same picture has different labels: ")
    for part in ("blob/also.png (blob)", "dent/001.png (dent)", "dent/again.png (dent)"):
        assert part in told[0]


def test_no_stage_sees_a_bad_name_twice(site):
    assert all(receipt.failed == {} for s in stages() for receipt in site.store.receipts(s.name).values())
