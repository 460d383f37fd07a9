"""The run page tells what each network's last training took, and shows the pictures that it left."""

import re
import shutil

import pytest
from asking import Client

from flows import durations
from flows.browse import Keeper
from flows.networks import promoted
from flows.trained import last_trainings
from viewer.guard import hosts_of
from viewer.server import Site, create_app
from viewer.trainings import PICTURES


@pytest.fixture
def pages(backend, labelled):
    stages = ["ingest", "augment", "cam", "embed", "prompt", "mask", "ensemble", "fuse"]
    pulse = {"count": 1, "doing": "", "stages": stages}
    site = Site(
        "a store",
        backend.index,
        lambda: backend,
        lambda: pulse,
        trainings=lambda: last_trainings(labelled.store, labelled.config),
    )
    return Client(create_app(site, hosts=hosts_of("127.0.0.1", 8650), token=None))


def test_the_table_of_times_has_each_training_before_the_stage_that_needs_it(pages, labelled):
    page = pages.get("/run").text
    steps = re.findall(r'<tr><th scope="row">(\w+)</th><td>([\d.]+)</td>', page)
    names = [name for name, _ in steps]
    assert names.index("train_vit") + 1 == names.index("cam")
    assert names.index("train_fusion") + 1 == names.index("fuse")
    for kind in ("vit", "fusion"):
        taken = sum(seconds for _, seconds in durations.last(labelled.store, kind)["parts"].values())
        assert float(dict(steps)[f"train_{kind}"]) == pytest.approx(taken, abs=0.051)


def test_its_pictures_are_on_the_page_and_can_be_had(pages):
    page = pages.get("/run").text
    found = re.findall(r'<img src="(/training/(\w+)-\w+/(\w+)\.png\?v=\d+)" alt="(\w+): ([^"]+)"', page)
    assert [(kind, name) for _, kind, name, *_ in found] == [
        ("vit", "curves"), ("vit", "cams"), ("fusion", "curves"), ("fusion", "samples")
    ]  # fmt: skip
    for address, kind, name, network, words in found:
        assert (network, words) == (f"train_{kind}", PICTURES[name])
        answer = pages.get(address)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert answer.content.startswith(b"\x89PNG")
    assert page.count(", in use <code>") == 2


@pytest.mark.parametrize(
    "address", ["/training/vit-000000000000/curves.png?v=1", "/training/{}/other.png?v=1", "/training/{}/%2e%2e%2fother.png?v=1"]
)  # fmt: skip
def test_nothing_else_of_the_store_is_given_out(pages, labelled, address):
    folder = next((labelled.store.root / "training").glob("vit-*"))
    for place in (folder, folder.parent):
        shutil.copyfile(folder / "curves.png", place / "other.png")
    assert pages.get(address.format(folder.name)).status_code in (400, 404, 422)


def test_a_damaged_list_of_networks_is_told_on_the_page(labelled, backend):
    keeper = Keeper(labelled.store.root, backend.index, None)
    keeper._backend = backend
    site = Site("a store", backend.index, lambda: backend, keeper.pulse, trainings=keeper.trainings)
    client = Client(create_app(site, hosts=hosts_of("127.0.0.1", 8650), token=None))
    promoted_json = labelled.store.root / "promoted.json"
    whole = promoted_json.read_bytes()
    promoted_json.write_text('{"cut')
    backend.store.documents._seen.clear()  # as where the page was opened after that
    answer = client.get("/run")
    assert answer.status_code == 200
    assert "of the trainings nothing can be read" in answer.text
    promoted_json.write_bytes(whole)
    mended = client.get("/run").text
    assert "nothing can be read" not in mended
    assert "samples.png" in mended


def test_a_network_that_is_not_in_use_is_said_to_be_none(labelled):
    everything = labelled.store.read_json("promoted.json")
    everything["vit"]["run"] = "f" * 32
    labelled.store.write_json("promoted.json", everything)
    assert promoted(labelled.store, "vit")["run"] == "f" * 32
    assert [training.used for training in last_trainings(labelled.store, labelled.config)] == [False, True]


def test_what_is_not_known_of_a_training_is_left_out(pages, labelled):
    shutil.rmtree(labelled.store.root / "training")
    everything = labelled.store.read_json("promoted.json")
    del everything[durations.TIMED]["vit"]
    labelled.store.write_json("promoted.json", everything)
    page = pages.get("/run").text
    assert "train_vit" not in page
    assert "train_fusion" in page
    assert "/training/" not in page
