import os

import numpy as np
import pytest
from PIL import Image

from storage.marks import AnnotationIndex
from storage.sources import SourceError, scan

NORMAL = ("good", "free")


def picture(folder, name, size=(8, 6)):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 99).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for name in ("dent/a.png", "dent/deep/b.PNG", "scratch/ü space.jpg", "Good/c.bmp", "dent/a.tif"):
        picture(root, name)
    return root


def table(folder, text, name="labels.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_folder_per_class(folder):
    found = scan(folder, None, NORMAL)
    assert found.classes == ["dent", "scratch"]
    assert [(source.path, source.labels) for source in found.sources] == [
        ("Good/c.bmp", ()),
        ("dent/a.png", ("dent",)),
        ("dent/a.tif", ("dent",)),
        ("dent/deep/b.PNG", ("dent",)),
        ("scratch/ü space.jpg", ("scratch",)),
    ]
    assert not found.problems


def test_what_is_passed_over_is_told(folder):
    picture(folder, "loose.png")
    (folder / "dent" / "notes.txt").write_text("x")
    (folder / "dent" / "Thumbs.db").write_text("x")
    (folder / ".hidden").mkdir()
    picture(folder, ".hidden/x.png")
    found = scan(folder, None, NORMAL)
    assert len(found.sources) == 5
    assert len(found.problems) == 2
    assert "loose.png" in found.problems[0] + found.problems[1]
    assert "'.txt'" in found.problems[0] + found.problems[1]


def test_a_folder_without_an_image_is_named_with_what_it_means(folder):
    (folder / "crack" / "deep").mkdir(parents=True)
    (folder / "stain").mkdir()
    (folder / "stain" / "notes.txt").write_text("x")
    (folder / "free").mkdir()
    (folder / ".hidden").mkdir()
    found = scan(folder, None, NORMAL)
    assert found.classes == ["dent", "scratch"]
    remedy = "put some there, or remove the folder"
    assert found.problems[-2:] == [
        f"'crack', 'stain' in {folder} without an image, so that no image is of this class: {remedy}",
        f"'free' in {folder} without an image, so that it shows no surface without a defect: {remedy}",
    ]
    table(folder, "image,labels\ndent/a.png,dent\n")
    assert not any("without an image" in problem for problem in scan(folder, None, NORMAL).problems), (
        "a CSV's folders mean nothing"
    )


def test_links_out_of_the_folder_are_refused(folder, tmp_path):
    outside = picture(tmp_path, "secret.png")
    os.symlink(outside, folder / "dent" / "link.png")
    os.symlink(tmp_path, folder / "elsewhere")
    found = scan(folder, None, NORMAL)
    assert len(found.sources) == 5
    assert len(found.problems) == 2


def test_a_labels_csv(folder):
    table(
        folder, "\ufeffimage,labels\r\ndent/a.png,dent;scratch\r\nscratch/ü space.jpg,\r\ndent/a.tif,good\r\n"
    )
    found = scan(folder, None, NORMAL)
    assert {s.path: s.labels for s in found.sources} == {
        "dent/a.png": ("dent", "scratch"),
        "dent/a.tif": (),
        "scratch/ü space.jpg": (),
    }
    assert found.classes == ["dent", "scratch"]
    assert found.problems == ["'Good/c.bmp', 'dent/deep/b.PNG' not named in labels.csv, left out"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,labels\n../x.png,dent\n",
            r"labels.csv, line 2: image '../x.png' is not below .*; remove the line",
        ),
        ("image,labels\n/etc/passwd,dent\n", "is not below"),
        ("image,labels\n,dent\n", "is not below"),
        ("image,labels\ndent,dent\n", "line 2: image 'dent' is no image format"),
        (
            "image,labels\ndent/a.png,dent\ndent/a.png,scratch\n",
            "line 3: .* stands in line 2 with other labels",
        ),
        ("image,labels\ndent/a.png,dent;Good\n", "line 2: .* a defect and none at once"),
        ("image;labels\ndent/a.png;dent\n", "expected image,labels, separated by commas"),
        ("image,labels\ndent/a.png,dent,scratch\n", "line 2: 3 fields, expected 2"),
        ("file,class\ndent/a.png,dent\n", "expected image,labels"),
        ("", "expected image,labels"),
        ('image,labels\n"dent/a.png,dent\n', "is not a CSV"),
    ],
)
def test_a_wrong_csv_names_the_line_and_the_remedy(folder, text, message):
    table(folder, text)
    with pytest.raises(SourceError, match=message):
        scan(folder, None, NORMAL)


