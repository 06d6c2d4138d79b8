"""The identity encoder: it builds, saves and loads, is differentiable, and tells held-out people apart."""

from pathlib import Path

import pytest
import torch

from acfun.errors import BaseNotFoundError
from acfun.face.align import IDENTITY_CROP_SIZE, face_crop
from acfun.face.identity import FeatureStages, IdentityEncoder, compute_tar, load_identity_encoder
from acfun.images import load_image, pil_to_tensor
from acfun.paths import mini_dir
from acfun.synthetic.data import find_data_dir, list_faces, load_landmarks, split_people

needs_weights = pytest.mark.skipif(
    not (mini_dir() / "identity_encoder" / "model.safetensors").is_file(),
    reason="the embedded identity encoder is not trained yet",
)


def build_tiny_encoder(seed: int = 0) -> IdentityEncoder:
    """An untrained encoder of a few thousand parameters."""
    torch.manual_seed(seed)
    encoder = IdentityEncoder(
        stem_channels=4, channels=(4, 8, 8), num_units=(1, 0, 1), head_channels=4, embedding_size=16
    )
    return encoder.eval()


def random_crops(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, IDENTITY_CROP_SIZE, IDENTITY_CROP_SIZE, generator=generator) * 2 - 1


def test_default_encoder_is_small() -> None:
    assert 1_000_000 < sum(parameter.numel() for parameter in IdentityEncoder().parameters()) < 1_800_000


def test_embeddings_have_unit_length_and_belong_to_their_crop() -> None:
    encoder, crops = build_tiny_encoder(), random_crops(3)
    embeds = encoder(crops)
    assert embeds.shape == (3, 16)
    assert torch.allclose(embeds.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(encoder(crops[1:2]), embeds[1:2], atol=1e-5)


def test_embedding_is_differentiable_in_the_image() -> None:
    crops = random_crops(1).requires_grad_()
    embeds = build_tiny_encoder().requires_grad_(False)(crops)
    embeds[0, 0].backward()
    assert crops.grad is not None
    assert float(crops.grad.abs().sum()) > 0


def test_crop_of_another_size_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="face_crop"):
        build_tiny_encoder()(torch.zeros(1, 3, 96, 96))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_save_then_load_gives_the_same_embeddings(tmp_path: Path, dtype: torch.dtype) -> None:
    encoder, crops = build_tiny_encoder(), random_crops(2)
    before = encoder(crops)
    encoder.to(dtype).save_pretrained(tmp_path / "encoder")
    loaded = IdentityEncoder.from_pretrained(tmp_path / "encoder")
    assert loaded.config == encoder.config
    assert not loaded.training
    assert torch.allclose(loaded(crops), before, atol=1e-6 if dtype == torch.float32 else 0.02)


def test_missing_weights_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BaseNotFoundError, match=r"config\.json and no model\.safetensors.*pretrain_identity"):
        IdentityEncoder.from_pretrained(tmp_path)


def test_feature_stages_take_images_of_any_size(tmp_path: Path) -> None:
    build_tiny_encoder().save_pretrained(tmp_path)
    maps = FeatureStages.from_pretrained(tmp_path)(torch.zeros(2, 3, 64, 96))
    assert [tuple(part.shape) for part in maps] == [(2, 4, 32, 48), (2, 4, 16, 24), (2, 8, 8, 12), (2, 8, 4, 6)]


def test_tar_counts_pairs_above_the_impostors() -> None:
    different = torch.linspace(0, 0.99, 100)
    same = torch.tensor([0.5, 0.97, 0.985, 1.0])
    assert compute_tar(same, different, 0.01) == 0.5  # one of the hundred may pass: the threshold is 0.98
    assert compute_tar(same, different, 0.03) == 0.75
    assert compute_tar(same, different, 1e-6) == 0.25
    assert compute_tar(same, same, 0.25) == 0.25


@needs_weights
def test_embedded_encoder_knows_a_held_out_person_in_grey_and_blurred() -> None:
    data_dir = find_data_dir()
    if data_dir is None:
        pytest.skip("the licensed photographs are not here; set ACFUN_DATA_DIR")
    encoder = load_identity_encoder()
    assert load_identity_encoder() is encoder
    landmarks, held_out = load_landmarks(data_dir), split_people(data_dir)[1]
    photos = [photo for photo in list_faces(data_dir) if photo.identity in held_out and photo.key in landmarks]
    points = torch.stack([torch.from_numpy(landmarks[photo.key]) for photo in photos])
    images = torch.cat([pil_to_tensor(load_image(photo.path)) for photo in photos])
    crops = face_crop(images, points)
    grey = torch.nn.functional.avg_pool2d(crops.mean(1, keepdim=True).expand_as(crops), 3, 1, 1)
    similarities = encoder(crops) @ encoder(grey).T
    assert len(photos) > 10
    assert float((similarities.argmax(1) == torch.arange(len(photos))).float().mean()) > 0.8
