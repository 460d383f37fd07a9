"""Weights on disk: whole or refused."""

import hashlib
import http.server
import pickle
import threading

import pytest
import torch

from models import checkpoints
from models.checkpoints import (
    OFFICIAL,
    Due,
    OfficialFile,
    cache_folder,
    digest,
    load_checkpoint,
    load_official,
    resolve,
    save_checkpoint,
)


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "new" / "weights.safetensors"
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.ones(4, dtype=torch.float16),
        "turned": torch.arange(6).reshape(2, 3).T,
        "scalar": torch.tensor(3),
    }
    name = save_checkpoint(path, tensors, {"steps": "12"})
    back, metadata = load_checkpoint(path)
    assert metadata == {"steps": "12"}
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert torch.equal(back[key], tensor)
        assert back[key].dtype == tensor.dtype
    assert name == digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_tensors_that_share_memory_are_kept_apart(tmp_path):
    whole = torch.arange(4.0)
    save_checkpoint(tmp_path / "w.safetensors", {"whole": whole, "half": whole[:2]}, {})
    back, _ = load_checkpoint(tmp_path / "w.safetensors")
    assert back["half"].tolist() == [0, 1]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "w.safetensors"
    before = save_checkpoint(path, {"a": torch.zeros(2)}, {})
    with pytest.raises(TypeError):
        save_checkpoint(path, {"a": torch.ones(2)}, {"steps": 12})  # metadata must be strings
    assert digest(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_truncated_checkpoint_is_refused_by_name(tmp_path):
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, {"a": torch.zeros(1000)}, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"w.safetensors: this is no whole safetensors file"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="there is no such checkpoint"):
        load_checkpoint(tmp_path / "other.safetensors")


class Trap:
    """Runs when unpickled by a careless reader."""

    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


def _code(path):
    torch.save({"a": Trap()}, path)


def _cut(path):
    torch.save({"a": torch.zeros(5000)}, path)
    path.write_bytes(path.read_bytes()[:9000])


def _plain_pickle(path):
    path.write_bytes(pickle.dumps({"a": Trap()}))


def _page(path):
    path.write_text("<html>Not found</html>")


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("write", [_code, _cut, _plain_pickle, _page, _empty])
def test_bad_official_files_are_refused_in_one_sentence_and_run_nothing(tmp_path, write):
    path = tmp_path / "sam.pth"
    write(path)
    with pytest.raises(ValueError, match=r"sam.pth: this is no whole file of plain weights") as error:
        load_official(path)
    assert "\n" not in str(error.value)
    assert not Trap.sprung


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match="something other than tensors by name"):
        load_official(tmp_path / "sam.pth")


def test_official_weights_come_back(tmp_path):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "sam.pth")
    assert load_official(tmp_path / "sam.pth")["a"].tolist() == [0, 1, 2]
    save_checkpoint(tmp_path / "sam.safetensors", {"b": torch.ones(1)}, {})
    assert load_official(tmp_path / "sam.safetensors")["b"].tolist() == [1]


@pytest.fixture
def server(tmp_path):
    """A web server on this machine alone, and the list of what it was asked for."""
    folder = tmp_path / "published"
    folder.mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder, asked
        server.shutdown()
        thread.join()


@pytest.fixture
def published(server, monkeypatch):
    """vit_b as published on that server."""
    address, folder, asked = server
    content = b"weights" * 400_000
    (folder / "sam_b.pth").write_bytes(content)
    official = OfficialFile(f"{address}/sam_b.pth", hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(OFFICIAL, "vit_b", official)
    monkeypatch.setattr(checkpoints, "PATIENCE", 5)
    return official, content, asked


def test_a_download_is_checked_kept_and_not_repeated(published, tmp_path):
    _, content, asked = published
    cache = tmp_path / "cache"
    path = resolve("vit_b", cache=cache)
    assert path.read_bytes() == content
    assert resolve("vit_b", cache=cache) == path
    assert len(asked) == 1
    assert list(cache.iterdir()) == [path]


def test_other_bytes_than_published_are_not_kept(published, tmp_path, monkeypatch):
    official, _, _ = published
    monkeypatch.setitem(OFFICIAL, "vit_b", OfficialFile(official.url, "0" * 64))
    with pytest.raises(ValueError, match="what came has sha256"):
        resolve("vit_b", cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_file_in_the_cache_is_refused(published, tmp_path):
    (tmp_path / "sam_b.pth").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"sam_b.pth: its sha256 is not that of .* delete it"):
        resolve("vit_b", cache=tmp_path)


def test_a_missing_page_says_what_to_fetch_and_where_to_put_it(published, tmp_path, monkeypatch):
    official, _, _ = published
    monkeypatch.setitem(
        OFFICIAL, "vit_b", OfficialFile(official.url.replace("sam_b", "gone"), official.sha256)
    )
    with pytest.raises(FileNotFoundError, match=f"fetch http.*gone.pth .* put it at {tmp_path}/gone.pth"):
        resolve("vit_b", cache=tmp_path)


def test_no_network_gives_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(OFFICIAL, "vit_b", OfficialFile("http://127.0.0.1:9/sam_b.pth", "0" * 64))
    with pytest.raises(FileNotFoundError, match="could not be downloaded") as error:
        resolve("vit_b", cache=tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_given_path_wins(tmp_path):
    path = tmp_path / "mine.pth"
    with pytest.raises(FileNotFoundError, match=r"mine.pth: there is no such checkpoint"):
        resolve("vit_h", path)
    path.write_bytes(b"x")
    assert resolve("vit_h", path) == path


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("BLUEMASK_CACHE", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"
    monkeypatch.delenv("BLUEMASK_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "bluemask"


def test_the_official_files_are_the_published_ones():
    assert {name: file.name for name, file in OFFICIAL.items()} == {
        "vit_b": "sam_vit_b_01ec64.pth",
        "vit_l": "sam_vit_l_0b3195.pth",
        "vit_h": "sam_vit_h_4b8939.pth",
    }
    assert all(len(bytes.fromhex(file.sha256)) == 32 for file in OFFICIAL.values())


def test_a_state_is_due_after_so_many_steps_or_so_much_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    due, found = Due(5, seconds=60), []
    for step in range(1, 13):
        clock[0] += 100 if step == 7 else 1
        if due(step):
            found.append(step)
    assert found == [5, 7, 10]
