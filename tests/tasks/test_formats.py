"""Every lossless format is read back bit for bit, by the target's own library where it is to be had."""

import io
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from tasks.export import ExportError, Sample, Target
from tasks.export_coco import pieces, rle, unpacked
from tasks.export_cvat import numbers, read_cvat
from tasks.export_label_studio import decode, encode, labelling_setup, read_label_studio
from tasks.export_yolo import drawn, line, polygons
from tasks.formats import FORMATS, READERS, format_of, reader_of

CLASSES = ("scratch", "mark & <co>", "dent")


def labels():
    """Label maps with holes, lone pixels, pieces that touch at a corner, 255, nothing, everything."""
    rng = np.random.default_rng(0)
    rings = np.zeros((40, 60), np.uint8)
    rings[5:30, 5:30], rings[10:25, 10:25], rings[14:20, 14:20] = 1, 0, 2
    rings[32, 3], rings[33, 4], rings[0, 59], rings[39] = 3, 3, 1, 255
    noise = rng.choice(np.array([0, 0, 1, 2, 3, 255], np.uint8), (17, 23))
    return {
        "a/rings.png": rings,
        "a/b/noise.png": noise,
        "empty.png": np.zeros((9, 31), np.uint8),
        "full.png": np.full((31, 9), 3, np.uint8),
        "wide ö.png": np.repeat(rng.integers(0, 4, (1, 40), np.uint8), 3, 0),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for name, label in labels().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.dstack([label, label // 2, 255 - label])).save(path)
    return root


def samples(folder, known, *, pixels=False):
    for n, (name, label) in enumerate(known.items()):
        arrays = {
            "confidence": np.linspace(0, 1, label.size).reshape(label.shape).astype(np.float16),
            "mean": np.stack([label == 1, label == 2]).astype(np.float32) / 3,
            "entropy": np.full((2, *label.shape), 0.25, np.float32),
            "slot_class": np.array([1, 2], np.uint8),
        }
        image = np.asarray(Image.open(folder / name)) if pixels else None
        yield Sample(name, folder / name, label, ("train", "val")[n % 2], arrays, image)


def write(kind, folder, out, known=None, images=None):
    known = labels() if known is None else known
    target = Target(out, CLASSES, images or FORMATS[kind].images, tuple(known), ("train", "val"))
    pixels = not format_of(kind).takes(folder / next(iter(labels())))
    return format_of(kind).write(samples(folder, known, pixels=pixels), target)


def flat(name):
    return name.removesuffix(".png").replace("/", "__")


def png(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("png", lambda name, part: name),
        ("voc", lambda name, part: f"SegmentationClass/{flat(name)}.png"),
        ("mmseg", lambda name, part: f"ann_dir/{part}/{flat(name)}.png"),
        ("fiftyone", lambda name, part: f"labels/{flat(name)}.png"),
        ("hf", lambda name, part: f"{part}/labels/{flat(name)}.png"),
        ("png16", lambda name, part: f"label/{name}"),
    ],
)
def test_label_pngs_come_back(folder, tmp_path, kind, where):
    write(kind, folder, tmp_path)
    for n, (name, label) in enumerate(labels().items()):
        np.testing.assert_array_equal(png(tmp_path / where(name, ("train", "val")[n % 2])), label)


def test_torchvision_reads_voc(folder, tmp_path):
    from torchvision.datasets import VOCSegmentation

    write("voc", folder, tmp_path / "VOCdevkit" / "VOC2012")
    found = [VOCSegmentation(str(tmp_path), image_set=part) for part in ("train", "val")]
    assert [len(each) for each in found] == [3, 2]
    for each, names in zip(found, (list(labels())[0::2], list(labels())[1::2]), strict=True):
        for (image, mask), name in zip(each, names, strict=True):
            np.testing.assert_array_equal(np.asarray(mask), labels()[name])
            assert image.size == mask.size


@pytest.mark.filterwarnings("ignore")
def test_datasets_reads_hf(folder, tmp_path):
    import datasets

    write("hf", folder, tmp_path / "set")
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache")
    )
    rows = [row for part in ("train", "validation") for row in found[part]]
    assert {row["source"] for row in rows} == set(labels())
    for row in rows:
        np.testing.assert_array_equal(np.asarray(row["label"]), labels()[row["source"]])
        np.testing.assert_array_equal(np.asarray(row["image"]), png(folder / row["source"]))


@pytest.mark.parametrize("kind", ["coco", "coco-semantic"])
def test_pycocotools_reads_coco(folder, tmp_path, kind, capsys):
    from pycocotools.coco import COCO

    write(kind, folder, tmp_path)
    seen = 0
    for file in (tmp_path / "annotations").iterdir():
        found = COCO(str(file))
        for entry in found.loadImgs(found.getImgIds()):
            label = labels()[entry["source"]]
            back = np.zeros_like(label)
            for annotation in found.loadAnns(found.getAnnIds(entry["id"])):
                mask = found.annToMask(annotation).astype(bool)
                assert mask.sum() == annotation["area"]
                assert not back[mask].any()
                back[mask] = annotation["category_id"]
            if "ignore" in entry:
                back[unpacked(entry["ignore"])] = 255
            np.testing.assert_array_equal(back, label)
            np.testing.assert_array_equal(
                png(tmp_path / "images" / entry["file_name"]), png(folder / entry["source"])
            )
            seen += 1
    assert seen == len(labels())
    assert [c["name"] for c in found.loadCats(found.getCatIds())] == list(CLASSES)


def test_an_instance_is_a_connected_piece():
    label = labels()["a/rings.png"]
    found = list(pieces(label, whole=False))
    assert (
        len(found) == 4
    )  # the ring with the lone pixel apart, what is inside it, and two that touch at a corner
    assert all(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] == 2 for _, mask in found)
    np.testing.assert_array_equal(unpacked(rle(label == 1)), label == 1)


