"""Whatever is added, changed, removed, killed, rerun and verified: the store equals a fresh run on the same input."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from pinned_site import FULL, Site, checkpoints, pinned_config
from small_run import CLASSES, draw

import storage.objects
from flows.upkeep import mend
from storage.catalog import load
from storage.verify import verify
from tasks.registry import stages

EXAMPLES = 200 if FULL else 10
STEPS = 10 if FULL else 7
FOLDERS = (*CLASSES, "good")
NAMES = st.sampled_from([f"{folder}/{n}.png" for folder in FOLDERS for n in range(2)])
LOOKS = st.integers(0, 5)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Pictures to choose from, and the two networks."""
    folder = tmp_path_factory.mktemp("pool")
    checkpoints(folder)
    for n in range(6):
        draw(folder, f"{CLASSES[n % 3]}/{n}.png", 600 + n, (20 + 2 * (n % 3), 24))
    return folder


def by_image(site):
    """Every array of every live image by its path, cut to its true extent."""
    found = {}
    for stage in stages():
        for spec in stage.writes:
            for row in load(site.store):
                if row.status == "active":
                    receipt = site.store.receipt(stage.name, row.block)
                    mates = [r.id for r in load(site.store) if r.block == row.block]
                    value = site.store.read_image(receipt, spec.name, mates.index(row.id))
                    cuts = {"y": slice(row.height), "x": slice(row.width)}
                    found[row.path, spec.name] = value[tuple(cuts.get(d, slice(None)) for d in spec.dims[1:])]
    return found


UNUSED = (0, 255)
"""Besides NaN, what stands where a block has more room than an image needs."""


def assert_same(mine, theirs, name):
    """Equal where both have room; a block's largest image decides how many pieces fit, and the rest is unused."""
    common = tuple(slice(min(sides)) for sides in zip(mine.shape, theirs.shape, strict=True))
    np.testing.assert_array_equal(mine[common], theirs[common], err_msg=str(name))
    for value in (mine, theirs):
        rest = np.ones(value.shape, bool)
        rest[common] = False
        left = value[rest]
        assert (np.isin(left, UNUSED) | np.isnan(left.astype(np.float64))).all(), name


def die_at(count):
    """From now on the count-th write of this process is torn, and its last."""
    write, left = storage.objects._write, [count]

    def torn(path, value, mode="wb"):
        left[0] -= 1
        if left[0] > 0:
            return write(path, value, mode)
        with path.open(mode) as file:
            file.write(bytes(value)[: len(value) // 2])
        return os.kill(os.getpid(), signal.SIGKILL)

    storage.objects._write = torn


class Nights(RuleBasedStateMachine):
    pool: Path
    done: int = 0

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="bluemask-machine-"))
        for name in ("vit", "fusion"):
            shutil.copy(self.pool / f"{name}.safetensors", self.root)
        pinned_config(self.root, data={"folder": "images", "max_gone": 1.0}, block=2, augment={"views": 1})
        self.site = Site(self.root)
        self.site.images.mkdir()
        (self.site.images / "classes.txt").write_text("\n".join(CLASSES))
        self.put(f"{CLASSES[0]}/0.png", 0)

    def there(self):
        return sorted(path for path in self.site.images.rglob("*.png"))

    @rule(name=NAMES, look=LOOKS)
    def put(self, name, look):
        """Add an image, or change one."""
        path = self.site.images / name
        path.parent.mkdir(exist_ok=True)
        shutil.copy(next(self.pool.rglob(f"{look}.png")), path)

    @precondition(lambda self: len(self.there()) > 1)
    @rule(data=st.data())
    def remove(self, data):
        data.draw(st.sampled_from(self.there())).unlink()

    @rule(data=st.data(), name=NAMES)
    def move(self, data, name):
        """Rename an image, or give it another label."""
        path = self.site.images / name
        path.parent.mkdir(exist_ok=True)
        data.draw(st.sampled_from(self.there())).rename(path)

    @rule(count=st.integers(1, 120))
    def killed(self, count):
        """A run that is killed in the middle of a write; the child process has nothing to clean up with."""
        child = os.fork()
        if child == 0:
            try:
                die_at(count)
                self.site.finish()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0

    @rule()
    def rerun(self):
        self.site.finish()
        assert list(verify(self.site.store)) == []
        assert self.site.finish() == {}

    @precondition(lambda self: (self.site.store.root / "receipts").is_dir())
    @rule(data=st.data())
    def damage_and_mend(self, data):
        """A bit flips somewhere in what the receipts name."""
        self.site.finish()
        receipts = [r for s in stages() for r in self.site.store.receipts(s.name).values()]
        receipt = data.draw(st.sampled_from(receipts))
        path = self.site.store.root / receipt.group / data.draw(st.sampled_from(sorted(receipt.files)))
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1
        path.write_bytes(bytes(content))
        with self.site.store.writing():
            _, left = mend(self.site.store)
        assert left == []

    def teardown(self):
        try:
            self.site.finish()
            assert list(verify(self.site.store)) == []
            fresh = Site(self.root / "fresh")
            shutil.copytree(self.root, fresh.root, ignore=shutil.ignore_patterns("store", "fresh"))
            fresh.finish()
            mine, theirs = by_image(self.site), by_image(fresh)
            assert mine.keys() == theirs.keys()
            for key, value in theirs.items():
                assert_same(mine[key], value, key)
            type(self).done += 1
        finally:
            shutil.rmtree(self.root)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed run is a forked process")
@pytest.mark.timeout(7200 if FULL else 300)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_store_always_equals_a_fresh_run(pool, tell):
    Nights.pool = pool
    run_state_machine_as_test(
        Nights,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],  # a failing sequence is short enough as it is, and shrinking costs hours
            suppress_health_check=list(HealthCheck),
        ),
    )
    tell(
        "property test over add, change, move, remove, kill, damage, rerun, verify",
        Nights.done,
        "always equal to a fresh run, image by image",
    )