def test_a_csv_with_lost_and_repeated_lines_goes_on_and_says_so(folder):
    table(
        folder, "image,labels\n" + "dent/a.png,dent\n" * 2 + "".join(f"dent/{n}.png,dent\n" for n in range(9))
    )
    found = scan(folder, None, NORMAL)
    assert [source.path for source in found.sources] == ["dent/a.png"]
    told = " ".join(found.problems)
    assert "line 3: image 'dent/a.png' stands in line 2 already" in told
    assert "'line 4: dent/0.png', 'line 5: dent/1.png', 'line 6: dent/2.png' and 6 more" in told


def test_a_csv_leads_out_of_the_folder_by_no_link(folder, tmp_path):
    picture(tmp_path, "outside/x.png")
    os.symlink(tmp_path / "outside", folder / "way")
    os.symlink(tmp_path / "outside" / "x.png", folder / "x.png")
    for path in ("way/x.png", "x.png"):
        table(folder, f"image,labels\n{path},dent\n")
        with pytest.raises(SourceError, match="is not below"):
            scan(folder, None, NORMAL)


def test_a_csv_works_through_a_linked_image_folder(folder, tmp_path):
    table(folder, "image,labels\ndent\\a.png,dent\n")
    os.symlink(folder, tmp_path / "link")
    assert [source.path for source in scan(tmp_path / "link", None, NORMAL).sources] == ["dent/a.png"]


@pytest.mark.parametrize("beside", [False, True])
def test_classes_txt_gives_the_order_of_classes(folder, tmp_path, beside):
    table(tmp_path if beside else folder, "\ufeffscratch\r\nrust\r\ndent\r\n", "classes.txt")
    found = scan(folder, None, NORMAL)
    assert found.classes == ["scratch", "rust", "dent"]
    assert not found.problems


@pytest.mark.parametrize(
    ("text", "fault"),
    [("dent\n", "'scratch' is missing"), ("good\nscratch\ndent\n", "'good'"), ("a\na\n", "")],
)
def test_a_classes_txt_that_does_not_fit_is_passed_over_and_said(folder, text, fault):
    table(folder, text, "classes.txt")
    found = scan(folder, None, NORMAL)
    assert found.classes == ["dent", "scratch"]
    assert "classes.txt does not give the order" in found.problems[0]
    assert fault in found.problems[0]


def test_what_is_no_plain_file_is_passed_over(folder):
    os.mkfifo(folder / "dent" / "pipe.png")
    os.symlink("nowhere.png", folder / "dent" / "lost.png")
    odd = os.fsencode(folder / "dent") + b"/\xff.png"
    with open(odd, "wb"):
        pass
    found = scan(folder, None, NORMAL)
    assert len(found.sources) == 5
    assert len(found.problems) == 3
    for problem in found.problems:
        problem.encode("utf-8")


def test_a_csv_elsewhere_counts_its_paths_from_itself(folder, tmp_path):
    other = table(tmp_path, "image,labels\nimages/dent/a.png,dent\n", "other.csv")
    assert [source.path for source in scan(folder, other, NORMAL).sources] == ["dent/a.png"]


def test_an_empty_or_missing_folder_is_one_clear_error(tmp_path):
    with pytest.raises(SourceError, match="mount it"):
        scan(tmp_path / "none", None, NORMAL)
    with pytest.raises(SourceError, match="holds no labelled image"):
        scan(tmp_path, None, NORMAL)


def test_classes_that_differ_by_case_are_noted(folder):
    picture(folder, "Dent/x.png")
    assert "differ only by case" in scan(folder, None, NORMAL).problems[0]


def test_many_names_are_listed_quickly_and_in_order(tmp_path):
    (tmp_path / "dent").mkdir()
    for n in range(3000):
        (tmp_path / "dent" / f"{n:05d}.png").touch()
    paths = [source.path for source in scan(tmp_path, None, NORMAL).sources]
    assert paths == sorted(paths)
    assert len(paths) == 3000