def test_polygons_lose_little_and_it_is_told(folder, tmp_path):
    said = write("yolo", folder, tmp_path)
    assert said[0].startswith("IoU lost to polygons")
    data = yaml.safe_load((tmp_path / "data.yaml").read_text(encoding="utf-8"))
    assert list(data["names"].values()) == list(CLASSES)
    label = labels()["a/rings.png"]
    lines = (tmp_path / data["train"].replace("images", "labels") / "a__rings.txt").read_text().splitlines()
    again = drawn(lines, label.shape)
    for k in (1, 2, 3):
        assert ((again == k) & (label == k)).sum() / ((again == k) | (label == k)).sum() > 0.95
    assert (again[11:14, 11:24] == 0).all()  # the hole is one


def test_a_polygon_stays_inside_the_image_and_names_its_class():
    mask = np.zeros((7, 5), bool)
    mask[0, 0] = mask[6, 4] = True
    for polygon in polygons(mask):
        k, *values = line(2, polygon, mask.shape).split()
        assert k == "1"
        assert len(values) >= 6
        assert all(0 < float(value) < 1 for value in values)


def test_cvat_s_archive_comes_back(folder, tmp_path):
    write("cvat", folder, tmp_path)
    found = dict(read_cvat(tmp_path / "annotations.zip", CLASSES))
    assert found.keys() == {name.removesuffix(".png") for name in labels()}
    for name, label in labels().items():
        np.testing.assert_array_equal(found[name.removesuffix(".png")], label)
    # what other readers go by: the colours of labelmap.txt, and Pascal VOC's for the pieces
    with zipfile.ZipFile(tmp_path / "annotations.zip") as archive:
        lines = archive.read("labelmap.txt").decode().splitlines()[1:]
        colours = {tuple(map(int, text.split(":")[1].split(","))) for text in lines}
        with Image.open(io.BytesIO(archive.read("SegmentationClass/a/rings.png"))) as image:
            assert (
                set(
                    image.convert("RGB").get_flattened_data()
                    if hasattr(image, "get_flattened_data")
                    else image.convert("RGB").getdata()
                )
                <= colours
            )
        with Image.open(io.BytesIO(archive.read("SegmentationObject/a/rings.png"))) as image:
            assert image.getpalette()[:768] == numbers()
    assert numbers()[3:9] == [128, 0, 0, 0, 128, 0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no labelmap"),
        ({"labelmap.txt": "rust:1,2,3::"}, "'rust' is none of"),
        ({"labelmap.txt": "scratch:1,2,3::", "SegmentationClass/a.png": None}, "colour #000000 is none"),
    ],
)
def test_an_archive_that_is_not_ours_is_refused_in_words(tmp_path, files, message):
    sink = io.BytesIO()
    Image.new("RGB", (3, 3)).save(sink, format="PNG")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, sink.getvalue() if text is None else text)
    with pytest.raises(ExportError, match=message):
        list(read_cvat(tmp_path / "x.zip", CLASSES))
    (tmp_path / "y.zip").write_bytes(b"PK")
    with pytest.raises(ExportError, match="no archive"):
        list(read_cvat(tmp_path / "y.zip", CLASSES))


def test_label_studio_s_own_decoder_reads_ours(folder, tmp_path):
    from label_studio_converter.brush import decode_rle

    write("label-studio", folder, tmp_path)
    for task in json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8")):
        label = labels()[task["data"]["source"]]
        back = np.zeros_like(label)
        for result in task["predictions"][0]["result"]:
            name = result["value"]["brushlabels"][0]
            k = 255 if name == "ignore" else CLASSES.index(name) + 1
            shape = (result["original_height"], result["original_width"], 4)
            back[decode_rle(result["value"]["rle"]).reshape(shape)[..., 3] > 0] = k
        np.testing.assert_array_equal(back, label)


