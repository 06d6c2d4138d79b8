"""Configs: defaults, TOML, overrides, and errors that name the value and the remedy."""

import tomllib
from dataclasses import FrozenInstanceError, asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from acfun.config import FitConfig, dump_toml, load_config
from acfun.config_fields import FIELDS_BY_KIND, FieldKind, select_fields
from acfun.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScriptConfig:
    """Like those of the training scripts."""

    sizes: tuple[int, ...] = (64,)
    levels: tuple[int, int, int] = (1, 2, 3)
    rate: float = 0.5
    note: str | None = None


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_config_is_frozen_and_keyword_only() -> None:
    config = FitConfig(style_path="a.png")
    with pytest.raises(FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        FitConfig("a.png")  # type: ignore[call-arg]


def test_the_docstring_describes_every_field() -> None:
    documented = {line.split(":")[0].strip() for line in (FitConfig.__doc__ or "").splitlines() if ": " in line}
    assert {field.name for field in fields(FitConfig)} <= documented


def test_every_field_has_one_kind() -> None:
    kinds: tuple[FieldKind, ...] = get_args(FieldKind)
    assert FIELDS_BY_KIND.keys() == set(kinds)
    assert sorted(select_fields(*kinds)) == sorted(field.name for field in fields(FitConfig))
    assert select_fields("face_model", "base") == ("identity_encoder", "face_detector", "base", "base_config")


def test_toml_and_overrides_are_merged(tmp_path: Path) -> None:
    path = write(
        tmp_path / "fit.toml", 'style_path = "a.png"\nface_paths = ["b.png"]\nmax_steps = 7\nlearning_rate = 1\n'
    )
    config = load_config(FitConfig, path, {"max_steps": 9, "seed": None, "cfun_groups": ["decoder"]})
    assert (config.style_path, config.face_paths, config.max_steps) == ("a.png", ("b.png",), 9)
    assert config.seed == FitConfig(style_path="").seed
    assert config.cfun_groups == ("decoder",)
    assert type(config.learning_rate) is float


def test_every_config_comes_back_from_its_toml(tmp_path: Path) -> None:
    config = FitConfig(
        style_path='C:\\paintings\\"Nacht"\n\t.png',
        face_paths=("ü.png", "b c.png", "🎨.png"),
        learning_rate=3e-7,
        use_afun=False,
        output_dir="runs/one",
    )
    path = write(tmp_path / "fit.toml", dump_toml(asdict(config)))
    assert load_config(FitConfig, path) == config
    assert tomllib.loads(path.read_text())["use_afun"] is False


def test_none_is_left_out_of_toml() -> None:
    assert dump_toml({"note": None, "rate": 0.5}) == "rate = 0.5\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_step = 7", r"fit\.toml: unknown key 'max_step'; did you mean 'max_steps'\?"),
        ("zzz = 7", r"unknown key 'zzz'; known are style_path, "),
        ("seed = 3", r"fit\.toml: style_path must be given"),
        ('style_path = "a"\nobjective = "imagry"', r"objective is 'imagry'; choose one of imagery, two_target"),
        ('style_path = "a"\nmax_steps = "many"', r"fit\.toml: max_steps is 'many'; int is needed"),
        ('style_path = "a"\nmax_steps = true', r"max_steps is True; int is needed"),
        ('style_path = "a"\nmax_steps = 1.5', r"max_steps is 1\.5; int is needed"),
        ('style_path = "a"\nface_paths = "b"', r"face_paths is 'b'; tuple is needed"),
        ('style_path = "a"\nface_paths = [1]', r"face_paths is 1; str is needed"),
        ('style_path = "a"\nmax_steps = -1', r"max_steps is -1; it must be at least 0"),
        ("style_path = a", r"fit\.toml: this is no TOML \(.*line 1.*\)"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(FitConfig, write(tmp_path / "fit.toml", text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: the config cannot be read .*; check the path"):
        load_config(FitConfig, tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective": "pixels"}, "objective is 'pixels'; choose one of"),
        ({"cfun_groups": ("encoder", "head")}, "cfun_groups is 'head'; choose one of encoder, middle, decoder"),
        ({"framing": "hole"}, "framing is 'hole'; choose one of find, whole"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"identity_weight": -1.0}, "identity_weight is -1.0; it must be 0 or above"),
        ({"objective": "shared", "style_weight": 0.0, "face_weight": 0.0, "identity_weight": 0.0}, "all weights"),
        ({"resume": True}, "need a run folder; give output_dir"),
        ({"face_paths": "photo.jpg"}, r"face_paths is 'photo.jpg'; tuple is needed, for one value \('photo.jpg',\)"),
        ({"cfun_groups": "decoder"}, "cfun_groups is 'decoder'; tuple is needed"),
        ({"face_paths": (Path("b.png"),)}, r"face_paths is PosixPath\('b.png'\); str is needed"),
        ({"max_steps": 1.5}, "max_steps is 1.5; int is needed"),
        ({"seed": None}, "seed is None; int is needed"),
        ({"seed": 10**23}, f"seed is {10**23}; it must be from 0 to {2**63 - 1}"),
        ({"use_afun": "no"}, "use_afun is 'no'; bool is needed"),
        ({"output_dir": 3}, "output_dir is 3; str is needed"),
    ],
)
def test_impossible_values_are_refused_in_python_too(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FitConfig(style_path="a.png", **values)


def test_lists_and_whole_numbers_are_taken_in_python_as_in_toml() -> None:
    config = FitConfig(style_path="a.png", face_paths=["b.png"], learning_rate=1)  # type: ignore[arg-type]
    assert config == FitConfig(style_path="a.png", face_paths=("b.png",), learning_rate=1.0)
    assert type(config.learning_rate) is float
    assert hash(config) is not None


@pytest.mark.parametrize("objective", get_args(get_type_hints(FitConfig)["objective"]))
def test_loss_weights_leave_out_what_is_switched_off(objective: str) -> None:
    config = load_config(FitConfig, None, {"style_path": "a", "objective": objective, "identity_weight": 0.0})
    weights = config.loss_weights()
    assert weights and "identity" not in weights
    assert all(weight == getattr(config, f"{name}_weight") for name, weight in weights.items())


def test_a_scripts_own_config_is_checked_the_same_way(tmp_path: Path) -> None:
    path = write(tmp_path / "vae.toml", 'sizes = [96, 128]\nlevels = [4, 5, 6]\nrate = 2\nnote = "long"')
    assert load_config(ScriptConfig, path) == ScriptConfig(sizes=(96, 128), levels=(4, 5, 6), rate=2.0, note="long")
    with pytest.raises(ConfigError, match=r"levels is \[1, 2\]; 3 values are needed"):
        load_config(ScriptConfig, None, {"levels": [1, 2]})


def test_every_training_config_in_the_checkout_is_toml() -> None:
    paths = sorted((Path(__file__).parents[1] / "train" / "configs").glob("*.toml"))
    assert paths
    for path in paths:
        assert path.read_text(encoding="utf-8").startswith("#"), f"{path.name}: the first line says machine and result"
        assert tomllib.loads(path.read_text(encoding="utf-8"))
