"""Keys of cached styles follow the content of what a fit looks at, not where it lies."""

from dataclasses import replace
from pathlib import Path

from acfun.config import FitConfig
from acfun.style_cache import compute_style_key
from tests.fitting import build_identity_encoder


def compute(config: FitConfig) -> str:
    return compute_style_key(config, style=b"style", faces=b"faces", base_fingerprint="base")


def test_face_models_count_by_content(tmp_path: Path) -> None:
    config = FitConfig(style_path="a.png")
    for name in ("first", "moved"):
        build_identity_encoder().save_pretrained(tmp_path / name)
    (tmp_path / "face.onnx").write_bytes(b"one")
    sources = [str(tmp_path / name) for name in ("face.onnx", "first", "moved")]
    keys = [compute(replace(config, identity_encoder=source)) for source in ("mini", *sources)]
    assert len(set(keys)) == 3
    assert keys[2] == keys[3]
    (tmp_path / "face.onnx").write_bytes(b"two")
    assert compute(replace(config, identity_encoder=sources[0])) != keys[1]
    assert compute(replace(config, face_detector=sources[0])) != compute(replace(config, identity_encoder=sources[0]))
