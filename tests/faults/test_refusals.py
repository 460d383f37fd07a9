"""Two writers, images gone, no memory, hostile files: refused in words, nothing mixed, nothing executed."""

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
from flows.memory import halving
from flows.networks import NoNetworkError
from flows.steps import Run
from models.checkpoints import digest, load_official
from models.fusion import load_fusion
from models.vit import load_vit
from storage.catalog import CatalogError, load
from storage.lock import StoreLockedError
from storage.sources import SourceError
from tasks.registry import stage, stages


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
        run.job.run(stage("mask"), "b000000")
    assert sorted(site.store.root.rglob("arrays/mask/**/*")) == before


def test_who_is_still_at_work_after_the_lock_was_left_writes_nothing(site):
    store = site.store
    with store.writing():
        run = Run(store, site.config, Silent())
    run.plan.force("mask", ["b000000"])
    before = store.receipt("mask", "b000000")
    with pytest.raises(StoreLockedError, match="taken over by another run"):
        run.job.run(stage("mask"), "b000000")
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
        for block in run.plan.todo(stage("ensemble")):
            run.job.run(stage("ensemble"), block)
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


# -- gone images ------------------------------------------------------------------------------------------


def test_more_than_a_twentieth_gone_stops_the_run(site):
    before = load(site.store)
    (site.images / "dent" / "001.png").unlink()  # one of eight
    with pytest.raises(
        CatalogError, match=r"1 of 8 images are gone.*\(dent/001.png\).*nothing was marked.*MAX_GONE=1"
    ):
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


def test_the_config_in_the_store_is_plain_yaml(site):
    data = site.store.documents.read("config.yaml") or b""
    assert yaml.safe_load(data)["block"] == 4
