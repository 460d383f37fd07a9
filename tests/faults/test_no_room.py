"""No room on the disk, or no right to write there: a clean stop with the space needed, nothing lost, and on again."""

import os
import shutil
import subprocess
import sys

import pytest
from copies import copied
from pinned_site import draw
from small_run import ROOT

from flows.execute import STOPS
from storage.objects import StoreUnwritableError
from storage.store import Store
from storage.verify import verify
from tasks.registry import stages

# -- no room, no right ------------------------------------------------------------------------------------


def full_disk(monkeypatch, free):
    """A disk with so many bytes left, as the store sees it: the check before a group is written."""
    monkeypatch.setattr("storage.objects.LocalObjects._free", lambda self: free)


def test_too_little_room_stops_before_writing(site, monkeypatch):
    draw(site.images, "dent/large.png", 3, (300, 300))
    full_disk(monkeypatch, 1000)
    with pytest.raises(STOPS, match=r"no space left.*needs .* MB, 0\.0 MB are free"):
        site.finish()
    monkeypatch.undo()
    assert not list(site.store.root.rglob("*.partial"))
    assert "fuse" in site.finish()
    assert list(verify(site.store)) == []


DISK = """
set -e
mount -t tmpfs -o size=$1 tmpfs "$2"
cp -a "$3/." "$2/"
cd "$4"
shift 4
exec "$@"
"""

INSIDE = """
import os, sys
sys.path[:0] = [{root!r}, {faults!r}]
from pinned_site import Site
from pathlib import Path
import subprocess
site = Site(Path({site!r}))
from flows.execute import STOPS
from storage.verify import verify
stopped, hit = [], []
size = {start}
for _ in range(100):
    try:
        site.finish()
        break
    except STOPS as error:
        text = str(error)
        assert "no space left" in text or "cannot be written" in text, text
        stopped.append(text)
        hit.append(text.split("arrays/")[1].split("/")[0] if "arrays/" in text else "documents")
        left = os.statvfs({store!r})
        used = (left.f_blocks - left.f_bfree) * left.f_frsize // 1024
        needed = float(text.split("needs ")[1].split(" ")[0]) * 1000 if "needs" in text else 0
        size = int(max(size + {step}, used + needed if hit[-1] == "embed" else 0))
        assert not list(Path({store!r}).rglob("*.partial")), "space is given back at once"
        subprocess.run(["mount", "-o", f"remount,size={{size}}k", {store!r}], check=True)
else:
    raise SystemExit("never done")
assert list(verify(site.store)) == []
print(len(stopped), *dict.fromkeys(hit))
"""


def mountable():
    words = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /tmp"]
    return (
        bool(shutil.which("unshare"))
        and subprocess.run(words, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not mountable(), reason="needs user namespaces to mount a small tmpfs")
def test_a_full_disk_stops_each_stage_and_the_run_resumes(whole, tmp_path, tell):
    copied(whole.root, tmp_path / "copy")
    root = tmp_path / "copy"
    shutil.rmtree(root / "store")
    (root / "store").mkdir()
    (root / "nothing").mkdir()
    code = INSIDE.format(
        root=str(ROOT),
        faults=str(ROOT / "tests" / "faults"),
        site=str(root),
        store=str(root / "store"),
        start=120,
        step=24,
    )
    words = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        DISK,
        "sh",
        "120k",
        str(root / "store"),
        str(root / "nothing"),
        str(root),
    ]
    result = subprocess.run(
        [*words, sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=280
    )
    assert result.returncode == 0, result.stderr[-3000:]
    count, *hit = result.stdout.split()
    assert {"ingest", "embed", "mask", "ensemble", "fuse"} <= set(hit), hit
    tell(
        "disk full (small tmpfs), in " + ", ".join(hit),
        count,
        "clean stop with the space needed; resumes; verified",
    )


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("setpriv"), reason="root may write everywhere")
@pytest.mark.parametrize(
    "stage",
    [pytest.param(s.name, marks=[] if s.name == "mask" else [pytest.mark.long]) for s in stages()],
)
def test_a_lost_permission_stops_cleanly_and_resumes(whole, tmp_path, stage, tell):
    from pinned_site import Site

    copied(whole.root, tmp_path / "copy")
    site = Site(tmp_path / "copy")
    shutil.rmtree(site.store.root / "receipts" / stage)
    folder = site.store.root / "receipts"
    folder.chmod(0o555)
    words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    try:
        result = subprocess.run(
            [*words, sys.executable, str(ROOT / "bluemask.py"), "run", str(site.path)],
            capture_output=True, text=True, check=False, timeout=280, env=site.environment(),
        )  # fmt: skip
    finally:
        folder.chmod(0o755)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert "cannot be written" in result.stdout + result.stderr
    assert set(site.finish()) == {stage}
    assert list(verify(site.store)) == []
    tell(f"permission lost, in {stage}", 1, "clean stop; resumes")


def test_a_read_only_store_is_said_and_can_still_be_verified(site, monkeypatch, tell):
    import errno

    from storage import lock

    class Refused:
        def __truediv__(self, name):
            return self

        def mkdir(self, **_):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        def __str__(self):
            return "store"

    with (
        pytest.raises(StoreUnwritableError, match=r"cannot be written.*mount it for writing"),
        lock.writer_lock(Refused()),
    ):
        pass
    assert list(verify(Store(site.store.root))) == []
    tell("read-only store", 1, "refused in words; readable all the same")
