"""A second export into the same folder: what the first wrote and this one does not goes, and nothing else."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from flows.exporting import MADE_AS, export_store
from flows.selection import Choice
from storage.catalog import load, save
from storage.reviews import Review, Reviews, label_digest
from storage.store import Store
from tasks.export import ExportError
from tasks.formats import FORMATS
from tasks.reading import Labelled
from tasks.written import NAME, keep_known, known_files

OURS = {NAME, MADE_AS}


def export(labelled, out, **how):
    """What is said, in one line."""
    said = io.StringIO()
    export_store(labelled.store.root, out, Console(file=said, width=200), **how)
    return " ".join(said.getvalue().split())


def files(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if not path.is_dir() and path.name not in OURS
    }


def moved(labelled, label="blob", to="scratch"):
    """An image that somebody moved to another class's folder, as a run would take it in. Returns its path before and after."""
    rows = load(labelled.store)
    row = next(row for row in rows if row.status == "active" and row.labels == (label,))
    path = f"{to}/{row.path.rsplit('/', 1)[-1]}"
    (labelled.root / "images" / row.path).rename(labelled.root / "images" / path)
    save(labelled.store, [replace(r, path=path) if r is row else r for r in rows])
    return row.path, path


def test_the_label_of_a_path_that_an_image_has_left_goes(labelled, tmp_path):
    out = tmp_path / "out"
    export(labelled, out)
    (out / "mine.png").write_bytes(b"a note of my own")
    before, after = moved(labelled)
    first = files(out)
    assert "removed: 1 file that an earlier export wrote and this one does not" in export(labelled, out)
    second = files(out)
    assert first.keys() - second.keys() == {before}
    assert second.keys() - first.keys() == {after}
    assert second["mine.png"] == b"a note of my own"
    assert "removed" not in export(labelled, out)


@pytest.mark.parametrize("kind", FORMATS)
def test_no_format_forgets_a_file(labelled, tmp_path, kind):
    """Exported again after an image moved, a folder holds just what a fresh one does."""
    export(labelled, tmp_path / "out", kind=kind, choice=Choice(split=(0.5, 0.5)))
    moved(labelled)
    export(labelled, tmp_path / "out", kind=kind)
    export(labelled, tmp_path / "fresh", kind=kind)
    assert files(tmp_path / "out").keys() == files(tmp_path / "fresh").keys()


def test_folders_that_become_empty_go_with_it(labelled, tmp_path):
    out = tmp_path / "out"
    export(labelled, out)
    rows = load(labelled.store)
    gone = {row.id for row in rows if row.path.startswith("blob/")}
    save(labelled.store, [replace(row, status="retired") if row.id in gone else row for row in rows])
    assert f"removed: {len(gone)} files" in export(labelled, out)
    assert not (out / "blob").exists()
    assert (out / "dent").is_dir()


def test_what_somebody_changed_since_is_left_and_told(labelled, tmp_path):
    out = tmp_path / "out"
    export(labelled, out)
    before, _ = moved(labelled)
    (out / before).write_bytes(b"corrected in another tool")
    said = export(labelled, out)
    assert f"left: 1 file of an earlier export that are no longer as it wrote them: {before}" in said
    assert "removed" not in said
    assert (out / before).read_bytes() == b"corrected in another tool"


@pytest.mark.parametrize(
    "how",
    [
        {"choice": Choice(classes=("scratch",))},
        {"choice": Choice(reviewed=True)},
        {"images": "none"},
    ],
    ids=["classes", "reviewed", "images"],
)
def test_an_option_removes_nothing_that_it_leaves_out(labelled, tmp_path, how):
    out = tmp_path / "out"
    export(labelled, out, kind="hf", choice=Choice(split=(0.5, 0.5)))
    item = next(item for item in items(labelled) if item.row.labels == ("scratch",))
    Reviews(labelled.store).add(
        item.row.sha256, Review(verdict="accept", judged=label_digest(item.array("p")))
    )
    before = files(out)
    choice = replace(how.get("choice", Choice()), split=(0.5, 0.5))
    assert "removed" not in export(labelled, out, kind="hf", **how | {"choice": choice})
    assert before.keys() == files(out).keys()
    assert "removed" not in export(labelled, out, kind="hf", choice=Choice(split=(0.5, 0.5)))
    assert files(out) == before, "and the whole is as it was"


def items(labelled):
    from flows.outputs import finished

    found: list[Labelled] = finished(labelled.store, labelled.config)
    return found


def test_a_label_that_is_rejected_afterwards_goes(labelled, tmp_path):
    out = tmp_path / "out"
    export(labelled, out)
    item = items(labelled)[0]
    Reviews(labelled.store).add(
        item.row.sha256, Review(verdict="reject", judged=label_digest(item.array("p")))
    )
    assert "removed: 1 file" in export(labelled, out)
    assert not (out / item.row.path).exists()


def test_another_store_s_labels_are_not_ours_to_remove_though_it_lay_at_the_same_place(labelled, tmp_path):
    out = tmp_path / "out"
    export(labelled, out)
    theirs = {
        f"other/{path}": replace(
            file, path=f"other/{path}", image=f"other/{file.image}", sha256=file.sha256[::-1]
        )
        for path, file in known_files(out).items()
        if file.image
    }
    for path in theirs:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path.removeprefix("other/")).rename(out / path)
    keep_known(out, theirs)
    said = export(labelled, out)
    assert "removed" not in said
    assert f"left: {len(theirs)} files of another store's export: " in said
    assert theirs.keys() <= files(out).keys()


