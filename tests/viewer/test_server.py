"""Pages and answers over a real store; a run that writes meanwhile."""

import io
import threading
import zlib
from itertools import count

import numpy as np
import pytest
from asking import Client, ids
from PIL import Image

from storage.reviews import Reviews
from tasks.registry import stage
from viewer.guard import HEADERS, Guard, hosts_of, is_loopback


def pixels(answer):
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image.convert("RGBA"))


# -- pages ------------------------------------------------------------------------------------------------


def test_every_page_is_there_and_names_are_escaped(client, backend):
    for path in ("/", "/run", *(f"/image/{n}" for n in ids(backend)), "/?state=quarantined"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "<script>alert" not in answer.text
        assert "<b>dent</b>" not in answer.text
        assert "a &lt;store&gt;" in answer.text
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "&lt;script&gt;alert(1)" in client.get("/").text
    assert "broken.png" in client.get("/?state=quarantined").text


def test_every_panel_is_a_picture_of_the_image_s_size(client, backend):
    for image in ids(backend):
        page, row = backend.page(image), backend.index.image(image)
        names = [panel["name"] for panel in page["panels"]]
        assert names[:3] == ["image", "view-0", "back-0"]
        assert names[-9:] == [
            "entropy",
            "objectness",
            "cam",
            "prompts",
            "p1",
            "p2",
            "p",
            "confidence",
            "truth",
        ]
        for name in [*names, "under-1"]:
            shown = pixels(client.get(f"/panel/{image}/{name}.png?v={page['version']}"))
            if not name.startswith(("view", "under")):
                assert shown.shape[:2] == (row["height"], row["width"])


def test_p_s_panel_shows_p(client, backend):
    image = ids(backend, label="scratch")[0]
    opened = backend.open(image)
    shown = pixels(client.get(f"/panel/{image}/p.png?v={opened.version}"))
    np.testing.assert_array_equal(shown[..., 3] > 0, opened.item.array("p") > 0)


def test_values_are_those_of_the_arrays(client, backend):
    image = ids(backend, label="blob")[0]
    item = backend.open(image).item
    found = client.get(f"/api/value/{image}?x=30&y=20").json()
    assert found["class"] == item.array("p")[20, 30]
    assert found["entropy"] == pytest.approx(float(item.array("entropy")[0, 20, 30]))
    assert found["rgb"] == item.array("image")[20, 30].tolist()
    assert client.get(f"/api/value/{image}?x=4000&y=20").status_code == 404


def test_the_views_transform_is_that_of_the_arrays(backend):
    page = backend.page(ids(backend, label="blob")[0])
    item = backend.open(page["id"]).item
    from tasks.views import View

    marked = np.zeros((page["height"], page["width"]), np.uint8)
    marked[31, 40] = 1
    for entry, row in zip(page["views"], item.array("view"), strict=True):
        seen = View.of(row).apply_map(marked)
        assert list(seen.shape) == list(entry["grid"])
        (a, b, c), (d, e, f) = entry["affine"]
        x, y = round(a * 40 + b * 31 + c), round(d * 40 + e * 31 + f)
        inside = 0 <= x < seen.shape[1] and 0 <= y < seen.shape[0]
        assert bool(seen.any()) == inside
        assert not inside or seen[y, x] == 1


# -- reviews ----------------------------------------------------------------------------------------------


def test_a_verdict_is_kept_and_asks_again_when_the_label_changes(client, backend, labelled):
    image = ids(backend, label="blob")[0]
    said = client.post(f"/api/review/{image}", json={"verdict": "accept", "note": "<i>ü", "count": 0})
    assert said.json()["state"] == "accept"
    assert client.post(f"/api/review/{image}", json={"verdict": "reject", "count": 0}).status_code == 409
    again = Reviews(labelled.store).history(backend.index.image(image)["sha256"])
    assert (again.last.verdict, again.last.note) == ("accept", "<i>ü")
    write_p(labelled, backend, value=2)  # not the class of the label: surely another label map than before
    backend.refresher.run()
    assert image in ids(backend, review="again")
    assert client.get(f"/api/review/{image}").json()["state"] == "again"
    undone = client.post(f"/api/undo/{image}", json={"count": 1}).json()
    assert (undone["state"], undone["undo"]) == ("none", False)


def test_a_correction_takes_p_s_place_on_the_page(client, backend):
    image = ids(backend, label="blob")[0]
    row = backend.index.image(image)
    mask = np.zeros((row["height"], row["width"]), np.uint8)
    mask[5:15, 5:40] = 3
    said = client.post(f"/api/correct/{image}?count=0&note=x", content=zlib.compress(mask.tobytes()))
    assert said.json()["state"] == "accept"
    back = zlib.decompress(client.get(f"/api/label/{image}").content)
    np.testing.assert_array_equal(np.frombuffer(back, np.uint8).reshape(mask.shape), mask)
    assert image in ids(backend, review="corrected")
    page = backend.page(image)
    assert "correction" in [panel["name"] for panel in page["panels"]]
    shown = pixels(client.get(f"/panel/{image}/correction.png?v={page['version']}"))
    np.testing.assert_array_equal(shown[..., 3] > 0, mask > 0)


def test_a_click_comes_back_as_sam_s_mask(client, backend):
    image = ids(backend, label="blob")[0]
    row = backend.index.image(image)
    said = client.post(f"/api/click/{image}", json={"points": [[30, 30, 1]]}).json()
    assert len(said["masks"]) == len(said["iou"]) == 3
    assert said["iou"] == sorted(said["iou"], reverse=True)
    import base64

    raw = zlib.decompress(base64.b64decode(said["masks"][0]))
    assert len(raw) == row["width"] * row["height"]
    assert set(raw) <= {0, 1}
    several = client.post(f"/api/click/{image}", json={"points": [[30, 30, 1], [2, 2, 0]]}).json()
    assert len(several["masks"]) == 1


# -- who may look -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.1.2.3", False)],
)
def test_what_is_only_this_machine(host, loopback):
    assert is_loopback(host) == loopback