def test_annotations_from_an_index_png(folder, tmp_path):
    marks = np.full((6, 8), 255, np.uint8)
    marks[2, 3], marks[0, 0] = 2, 0
    (tmp_path / "marks" / "dent").mkdir(parents=True)
    Image.fromarray(marks).save(tmp_path / "marks" / "dent" / "a.png")
    index = AnnotationIndex(folder, tmp_path / "marks", None)
    np.testing.assert_array_equal(
        index.label_map("dent/a.png", (6, 8), ["dent", "scratch"], ["scratch"]), marks
    )
    assert index.digest("dent/a.png")
    assert not index.digest("Good/c.bmp")
    with pytest.raises(SourceError, match="8 × 6 pixels, its image 8 × 7"):
        index.label_map("dent/a.png", (7, 8), ["dent", "scratch"], ["scratch"])
    with pytest.raises(SourceError, match="value 2; expected 0 to 1"):
        index.label_map("dent/a.png", (6, 8), ["dent"], ["dent"])


def test_annotations_from_points(folder, tmp_path):
    points = table(
        tmp_path, "image,x,y,label\ndent/a.png,3,2,dent\ndent/a.png,0,0,background\n", "points.csv"
    )
    index = AnnotationIndex(folder, None, points)
    marks = index.label_map("dent/a.png", (6, 8), ["dent"], ["dent"])
    assert (marks[2, 3], marks[0, 0], (marks == 255).sum()) == (1, 0, 46)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("9,2,dent", "lies outside its 8 × 6"),
        ("a,2,dent", "expected pixels"),
        ("inf,2,dent", "expected pixels"),
        ("1,2,rust", "label 'rust'; expected background, dent"),
        ("1,2,dnet", "did you mean 'dent'"),
    ],
)
def test_a_wrong_point_names_its_line(folder, tmp_path, row, message):
    points = table(tmp_path, f"image,x,y,label\ndent/a.png,{row}\n", "points.csv")
    with pytest.raises(SourceError, match=message):
        AnnotationIndex(folder, None, points).label_map("dent/a.png", (6, 8), ["dent"], ["dent"])


@pytest.mark.parametrize(
    ("labels", "shown"), [((), "is labelled as having no defect"), (("rust",), "has the label rust")]
)
def test_a_mark_that_the_label_denies_is_refused(folder, tmp_path, labels, shown):
    points = table(tmp_path, "image,x,y,label\ndent/a.png,3,2,dent\n", "points.csv")
    with pytest.raises(SourceError, match=f"line 2: dent/a.png: 'dent' is marked, but the image {shown}"):
        AnnotationIndex(folder, None, points).label_map("dent/a.png", (6, 8), ["dent", "rust"], labels)
    picture(tmp_path, "marks/dent/a.png")
    Image.fromarray(np.ones((6, 8), np.uint8)).save(tmp_path / "marks" / "dent" / "a.png")
    with pytest.raises(SourceError, match=f"a.png: 'dent' is marked, but the image {shown}"):
        AnnotationIndex(folder, tmp_path / "marks", None).label_map(
            "dent/a.png", (6, 8), ["dent", "rust"], labels
        )


def test_two_marks_on_one_pixel_that_differ_are_refused(folder, tmp_path):
    points = table(
        tmp_path,
        "image,x,y,label\ndent/a.png,3,2,dent\ndent/a.png,3,2,dent\ndent/a.png,3,2,background\n",
        "points.csv",
    )
    with pytest.raises(SourceError, match=r"line 4: dent/a\.png: \(3, 2\) is marked as 'dent' already"):
        AnnotationIndex(folder, None, points).label_map("dent/a.png", (6, 8), ["dent"], ["dent"])


def test_marks_of_no_image_are_told(folder, tmp_path):
    points = table(tmp_path, "image,x,y,label\ndent\\a.png,3,2,dent\ndent/x.png,0,0,dent\n", "points.csv")
    picture(tmp_path, "marks/dent/a.png")
    picture(tmp_path, "marks/dent/y.png")
    stray = AnnotationIndex(folder, tmp_path / "marks", points).stray({"dent/a.png", "Good/c.bmp"})
    assert len(stray) == 2
    assert stray[0] == (
        f"points.csv, line 3: no image of {folder} has the path 'dent/x.png'; did you mean 'dent/a.png'?"
    )
    assert "'dent/y.png' in" in stray[1]