def test_a_store_that_was_moved_still_knows_its_labels(labelled, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export(labelled, out)
    (labelled.root / "store").rename(labelled.root / "another")
    monkeypatch.setattr(type(labelled), "store", property(lambda self: Store(self.root / "another")))
    before, after = moved(labelled)
    assert "removed: 1 file" in export(labelled, out)
    assert before not in files(out)
    assert after in files(out)


def test_a_folder_that_only_its_case_tells_apart_is_the_same_where_names_have_none(labelled, tmp_path):
    """As on exFAT and Windows shares; a link stands for what those make of two names."""
    out = tmp_path / "out"
    export(labelled, out)
    rows = load(labelled.store)
    save(labelled.store, [replace(row, path=row.path.replace("blob/", "Blob/")) for row in rows])
    (labelled.root / "images" / "Blob").symlink_to(labelled.root / "images" / "blob")
    (out / "Blob").symlink_to(out / "blob")
    assert "removed" not in export(labelled, out)
    mine = [row.path for row in rows if row.path.startswith("blob/")]
    assert mine
    assert all((out / path).is_file() for path in mine)
    assert not any(path in known_files(out) for path in mine)


@pytest.mark.parametrize(
    "line",
    [
        b'{"path": "\xc3',
        b'{"path": 3, "store": "s", "image": "", "sha256": "", "pixels": false, "content": "x"}',
        b"[]\n",
    ],
)
def test_a_line_that_says_nothing_stops_no_export(labelled, tmp_path, line):
    out = tmp_path / "out"
    export(labelled, out)
    with (out / NAME).open("ab") as log:
        log.write(line)
    before, _ = moved(labelled)
    assert "removed: 1 file" in export(labelled, out)
    assert before not in files(out)


def test_what_a_broken_off_export_wrote_is_known(labelled, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("tasks.export.palette", none_left(4))
    with pytest.raises(OSError, match="full"):
        export(labelled, out)
    monkeypatch.undo()
    written = files(out).keys() - {"UNFINISHED.txt", "classes.txt"}
    assert len(written) == 4
    with (out / NAME).open("a") as log:
        log.write('{"path": "torn')
    rows = load(labelled.store)
    save(labelled.store, [replace(r, status="retired") if r.path in written else r for r in rows])
    assert "removed: 4 files" in export(labelled, out)
    assert not written & files(out).keys()


def none_left(count):
    """Labels as ever, and from then on a full disk."""
    from tasks.palette import palette

    left = [count]

    def drawn():
        if not left[0]:
            raise OSError(28, "the disk is full")
        left[0] -= 1
        return palette()

    return drawn


def test_a_list_that_was_tampered_with_reaches_nothing_outside(labelled, tmp_path):
    out = tmp_path / "out"
    export(labelled, out)
    (tmp_path / "precious.png").write_bytes((out / "classes.txt").read_bytes())
    text = (out / NAME).read_text()
    line = next(line for line in text.splitlines() if '"classes.txt"' in line)
    (out / NAME).write_text(text + line.replace('"classes.txt"', '"../precious.png"') + "\n")
    export(labelled, out)
    assert (tmp_path / "precious.png").exists()


@pytest.mark.parametrize("kind", ["voc", "yolo", "hf", "fiftyone"])
def test_nothing_is_written_through_a_link_that_somebody_put_there(labelled, tmp_path, kind):
    """To have the images lie on another disk, say: what it leads to is not the export's to change."""
    out, theirs = tmp_path / "out", tmp_path / "theirs"
    export(labelled, out, kind=kind)
    theirs.mkdir()
    linked = [name for name in files(out) if not name.startswith(".")]
    for n, name in enumerate(linked):
        (theirs / str(n)).write_bytes(b"of somebody else")
        (out / name).unlink()
        (out / name).symlink_to(theirs / str(n))
    for name in (NAME, MADE_AS, "UNFINISHED.txt"):
        kept = (out / name).read_bytes() if (out / name).exists() else b""
        (theirs / name).write_bytes(kept)
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(theirs / name)
    notes = {name: (theirs / name).read_bytes() for name in (NAME, MADE_AS, "UNFINISHED.txt")}
    export(labelled, out, kind=kind)
    assert {name: (theirs / name).read_bytes() for name in notes} == notes
    for name in notes:
        (theirs / name).unlink()
    assert {path.read_bytes() for path in theirs.iterdir()} == {b"of somebody else"}
    assert b"of somebody else" not in files(out).values()


@pytest.mark.parametrize("kind", ["cvat", "label-studio"])
@pytest.mark.parametrize("images", ["copy", "link"])
def test_a_folder_that_leads_to_the_images_is_refused_and_they_stay(labelled, tmp_path, kind, images):
    source, out = labelled.root / "images", tmp_path / "out"
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    out.mkdir()
    (out / "images").symlink_to(source)
    with pytest.raises(ExportError, match=r"leads into the image folder: .* remove that link"):
        export(labelled, out, kind=kind, images=images)
    assert {path: path.read_bytes() for path in before} == before
    assert not any(path.is_symlink() for path in before)
    (out / "images").unlink()
    export(labelled, out, kind=kind, images=images)
    assert not (out / "UNFINISHED.txt").exists()
