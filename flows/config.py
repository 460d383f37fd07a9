"""The configuration: frozen, complete, and an error for every key that is not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from flows.config_faults import BETWEEN, PREFIX, sentence, unknown_variable, unreadable_variable
from flows.sections import (
    AugmentConfig,
    CamConfig,
    EmbedConfig,
    EnsembleConfig,
    FuseConfig,
    MaskConfig,
    PromptConfig,
    SamConfig,
    Section,
    TrainFusionConfig,
    TrainVitConfig,
)

NORMAL = ("good", "free", "ok", "normal", "no_defect", "no-defect", "defect_free", "none")

MOST_BYTES = 1 << 18
"""Largest config file that is read."""


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the key, the value and what is allowed."""


class DataConfig(Section):
    """The user's files."""

    folder: Path
    """The image folder; relative paths are seen from the config file."""
    labels: Path | None = None
    """A CSV `image,labels`, paths relative to it; none means a folder per class."""
    annotations: Path | None = None
    """A folder of index PNGs: k a class, 0 background, 255 unmarked; none by default."""
    points: Path | None = None
    """A CSV `image,x,y,label` of marked points, the label a class or `background`; none by default. See docs/marks.md."""
    normal: tuple[str, ...] = NORMAL
    """Names of folders or labels that mean `no defect`; they are not classes. Case does not matter."""
    value_range: tuple[int, int] | None = None
    """Darkest and brightest value of images of more than 8 bits, one range for the whole set; none
    means 0 to the most that the set's bit depth holds, fixed at the first run."""

    @field_validator("value_range")
    @classmethod
    def _rising(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 0 <= value[0] < value[1] <= 65535:
            raise ValueError("must be two whole numbers, 0 ≤ darkest < brightest ≤ 65535")
        return value

    max_megapixels: float = Field(default=250, gt=0)
    """Largest image that is decoded, in megapixels, read from the header: a small file can unpack to
    many gigabytes."""
    max_gone: float = Field(default=0.05, ge=0, le=1)
    """Largest share of the images that may have vanished since the last run; more looks like a share
    that is not mounted, and stops the run."""


class RetrainConfig(Section):
    """When the two networks are trained anew."""

    policy: Literal["never", "changed", "always"] = "changed"
    """`changed`: when more than `share` of the images differ from what the network was trained on;
    `always`: when any does; `never`: only where there is no network yet, or one lacks a class."""
    share: float = Field(default=0.1, ge=0, le=1)
    """Share of images, 0 to 1: below a tenth the networks hardly move and every CAM would be redone."""
    promote: Literal["checked", "always"] = "checked"
    """`checked`: a trained network takes the other's place only if no figure that needs no mask falls by more than
    `tolerance`; `always`: unseen. `bluemask rollback` takes one back."""
    tolerance: float = Field(default=0.05, ge=0, le=1)
    """How far a figure may fall, all of them being 0 to 1 (0.05: from 0.65 to 0.60): two trainings on the same images differ by some hundredths."""
    check_images: int = Field(default=128, ge=1)
    """Images on which the two are compared: a few seconds of work."""


class RetentionConfig(Section):
    """What `bluemask prune`, and the end of each nightly run, removes."""

    nights: int = Field(default=7, ge=0)
    """Days for which replaced arrays, retired images' arrays and reports are kept: time to look, and to go back."""
    quota_gb: float | None = Field(default=None, gt=0)
    """Most space for the store, in GB; above it replaced arrays go at once, then augmented images and embeddings,
    which are made anew when needed. Labels never go. None: no limit."""


class AlertConfig(Section):
    """What makes a run fail loudly, although it ended."""

    quarantined: float | None = Field(default=0.2, ge=0, le=1)
    """Share of the images that could not be read, or whose marks do not fit, above which something is wrong with the camera, the share
    or the marks."""
    drift: float | None = Field(default=None, gt=0)
    """Relative change of a class's share of defect pixels since the last run, such as 0.5; none by default, as
    only the user knows how much a line varies."""
    entropy: float | None = Field(default=None, gt=0)
    """Rise of the mean entropy since the last run, in bits; none by default."""
    changed: float | None = Field(default=None, ge=0, le=1)
    """Share of the images there before whose label map is another one now; none by default."""


class KeepConfig(Section):
    """Which large arrays stay on disk; a dropped one is made anew when a stale stage needs it."""

    augmented: bool = True
    """SAM's inputs: the largest array, and a cheap one to make."""
    embedding: bool = True
    """SAM's image embeddings: what a night after retraining decodes instead of encoding."""


class Config(BaseSettings):
    """All that a run depends on."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter=BETWEEN,
        use_attribute_docstrings=True,
    )

    data: DataConfig
    """The user's files."""
    store: Path
    """Folder for catalog, arrays, receipts and checkpoints, relative to the config file; or s3://bucket/prefix."""
    block: int = Field(default=64, ge=1, le=64)
    """Most images a block, a power of two: the unit of work, of retry and of commit."""
    memory_gb: float = Field(default=1.0, gt=0)
    """Most memory for a block's largest array, in GB; blocks get smaller where images are large."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run; `auto` takes a CUDA device where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of SAM's encoder and of inference; `auto`: bfloat16 for an official SAM where the machine has a
    matrix unit for it (a recent GPU; AMX in a CPU), else float32. Without the unit bfloat16 is slower."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of one network on the CPU; none means all cores. Results are bitwise equal only for the
    same number."""
    workers: int = Field(default=2, ge=1, le=64)
    """Blocks worked on at the same time by stages that need no network."""
    retries: int = Field(default=2, ge=0)
    """How often a failing block is tried again, with growing pauses, before it is reported."""
    keep: KeepConfig = KeepConfig()
    """Which large arrays stay on disk."""
    retrain: RetrainConfig = RetrainConfig()
    """When the networks are trained anew."""
    retention: RetentionConfig = RetentionConfig()
    """What is removed when."""
    alerts: AlertConfig = AlertConfig()
    """What makes a run fail loudly."""
    pins: dict[Literal["sam", "start", "vit", "fusion"], str] = {}
    """Sha256 that a network's checkpoint must have, by network; empty: any. Official SAM files are checked in any
    case."""
    runner: Literal["threads", "dask"] = "threads"
    """Where blocks are worked on: threads of this process, or Dask workers, here or on other machines."""
    scheduler: str | None = None
    """Address of the Dask scheduler, such as tcp://10.0.0.5:8786, for `runner: dask`; workers with a resource
    `accelerator` get the stages that need a network, one at a time for each."""
    augment: AugmentConfig = AugmentConfig()
    """The views."""
    sam: SamConfig = SamConfig()
    """Which SAM."""
    embed: EmbedConfig = EmbedConfig()
    """SAM's encoder."""
    train_vit: TrainVitConfig = TrainVitConfig()
    """The ViT with class tokens, and its training."""
    cam: CamConfig = CamConfig()
    """The CAM and P1."""
    prompt: PromptConfig = PromptConfig()
    """What SAM is asked."""
    mask: MaskConfig = MaskConfig()
    """SAM's decoder."""
    ensemble: EnsembleConfig = EnsembleConfig()
    """Mean, entropy and P2."""
    train_fusion: TrainFusionConfig = TrainFusionConfig()
    """The fusion network's training."""
    fuse: FuseConfig = FuseConfig()
    """P and its confidence."""

    @field_validator("pins")
    @classmethod
    def _digests(cls, value: dict[Any, str]) -> dict[Any, str]:
        if any(len(pin) != 64 or not set(pin) <= set("0123456789abcdef") for pin in value.values()):
            raise ValueError("must be sha256 digests, 64 hexadecimal digits each")
        return value

    @field_validator("block")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("must be a power of two: 1, 2, 4, 8, 16, 32 or 64")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return env_settings, init_settings


def load_config(path: Path) -> Config:
    """Read a YAML config; `BLUEMASK__SECTION__KEY` in the environment overrides a key.

    Relative paths in it are seen from its own folder. Raises ConfigError that names the key, the
    value and what is allowed.
    """
    try:
        values = _parsed(path)
    except IsADirectoryError as error:
        raise ConfigError(
            f"{path} is a folder; give the config, the YAML file that `bluemask init` wrote"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; `bluemask init FOLDER --out {path} --store STORE` writes one"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = str(error).replace('"<unicode string>"', str(path))
        raise ConfigError(f"{path} is not valid YAML: {said}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(values).__name__}")
    return anchored(build_config(values, str(path)), path.resolve().parent)


def _parsed(path: Path) -> Any:
    """YAML of a reasonable size and without aliases: a few lines of those unfold to gigabytes."""
    if path.stat().st_size > MOST_BYTES:
        raise ConfigError(f"{path} has {path.stat().st_size} bytes; a config has a few thousand at most")
    text = path.read_text(encoding="utf-8")
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
        raise ConfigError(f"{path} holds a YAML alias (*name); write the value out")
    _refuse_twice(yaml.compose(text, Loader=yaml.SafeLoader), path, "")
    return yaml.safe_load(text)


def _refuse_twice(node: yaml.Node | None, path: Path, above: str) -> None:
    """A key that stands twice: of the two values YAML would take the last in silence."""
    lines: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name, line = f"{above}{key.value}", key.start_mark.line + 1
        if name in lines:
            raise ConfigError(
                f"{path}: {name!r} stands in line {lines[name]} and in line {line}; keep one, with all that is in both"
            )
        lines[name] = line
        _refuse_twice(value, path, f"{name}.")


def build_config(values: dict[str, Any], source: str) -> Config:
    """Validate nested values as a config; `source` names them in errors."""
    if unknown := unknown_variable(Config):
        raise ConfigError(unknown)
    try:
        return Config(**values)
    except SettingsError as error:
        raise ConfigError(unreadable_variable(error)) from error
    except ValidationError as error:
        lines = [sentence(item, source, Config) for item in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def anchored(config: Config, folder: Path) -> Config:
    """The same config with every relative path made absolute, seen from `folder`."""

    def fix(model: BaseModel) -> BaseModel:
        update: dict[str, Any] = {}
        for name in type(model).model_fields:
            value = getattr(model, name)
            if isinstance(value, Path) and not value.as_posix().startswith("s3:"):
                update[name] = (folder / value.expanduser()).resolve()
            elif isinstance(value, BaseModel):
                update[name] = fix(value)
        return model.model_copy(update=update)

    fixed = fix(config)
    return fixed if isinstance(fixed, Config) else config
