"""Two writers, hostile files, no room: refused in words, nothing mixed, nothing executed, nothing lost."""

import os
import pickle
import shutil
import subprocess
import sys

import pytest
import yaml
from pinned_site import draw
from small_run import ROOT, Silent

from flows.config import ConfigError, load_config
from flows.execute import STOPS
from flows.memory import halving
from flows.networks import NoNetworkError
from flows.steps import Run
from models.checkpoints import digest, load_official
from models.fusion import load_fusion
from models.vit import load_vit
from storage.catalog import CatalogError, load
from storage.lock import StoreLockedError
from storage.objects import StoreUnwritableError
from storage.sources import SourceError
from storage.store import Store
from storage.verify import verify
from tasks.registry import stages


def forecast(site):
    with site.store.writing():
        return Run(site.store, site.config, Silent()).forecast()


# -- writers ----------------------------------------------------------------------------------------------


def test_a_second_run_is_refused_with_its_holder(site, tell):
    with (
        site.store.writing(),
        pytest.raises(StoreLockedError, match=rf"process {os.getpid()} on .*wait until"),
    ):
        site.finish()
    assert site.finish() == {}
    tell("two runs on one store", 1, "the second is refused, naming process and host")


def test_tokens_rise_and_stand_in_receipts(site):
    tokens = []
    for votes in (2, 1):
        site.change(ensemble={"votes": votes})
        store = site.store
        with store.writing():
            tokens.append(store.fence)
            run = Run(store, site.config, Silent())
            for step in run.steps():
                if not isinstance(step, str):
                    run.stage(step)
        assert store.receipt("ensemble", "b000000").fence == tokens[-1]
    assert tokens[0] < tokens[1]


def test_who_lost_the_lock_writes_nothing(site):
    stale = site.store
    with stale.writing():
        run = Run(stale, site.config, Silent())
        token = stale.fence
    with site.store.writing():
        pass
    stale.fence = token  # a worker that outlived the run that sent it
    run.plan.force("mask", ["b000000"])
    before = sorted(site.store.root.rglob("arrays/mask/**/*"))
    with pytest.raises(StoreLockedError, match="taken over by another run"):
        run.job.run(stages()[5], "b000000")
    assert sorted(site.store.root.rglob("arrays/mask/**/*")) == before


def test_who_is_still_at_work_after_the_lock_was_left_writes_nothing(site):
    store = site.store
    with store.writing():
        run = Run(store, site.config, Silent())
    run.plan.force("mask", ["b000000"])
    before = store.receipt("mask", "b000000")
    with pytest.raises(StoreLockedError, match="taken over by another run"):
        run.job.run(stages()[5], "b000000")
    assert store.receipt("mask", "b000000") == before


def test_an_image_replaced_while_running_is_not_mixed(site, tell):
    name = draw(site.images, "dent/new.png", 31).name
    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        draw(site.images, f"dent/{name}", 32)  # after the look, before it is read
        for step in run.steps():
            if not isinstance(step, str):
                run.stage(step)
        summary = run.close()
    assert "changed while the run was on its way" in summary.failed_images["dent/new.png"]
    site.finish()
    live = [row for row in load(site.store) if row.path == "dent/new.png" and row.status == "active"]
    assert [row.sha256 for row in live] == [digest(site.images / "dent" / "new.png")]
    tell("image replaced while running", 1, "named; redone by the next run")


def test_a_config_changed_halfway_is_not_mixed(site, tell):
    site.change(ensemble={"votes": 2}, fuse={"views": 2})
    config = site.config
    with site.store.writing():
        run = Run(site.store, config, Silent())
        for block in run.plan.todo(stages()[6]):
            run.job.run(stages()[6], block)
            site.change(ensemble={"votes": 1})  # what stands in the file now is for the next run
            break
        rest = run.forecast()
    assert rest["ensemble"] < 8
    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        for step in run.steps():
            if not isinstance(step, str):
                run.stage(step)
    recipes = {r.reasons["config"] for r in site.store.receipts("ensemble").values()}
    assert len(recipes) == 1
    assert site.finish() == {}
    tell("config changed halfway", 1, "every block by the one config of its run")


def test_a_clock_set_back_hides_no_change(site, tell):
    path = site.images / "dent" / "001.png"
    stat = path.stat()
    other = draw(site.root, "dent/001.png", 8)
    data = other.read_bytes()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 10**15))
    site.change(data={"folder": "images", "max_gone": 1.0})
    assert set(site.finish()) == {stage.name for stage in stages()}
    tell("clock set back", 1, "the changed image is redone")


# -- gone images ------------------------------------------------------------------------------------------


def test_more_than_a_twentieth_gone_stops_the_run(site):
    before = load(site.store)
    (site.images / "dent" / "001.png").unlink()  # one of eight
    with pytest.raises(CatalogError, match=r"1 of 8 images are gone.*nothing was marked.*MAX_GONE=1"):
        forecast(site)
    assert load(site.store) == before


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may read everything")
@pytest.mark.parametrize("place", ["", "dent"])
def test_an_unreadable_folder_removes_nothing(site, place):
    before = load(site.store)
    (site.images / place).chmod(0)
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        "from pathlib import Path\n"
        "from flows.catalogue import refresh\nfrom flows.config import load_config\n"
        "from storage.store import Store\n"
        f"config = load_config(Path({str(site.path)!r}))\n"
        "found = refresh(Store(config.store), config, lambda *a: None)\n"
        "print([row.status for row in found.rows])"
    )
    words = [sys.executable, "-c", code]
    if os.geteuid() == 0:
        words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *words]
    try:
        result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=250)
    finally:
        (site.images / place).chmod(0o755)
    if place:
        assert "retired" not in result.stdout
        assert "active" in result.stdout, result.stderr
    else:
        assert "SourceError" in result.stderr
    assert load(site.store) == before