def test_beyond_this_machine_a_token_is_asked_for():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    origin = "http://10.1.2.3:8650"
    ask = Client(Guard(app, hosts=hosts_of("10.1.2.3", 8650), token="s3cret"), origin)
    assert ask.get("/run").status_code == 401
    assert ask.get("/?token=wrong").status_code == 401
    assert ask.get("/", headers={"cookie": "bluemask_token=wrong"}).status_code == 401
    assert ask.post("/?token=s3cret").status_code == 401
    first = ask.get("/run?token=s3cret&a=1")
    assert (first.status_code, first.headers["location"]) == (303, "/run?a=1")
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert ask.get("/run", headers={"cookie": cookie.split(";")[0]}).text == "in"
    assert ask.get("/%2Fevil.example/?token=s3cret").headers["location"] == "/evil.example/"


# -- while a run writes -----------------------------------------------------------------------------------


NIGHTS = count(1)
"""Every commit of other content has a fingerprint of its own."""


def write_p(labelled, backend, value):
    """What a run does when it makes a block's labels anew: all of P is `value`, and confidence says so, too."""
    store, block = labelled.store, backend.index.image(ids(backend, label="blob")[0])["block"]
    receipt = store.receipt("fuse", block)
    p = store.read(receipt, "p")
    values = {"p": np.full_like(p, value), "confidence": np.full(p.shape, value / 8, np.float16)}
    store.commit("fuse", block, f"{next(NIGHTS):032x}", stage("fuse").writes, values, reasons=receipt.reasons, attributes={},
                 failed={}, seconds=0.1)  # fmt: skip


def test_a_page_never_mixes_two_nights(client, backend, labelled):
    image = ids(backend, label="blob")[0]
    page = backend.page(image)
    write_p(labelled, backend, 1)
    assert client.get(f"/panel/{image}/p.png?v={page['version']}").status_code == 409
    backend.refresher.run()
    assert image in ids(backend, changed=True) or not backend.index.image(image)["changed"]
    now = backend.page(image)
    assert now["version"] != page["version"]
    assert "before" in [panel["name"] for panel in now["panels"]]
    shown = pixels(client.get(f"/panel/{image}/p.png?v={now['version']}"))
    assert (shown[..., -1] == 255).all()


def test_nothing_is_torn_while_blocks_are_committed(backend, labelled):
    image = ids(backend, label="blob")[0]
    write_p(labelled, backend, 1)
    stop, seen, faults = threading.Event(), set(), []

    def look():
        while not stop.is_set():
            try:
                found = backend.values(image, 0, 10, 10)
                seen.add(found["class"])
                if found["confidence"] != found["class"] / 8:
                    faults.append(found)
            except Exception as error:  # noqa: BLE001 (whatever it is, the test must fail)
                faults.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(12):
        write_p(labelled, backend, 1 + n % 3)
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(seen) > 1


def test_a_label_that_cannot_be_read_shows_in_its_thumbnail_and_is_not_kept(client, backend):
    image = ids(backend, label="blob")[0]
    row = backend.index.image(image)
    sound = client.get(f"/thumb/{image}.jpg?v=1")
    assert "immutable" in sound.headers["cache-control"]
    group = backend.store.root / backend.store.receipt("fuse", row["block"]).group
    shard = next(path for path in (group / "p" / "c").rglob("*") if path.is_file())
    data = bytearray(shard.read_bytes())
    data[60] ^= 1
    shard.write_bytes(data)
    found = client.get(f"/thumb/{image}.jpg?v=1")
    assert found.headers["cache-control"] == "no-store"
    band = np.asarray(Image.open(io.BytesIO(found.content)))[0].reshape(-1, 3).mean(0)
    assert band[0] > band[1] + 100, "red"
    data[60] ^= 1
    shard.write_bytes(data)


def test_the_editor_warms_sam_up_once_before_the_first_click(backend):
    asked = []
    backend.segment = lambda item, points: asked.append(points)
    image = ids(backend, label="blob")[0]
    for _ in range(2):
        backend.label(image)
        backend._warming.join(10)
    assert len(asked) == 1
    row = backend.index.image(image)
    assert asked[0].tolist() == [[row["width"] / 2, row["height"] / 2, 1]]


@pytest.mark.parametrize(("model", "loads"), [("tiny", True), ("vit_b", False)])
def test_a_small_sam_is_in_memory_before_anybody_clicks(labelled, monkeypatch, model, loads):
    from flows import browse, networks

    known = (labelled.store.root / "config.yaml").read_text()
    labelled.store.documents.write("config.yaml", known.replace("model: tiny", f"model: {model}").encode())
    asked = []
    monkeypatch.setattr(networks, "load_model", lambda store, config, kind: asked.append(kind))
    browse.load_small_sam(labelled.store)
    assert asked == ["sam"] * loads


def test_a_page_shows_what_the_classifier_sees(client, backend):
    image = ids(backend, label="blob")[0]
    scores = backend.open(image).item.array("score")
    shown = backend.page(image)["scores"]
    assert [item["score"] for item in shown] == sorted(scores.tolist(), reverse=True)
    assert {item["name"] for item in shown if item["named"]} == set(backend.index.image(image)["labels"])
    text = client.get(f"/image/{image}").text.split('id="scores"')[1].split("</table>")[0]
    for item in shown:
        assert f"{item['score']:.3f}" in text
    assert "blob (label)" in text
