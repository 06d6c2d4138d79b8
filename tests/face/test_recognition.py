"""Packs of face models: which file tells people apart, embeddings as insightface computes them, and what goes wrong."""

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from acfun.errors import BaseNotFoundError, FaceModelError, MissingExtraError
from acfun.face.align import IDENTITY_CROP_SIZE
from acfun.face.detection import check_runtimes, choose_providers
from acfun.face.identity import IdentityEncoder, load_identity_encoder
from acfun.face.onnx_module import Graph, Node
from acfun.face.packs import INSIGHTFACE_LICENCE, OTHER_LICENCE, check_path, compute_fingerprint, describe_licence
from acfun.face.recognition import OnnxIdentityEncoder, load_recognition
from tests.fitting import build_identity_encoder
from tests.manual import require_documented

SIZE = IDENTITY_CROP_SIZE


def random_crops(count: int) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def build_encoder(*first: Node, batch: int | None = None) -> OnnxIdentityEncoder:
    """Mean colours as the embedding, after the nodes that are given, the last of which makes `a`."""
    nodes = (*first, Node("GlobalAveragePool", ("a" if first else "image",), "out", {}))
    weights = {"half": torch.tensor(127.5)}
    return OnnxIdentityEncoder(Graph(nodes, weights, "image", (batch, 3, SIZE, SIZE), ("out",)))


def test_embeddings_have_unit_length_and_gradients() -> None:
    crops = random_crops(3).requires_grad_()
    embeds = build_encoder()(crops)
    torch.testing.assert_close(embeds, torch.nn.functional.normalize(crops.mean((2, 3)), dim=1))
    embeds[0, 0].backward()
    assert crops.grad is not None
    assert float(crops.grad.abs().sum()) > 0


def test_a_graph_that_normalises_its_input_is_given_bytes() -> None:
    own = (Node("Sub", ("image", "half"), "b", {}), Node("Div", ("b", "half"), "a", {}))
    assert build_encoder(*own).takes_bytes
    assert not build_encoder().takes_bytes
    torch.testing.assert_close(
        build_encoder(*own)(random_crops(2)), build_encoder()(random_crops(2)), atol=1e-5, rtol=0
    )


def test_a_graph_for_single_crops_is_given_single_crops() -> None:
    fixed = (Node("Identity", ("image",), "a", {}),)
    assert torch.equal(build_encoder(*fixed, batch=1)(random_crops(3)), build_encoder(*fixed)(random_crops(3)))


def test_other_crops_are_refused() -> None:
    with pytest.raises(ValueError, match="face_crop"):
        build_encoder()(torch.zeros(1, 3, 96, 96))


def test_the_embedded_encoder_and_saved_ones_need_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    build_identity_encoder().save_pretrained(tmp_path)
    loaded = load_recognition(tmp_path)
    assert isinstance(loaded, IdentityEncoder)
    assert load_recognition(str(tmp_path)) is loaded
    try:
        assert load_recognition() is load_identity_encoder()
    except BaseNotFoundError:
        pytest.skip("the embedded identity encoder is not trained yet")


def test_fingerprints_are_those_of_the_content(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "det.onnx").write_bytes(b"c" if folder == "c" else b"a")
    first, same, other = (compute_fingerprint(tmp_path / folder) for folder in ("a", "b", "c"))
    assert first == same != other
    assert compute_fingerprint("mini") == "mini"


def test_the_licence_goes_by_the_name(tmp_path: Path) -> None:
    for name in ("w600k_r50.onnx", "glintr100.onnx", "buffalo_l"):
        assert INSIGHTFACE_LICENCE in describe_licence(tmp_path / name)
    assert INSIGHTFACE_LICENCE in describe_licence(tmp_path / "antelopev2" / "face.onnx")
    assert OTHER_LICENCE in describe_licence(tmp_path / "ours.onnx")


