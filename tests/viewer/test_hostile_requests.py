"""What hostile requests get. None of them changes anything, so that all meet the same site."""

import zlib

import pytest
from asking import backend_of, client_of, ids
from copies import copied
from labelled_store import CLASSES, HOSTILE, Labelled

from viewer.guard import MOST


@pytest.fixture(scope="module")
def backend(labelled_once, tmp_path_factory):
    copy = Labelled(tmp_path_factory.mktemp("hostile") / "copy")
    copied(labelled_once.root, copy.root)
    copy.moved_from(labelled_once.root)
    return backend_of(copy)


@pytest.fixture(scope="module")
def client(backend):
    return client_of(backend)


@pytest.mark.parametrize(
    "path",
    [
        "/../store.py", "/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2f..%2fbluemask.py",
        "/static/%2e%2e%2f%2e%2e%2fpyproject.toml", "/static//etc/passwd", "/static/..\\server.py", "/%00",
        "/image/../../etc/passwd", "/panel/1/..%2f..%2fx.png?v=1", "/templates/base.html", "/static/",
    ],
)  # fmt: skip
def test_paths_that_lead_elsewhere_lead_nowhere(client, path):
    answer = client.get(path)
    assert answer.status_code in (400, 404, 405, 422)
    assert "import" not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/image/-1", "/image/99999999999999999999", "/image/1e5", "/image/x", "/image/2147483647", "/thumb/-1.jpg",
        "/thumb/2000000000.jpg", "/panel/0/p.png?v=1&slot=999999", "/panel/0/P%27.png?v=1", "/panel/0/view-99.png?v=x",
        "/api/value/0?x=-1&y=0", "/api/value/0?x=99999999999&y=0", "/api/value/0?x=a&y=0", "/panel/0/nothing.png?v=1",
        "/?sort=evil", "/?state=%27", "/?review=1",
    ],
)  # fmt: skip
def test_absurd_numbers_and_words_are_refused_in_a_sentence(client, path):
    answer = client.get(path)
    assert answer.status_code in (404, 409, 422), answer.text
    assert "Traceback" not in answer.text


def test_a_page_that_does_not_exist_does_not_break_paging(client):
    for value in ("-1", "x", "9" * 40, "1;2", ""):
        assert client.get("/", params={"after": value}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1:9999", "127.0.0.1.evil.example:8650", "", "[::1]"]
)
def test_another_host_is_refused(client, host):
    assert client.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}, {"origin": ""},
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
    ],
)  # fmt: skip
def test_a_change_from_elsewhere_is_refused(client, backend, headers):
    image = ids(backend)[0]
    for path, body in (
        ("review", {"verdict": "accept", "count": 0}),
        ("undo", {"count": 0}),
        ("click", {"points": [[1, 1, 1]]}),
    ):
        assert client.post(f"/api/{path}/{image}", json=body, headers=headers).status_code == 403
    assert client.post(f"/api/correct/{image}?count=0", content=b"x", headers=headers).status_code == 403
    assert backend.review_of(backend.open(image))["count"] == 0


def test_other_pages_may_not_show_our_pictures(client, backend):
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert client.get(f"/thumb/{ids(backend)[0]}.jpg", headers=headers).status_code == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused(client, method):
    assert client(method, "/api/review/0").status_code == 405


def test_large_bodies_are_refused(client, backend):
    image, large = ids(backend)[0], b"0" * 10_000_000

    async def dribble():
        for n in range(0, len(large), 1 << 16):
            yield large[n : n + (1 << 16)]

    for path in (f"/api/correct/{image}?count=0", f"/api/review/{image}", "/nothing"):
        assert client.post(path, content=large).status_code == 413
        # without a length it is counted on the way
        assert client.post(path, content=dribble()).status_code in (400, 404, 413)
    assert len(large) > MOST
    assert backend.review_of(backend.open(image))["count"] == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no zlib",
        zlib.compress(b""),
        zlib.compress(b"\x01" * 10),
        zlib.compress(bytes(10**8)),
        zlib.compress(b"\x07" * (64 * 72)),
    ],
)
def test_a_mask_that_is_none_is_refused(client, backend, content):
    image = ids(backend, label="blob")[0]
    answer = client.post(f"/api/correct/{image}?count=0", content=content)
    assert answer.status_code == 422
    assert not backend.review_of(backend.open(image))["mask"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("review", {"verdict": "delete", "count": 0}), ("review", {"verdict": "accept"}), ("review", {"count": 0, "mask": "x"}),
        ("review", {"verdict": None, "note": "x" * 5000, "count": 0}), ("undo", {"count": -1}), ("undo", []),
        ("click", {"points": []}), ("click", {"points": [[1, 1, 1]] * 99}), ("click", {"points": [[-5, 1, 1]]}),
        ("click", {"points": [["x", 1, 1]]}), ("click", {"points": [[1e300, 1, 1]]}),
    ],
)  # fmt: skip
def test_a_body_that_makes_no_sense_is_refused(client, backend, path, body):
    image = ids(backend, label="blob")[0]
    assert client.post(f"/api/{path}/{image}", json=body).status_code == 422
    assert backend.review_of(backend.open(image))["count"] == 0


def test_hostile_names_reach_the_page_as_they_are(client, backend):
    row = next(r for r in (backend.index.image(n) for n in ids(backend)) if r["path"] == HOSTILE)
    assert row["labels"] == [CLASSES[1]]
    found = client.get("/", params={"name": HOSTILE[:20]})
    assert f'id="image-{row["id"]}"' in found.text
    assert client.get(f"/thumb/{row['id']}.jpg").status_code == 200