# -- memory -----------------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_batch_and_goes_on():
    tried = []

    def stage(*, batch, value):
        tried.append(batch)
        if batch > 2:
            raise RuntimeError("CUDA error: out of memory")
        return value

    lowered = {}
    assert halving("embed", stage, {"batch": 8, "value": 7}, lowered) == 7
    assert tried == [8, 4, 2]
    assert lowered == {"embed": 2}
    halving("embed", stage, {"batch": 8, "value": 7}, lowered)
    assert tried[3:] == [2], "the next block begins with what was enough"


def test_out_of_memory_for_one_is_said_with_the_remedy():
    def stage(*, batch):
        raise MemoryError("no")

    with pytest.raises(MemoryError, match="memory_gb"):
        halving("embed", stage, {"batch": 4}, {})
    with pytest.raises(RuntimeError, match="another"):
        halving("embed", lambda: (_ for _ in ()).throw(RuntimeError("another")), {}, {})


# -- hostile files ----------------------------------------------------------------------------------------


class Trap:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("load_it", [load_official, load_vit, load_fusion])
@pytest.mark.parametrize("name", ["trap.pth", "trap.safetensors"])
def test_a_checkpoint_runs_no_code(tmp_path, load_it, name, tell):
    mark, path = tmp_path / "executed", tmp_path / name
    path.write_bytes(pickle.dumps(Trap(str(mark))))
    with pytest.raises(ValueError, match=name):
        load_it(path)
    assert not mark.exists()
    tell(f"malicious checkpoint ({load_it.__name__}, {name})", 1, "refused, nothing executed")


def test_a_config_runs_no_code_and_unfolds_to_nothing(tmp_path, tell):
    mark, path = tmp_path / "executed", tmp_path / "c.yaml"
    path.write_text(f"store: !!python/object/apply:os.system ['touch {mark}']\n")
    with pytest.raises(ConfigError):
        load_config(path)
    assert not mark.exists()
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="alias"):
        load_config(path)
    path.write_text("store: x\n#" + "x" * 300_000)
    with pytest.raises(ConfigError, match="bytes"):
        load_config(path)
    tell("YAML with code, unfolding, oversized", 3, "refused, nothing executed")


def test_a_csv_reads_nothing_outside(site, tell):
    (site.root / "secret.png").write_bytes((site.images / "dent" / "001.png").read_bytes())
    (site.images / "labels.csv").write_text("image,labels\n../secret.png,dent\n")
    with pytest.raises(SourceError, match=r"line 2.*not below"):
        forecast(site)
    tell("CSV with ../", 1, "refused, nothing read outside")


def test_a_pinned_digest_is_held(site):
    sha256 = digest(site.root / "vit.safetensors")
    site.change(pins={"vit": sha256})
    assert forecast(site) == {}
    site.change(pins={"vit": "0" * 64})
    with pytest.raises(NoNetworkError, match=r"pins\.vit = 0000"):
        forecast(site)


def test_no_pickle_lies_in_a_store(site):
    for path in site.store.root.rglob("*"):
        if path.is_file():
            head = path.read_bytes()[:4]
            assert not head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")), (
                path
            )


# -- no room, no right ------------------------------------------------------------------------------------


def full_disk(monkeypatch, free):
    """A disk with so many bytes left, as the store sees it: the check before a group is written."""
    monkeypatch.setattr("storage.objects.LocalObjects._free", lambda self: free)


def test_too_little_room_stops_before_writing(site, monkeypatch):
    draw(site.images, "dent/large.png", 3, (1100, 1100))
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
    shutil.copytree(whole.root, tmp_path / "copy")
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

    shutil.copytree(whole.root, tmp_path / "copy")
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


def test_a_failing_block_is_reported_and_the_rest_is_done(site, monkeypatch):
    site.change(retries=1)
    monkeypatch.setattr("flows.runners.PAUSE", 0.01)
    shutil.rmtree(site.store.root / "receipts" / "mask")
    seen = []

    with site.store.writing():
        run = Run(site.store, site.config, Silent())
        do = run.job._compute

        def compute(stage, block, held):
            if (stage.name, block) == ("mask", "b000000"):
                seen.append(block)
                raise RuntimeError("a bad block")
            return do(stage, block, held)

        run.job._compute = compute
        for step in run.steps():
            if not isinstance(step, str):
                run.stage(step)
        summary = run.close()
    assert seen == ["b000000"] * 2, "tried again, once"
    assert list(summary.failures) == ["mask b000000"]
    assert summary.exit_code == 1
    assert site.store.receipt("mask", "b000001") is not None
    assert "a bad block" in site.store.failures("mask")["b000000"].error
    assert site.finish() == {"mask": 1}


def test_the_config_in_the_store_is_plain_yaml(site):
    data = site.store.documents.read("config.yaml") or b""
    assert yaml.safe_load(data)["block"] == 4