def test_a_pack_is_loaded_by_folder_or_file_and_its_terms_are_said(
    pack: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        encoder = load_recognition(pack)
    assert [record.message for record in caplog.records] == [f"w600k_r50.onnx: {INSIGHTFACE_LICENCE}"]
    assert load_recognition(pack) is encoder
    crops = random_crops(2)
    embeds = encoder(crops)
    assert torch.equal(load_recognition(pack / "w600k_r50.onnx")(crops), embeds)
    torch.testing.assert_close(embeds.norm(dim=1), torch.ones(2))
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_exports_from_mxnet_are_understood(tmp_path: Path) -> None:
    packs = pytest.importorskip("tests.packs", reason="needs the package onnx")
    encoder = load_recognition(packs.write_mxnet_recognition(tmp_path / "arcfaceresnet100-8.onnx"))
    assert isinstance(encoder, OnnxIdentityEncoder)
    assert (encoder.takes_bytes, encoder.takes_single_crops) == (True, True)
    assert encoder(random_crops(2)).shape == (2, packs.EMBEDDING_SIZE)


def test_embeddings_are_those_of_insightface(pack: Path) -> None:
    pytest.importorskip("onnxruntime")
    model_zoo = pytest.importorskip("insightface.model_zoo")
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    model = model_zoo.get_model(str(pack / "w600k_r50.onnx"), providers=["CPUExecutionProvider"])
    wanted = torch.from_numpy(model.get_feat(pixels))
    crops = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    torch.testing.assert_close(load_recognition(pack)(crops), torch.nn.functional.normalize(wanted), atol=1e-5, rtol=0)


def nest(pack: Path) -> Path:
    inner = pack / "buffalo_l"
    inner.mkdir()
    for model in pack.glob("*.onnx"):
        model.rename(inner / model.name)
    return pack


def empty(pack: Path) -> Path:
    shutil.rmtree(pack)
    pack.mkdir()
    return pack


def keep_zip(pack: Path) -> Path:
    pack.with_suffix(".zip").write_bytes(b"PK")
    return pack.with_suffix(".zip")


def drop(name: str) -> Callable[[Path], Path]:
    def change(pack: Path) -> Path:
        (pack / name).unlink()
        return pack

    return change


def cut_off(pack: Path) -> Path:
    model = pack / "w600k_r50.onnx"
    model.write_bytes(model.read_bytes()[:5000])
    return model


def copy_recognition(pack: Path) -> Path:
    shutil.copy(pack / "w600k_r50.onnx", pack / "glintr100.onnx")
    return pack


def use_unknown_operator(pack: Path) -> Path:
    import onnx

    model = onnx.load(str(pack / "w600k_r50.onnx"))
    model.graph.node[1].op_type = "Softplus"
    del model.graph.node[1].input[1:]
    onnx.save(model, str(pack / "w600k_r50.onnx"))
    return pack / "w600k_r50.onnx"


# What spoils a pack, and what the documentation says of it.
FAILURES: dict[str, Callable[[Path], Path]] = {
    "missing": lambda pack: pack.with_name("buffalo_m"),
    "zip": keep_zip,
    "empty": empty,
    "nested": nest,
    "no recognition": drop("w600k_r50.onnx"),
    "several": copy_recognition,
    "cut off": cut_off,
    "operator": use_unknown_operator,
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failures_are_explained_as_in_the_manual(failure: str, pack: Path) -> None:
    source = FAILURES[failure](pack)
    before = sorted(pack.parent.rglob("*"))
    with pytest.raises(FaceModelError) as caught:
        load_recognition(source)
    require_documented(caught.value, pack.parent)
    assert sorted(pack.parent.rglob("*")) == before  # nothing is created


def write_other_kind(folder: Path) -> str:
    (folder / "config.json").write_text('{"architectures": ["CLIPVisionModelWithProjection"]}', encoding="utf-8")
    return "of class None, not 'IdentityEncoder'"


def write_unknown_option(folder: Path) -> str:
    (folder / "config.json").write_text('{"_class_name": "IdentityEncoder", "depth": 3}', encoding="utf-8")
    return "do not fit .*'depth'"


def write_other_widths(folder: Path) -> str:
    (folder / "config.json").write_text('{"_class_name": "IdentityEncoder"}', encoding="utf-8")
    return "do not fit .*size mismatch"


def cut_config(folder: Path) -> str:
    (folder / "config.json").write_text('{"_class_name": ', encoding="utf-8")
    return "damaged"


def cut_weights(folder: Path) -> str:
    (folder / "model.safetensors").write_bytes(b"cut off")
    return "damaged"


def drop_weights(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return r"has no model\.safetensors"


@pytest.mark.parametrize(
    "spoil", [write_other_kind, write_unknown_option, write_other_widths, cut_config, cut_weights, drop_weights]
)
def test_folders_that_hold_no_encoder_are_explained(spoil: Callable[[Path], str], tmp_path: Path) -> None:
    build_identity_encoder().save_pretrained(tmp_path)
    reason = spoil(tmp_path)
    with pytest.raises(FaceModelError, match=rf"(?s){tmp_path} .*{reason}.*: give a folder written by"):
        load_recognition(tmp_path)
    with pytest.raises(BaseNotFoundError, match=rf"(?s){tmp_path} .*{reason}.*: it holds no identity encoder"):
        IdentityEncoder.from_pretrained(tmp_path)


def test_an_encoder_without_weights_has_no_fingerprint(tmp_path: Path) -> None:
    build_identity_encoder().save_pretrained(tmp_path)
    drop_weights(tmp_path)
    with pytest.raises(FaceModelError, match=r"has no model\.safetensors"):
        compute_fingerprint(tmp_path)


def test_paths_are_checked_without_any_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "buffalo_l" / "buffalo_l").mkdir(parents=True)
    with pytest.raises(FaceModelError, match="unpack the pack's zip file there once more"):
        check_path(tmp_path / "buffalo_l")
    (tmp_path / "buffalo_l" / "buffalo_l" / "det_10g.onnx").write_bytes(b"")
    with pytest.raises(FaceModelError, match="the zip file had a folder of its own"):
        check_path(tmp_path / "buffalo_l")
    with pytest.raises(MissingExtraError) as caught:
        load_recognition(tmp_path / "buffalo_l" / "buffalo_l")
    require_documented(caught.value, tmp_path)


def test_runtimes_that_do_not_fit_are_explained_as_in_the_manual(tmp_path: Path) -> None:
    with pytest.raises(FaceModelError) as both:
        check_runtimes({"onnxruntime": "1.20", "onnxruntime-gpu": "1.20"})
    with pytest.raises(FaceModelError) as no_cuda:
        choose_providers("cuda", ["AzureExecutionProvider", "CPUExecutionProvider"])
    for caught in (both, no_cuda):
        require_documented(caught.value, tmp_path)
    for installed in ({}, {"onnxruntime": "1.20"}, {"onnxruntime-gpu": "1.20", "onnxruntime": None}):
        check_runtimes(installed)


@pytest.mark.parametrize(
    ("device", "available", "chosen"),
    [
        ("auto", ["CPUExecutionProvider"], ["CPUExecutionProvider"]),
        ("cpu", ["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"]),
        ("auto", ["CUDAExecutionProvider", "CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]),
        (
            "cuda:1",
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
        ),
    ],
)
def test_providers_follow_the_device(device: str, available: list[str], chosen: list[str]) -> None:
    assert choose_providers(device, available) == chosen