def test_we_read_what_label_studio_s_encoder_writes():
    from label_studio_converter.brush import encode_rle

    for label in labels().values():
        for k in np.unique(label):
            theirs = encode_rle(np.repeat((label == k).ravel() * np.uint8(255), 4))
            np.testing.assert_array_equal(decode(theirs, label.shape), label == k)
            np.testing.assert_array_equal(decode(encode(label == k), label.shape), label == k)


def test_a_run_longer_than_its_counter_is_split():
    mask = np.ones((300, 300), bool)
    np.testing.assert_array_equal(decode(encode(mask), mask.shape), mask)


@pytest.mark.parametrize("bad", [[], [1, 2, 3], [300], encode(np.ones((3, 3), bool))])
def test_run_lengths_that_do_not_fit_are_refused(bad):
    with pytest.raises(ExportError):
        decode(bad, (4, 4))


def test_label_studio_s_export_is_read_by_the_last_annotation(folder, tmp_path):
    write("label-studio", folder, tmp_path)
    tasks = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    for task in tasks:
        ours = task.pop("predictions")[0]["result"]
        wrong = {"result": [], "was_cancelled": True}
        task["annotations"] = [{"result": []}, {"result": ours}, wrong]
    (tmp_path / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
    found = dict(read_label_studio(tmp_path / "export.json", CLASSES))
    for name, label in labels().items():
        mask = found[name.removesuffix(".png")]
        assert mask is None if not label.any() else np.array_equal(mask, label)
    assert 'value="mark &amp; &lt;co&gt;"' in labelling_setup(CLASSES)


def test_npz_holds_every_number(folder, tmp_path):
    write("npz", folder, tmp_path)
    for sample in samples(folder, labels()):
        with np.load(tmp_path / Path(sample.name).with_suffix(".npz")) as found:
            np.testing.assert_array_equal(found["label"], sample.label)
            for ours, theirs in (("confidence", "confidence"), ("soft", "mean"), ("entropy", "entropy")):
                np.testing.assert_array_equal(found[ours], sample.arrays[theirs])


def test_sixteen_bits_keep_confidence_to_a_half_step(folder, tmp_path):
    write("png16", folder, tmp_path)
    for sample in samples(folder, labels()):
        deep = png(tmp_path / "confidence" / sample.name)
        assert deep.dtype == np.uint16
        assert np.abs(deep / 65535 - sample.arrays["confidence"].astype(float)).max() <= 0.5 / 65535
        np.testing.assert_array_equal(
            png(tmp_path / "soft" / "001" / sample.name), (sample.label == 1) * np.uint16(21845)
        )


def test_images_are_upright_beside_their_labels(tmp_path):
    turned = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.png", exif=exif)
    upright = np.rot90(np.asarray(turned), -1)
    assert not format_of("fiftyone").takes(tmp_path / "a.png")
    sample = Sample("a.png", tmp_path / "a.png", np.zeros((4, 4), np.uint8), "train", {}, upright)
    target = Target(tmp_path / "out", CLASSES, "copy", ("a.png",), ("train",))
    format_of("fiftyone").write([sample], target)
    np.testing.assert_array_equal(png(tmp_path / "out" / "data" / "a.png"), upright)
    format_of("fiftyone").write([sample], Target(tmp_path / "none", CLASSES, "none", ("a.png",), ("train",)))
    assert not (tmp_path / "none" / "data").exists()


def test_names_that_would_meet_are_refused(folder, tmp_path):
    known = {"a/b.png": labels()["empty.png"], "a__b.png": labels()["empty.png"]}
    with pytest.raises(ExportError, match="would both become"):
        write("voc", folder, tmp_path, known)


def test_the_command_line_names_every_format():
    text = (Path(__file__).resolve().parents[2] / "bluemask.py").read_text(encoding="utf-8")
    assert (
        "png, voc, mmseg, hf, fiftyone, coco, coco-semantic, yolo, cvat, label-studio, npz or png16" in text
    )
    assert set(FORMATS) == {
        "png",
        "voc",
        "mmseg",
        "hf",
        "fiftyone",
        "coco",
        "coco-semantic",
        "yolo",
        "cvat",
        "label-studio",
        "npz",
        "png16",
    }
    for choose, names in ((format_of, FORMATS), (reader_of, READERS)):
        with pytest.raises(ExportError, match=next(iter(names))):
            choose("dxf")
