from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from flows.config import Config, ConfigError, build_config, load_config

ROOT = Path(__file__).resolve().parents[2]
LEAST = {"data": {"folder": "images"}, "store": "store"}


def write(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def test_the_least_config_is_enough_and_paths_are_seen_from_it(tmp_path):
    config = load_config(write(tmp_path, "data: {folder: images}\nstore: out/store\n"))
    assert config.data.folder == tmp_path / "images"
    assert config.store == tmp_path / "out" / "store"
    assert config.sam.checkpoint is None


def test_the_config_is_frozen():
    config = build_config(LEAST, "c.yaml")
    with pytest.raises(ValidationError):
        config.block = 8


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"blok": 8}, ["c.yaml", "'blok' is no key", "its value: 8", "did you mean 'block'?"]),
        ({"augment": {"vews": 8}}, ["'augment.vews' is no key", "did you mean 'views'?"]),
        ({"vit": {}}, ["'vit' is no key", "did you mean 'train_vit'?"]),
        ({"block": 48}, ["block = 48", "power of two"]),
        ({"device": "gpu"}, ["device = 'gpu'", "'auto', 'cpu' or 'cuda'"]),
        ({"augment": {"views": "many"}}, ["augment.views = 'many'", "integer"]),
        ({"store": None}, ["store = None"]),
        ({"cam": {"low": 0.9, "high": 0.2}}, ["cam.high = 0.2", "below low = 0.9"]),
        ({"ensemble": {"high": 0.1}}, ["ensemble.high = 0.1", "below low = 0.25"]),
        ({"cam": {"scales": []}}, ["cam.scales = []", "at least one number above 0"]),
        ({"cam": {"scales": [1, 0]}}, ["cam.scales = [1, 0]", "at least one number above 0"]),
    ],
)
def test_an_error_names_the_key_the_value_and_what_is_allowed(changes, parts):
    with pytest.raises(ConfigError) as caught:
        build_config({**LEAST, **changes}, "c.yaml")
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_key_says_what_it_is_for():
    with pytest.raises(ConfigError, match="'data' is missing; data: The user's files"):
        build_config({"store": "s"}, "c.yaml")


def test_several_faults_are_all_named():
    with pytest.raises(ConfigError) as caught:
        build_config({**LEAST, "block": 48, "threads": 0}, "c.yaml")
    assert len(str(caught.value).splitlines()) == 2


def test_the_environment_overrides(monkeypatch, tmp_path):
    monkeypatch.setenv("BLUEMASK__BLOCK", "16")
    monkeypatch.setenv("BLUEMASK__RETRAIN__POLICY", "never")
    config = load_config(write(tmp_path, "data: {folder: images}\nstore: s\nretrain: {share: 0.3}\n"))
    assert (config.block, config.retrain.policy, config.retrain.share) == (16, "never", 0.3)


def test_one_underscore_too_few_is_no_silence(monkeypatch):
    monkeypatch.setenv("BLUEMASK_CAM__LOW", "0.2")
    with pytest.raises(ConfigError, match=r"BLUEMASK_CAM__LOW is not heeded: .* BLUEMASK__CAM__LOW"):
        build_config(LEAST, "c.yaml")


def test_a_rule_between_two_keys_names_the_variable_that_gave_one_of_them(monkeypatch):
    monkeypatch.setenv("BLUEMASK__CAM__LOW", "0.9")
    with pytest.raises(
        ConfigError, match=r"c\.yaml, with environment variable BLUEMASK__CAM__LOW: cam\.high = 0\.7"
    ):
        build_config(LEAST, "c.yaml")


def test_a_wrong_name_in_the_environment_is_no_silence(monkeypatch):
    monkeypatch.setenv("BLUEMASK__BLOK", "16")
    with pytest.raises(ConfigError, match="did you mean 'block'"):
        build_config(LEAST, "c.yaml")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "BLUEMASK__AUGMENT__VEWS",
            "8",
            "{}: 'augment.vews' is no key (its value: '8'); did you mean 'views'?",
        ),
        ("bluemask__augment__vews", "8", "{}: 'augment.vews' is no key"),
        ("BLUEMASK__AUGMENT__VIEWS", "many", "{}: augment.views = 'many': input should be a valid integer"),
        ("BLUEMASK__AUGMENT", '{"vews": 8}', "{}: 'augment.vews' is no key"),
        ("BLUEMASK__AUGMENT", "eight", "{}: 'eight' is not JSON"),
        ("BLUEMASK__AUGMENT__SCALES", "x", "{}: 'x' is not JSON"),
        ("BLUEMASK__AUGMENT__SCALES", '["x"]', "{}: augment.scales.0 = 'x'"),
        ("BLUEMASK__PINS__SAM", "3", "c.yaml, with {}: pins = {{'sam': '3'}}"),
    ],
)
def test_what_a_variable_says_wrong_names_the_variable(monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        build_config(LEAST, "c.yaml")
    assert str(caught.value).startswith(said.format(f"environment variable {variable}"))


def test_what_the_file_says_wrong_is_not_laid_on_a_variable_beside_it(monkeypatch):
    monkeypatch.setenv("BLUEMASK__AUGMENT__VIEWS", "4")
    monkeypatch.setenv("BLUEMASK__CAM", '{"low": 0.2}')
    with pytest.raises(ConfigError) as caught:
        build_config({**LEAST, "augment": {"vews": 8}, "cam": {"hihg": 0.5}}, "c.yaml")
    assert [line.split(" is no key")[0] for line in str(caught.value).splitlines()] == [
        "c.yaml: 'augment.vews'",
        "c.yaml: 'cam.hihg'",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("block: 8\nstore: s\nblock: 16\n", "'block' stands in line 1 and in line 3; keep one"),
        ("store: s\nfuse: {cap: 0.4}\ncam: {low: 0.2, high: 0.5, low: 0.3}\n", "'cam.low' stands in line 3"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"), [("[1, 2", "not valid YAML"), ("- a", "expected keys and values")]
)
def test_what_is_no_config_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="bluemask init"):
        load_config(tmp_path / "none.yaml")


def models(model):
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from models(field.annotation)


def test_every_key_is_documented():
    bare = [
        f"{m.__name__}.{n}" for m in models(Config) for n, f in m.model_fields.items() if not f.description
    ]
    assert not bare


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_load(path):
    assert load_config(path).store.is_absolute()


def test_the_papers_numbers():
    config = load_config(ROOT / "configs" / "bluefilm.yaml")
    vit, cam = config.train_vit, config.cam
    assert vit.backbone.startswith("vit_base_patch16")
    assert (cam.low, cam.high) == (0.25, 0.70)
    assert (vit.rate, vit.weight_decay, vit.step_images) == (6e-5, 0.001, 8)
    assert vit.momentum == 0.9
    assert config.augment.views == 8
    assert set(config.augment.scales) == {0.5, 1, 2}
    assert config.augment.flips
    assert config.augment.turns
