"""CLIP pretraining: the loss on paper, crops, and a toy run from shards to loadable parts."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from train.pretrain_clip import ClipConfig, compare_texts, compute_contrastive_loss, sample_crops, train

TOY = ClipConfig(
    vocab_size=600,
    hidden_size=16,
    num_heads=2,
    text_layers=1,
    vision_layers=1,
    image_size=32,
    batch_size=4,
    learning_rate=1e-3,
    precision="no",
)


def test_loss_is_clips_own_when_all_texts_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(5, 8, generator=generator), dim=1) for _ in range(2))
    logits, labels = 7.0 * images @ texts.T, torch.arange(5)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    found = compute_contrastive_loss(images, texts, torch.tensor(7.0), compare_texts(list("abcde")))
    torch.testing.assert_close(found, expected)


def test_equal_texts_are_not_each_others_negatives() -> None:
    embeds = torch.eye(3)[[0, 0, 1]]
    scale = torch.tensor(50.0)
    shared = compute_contrastive_loss(embeds, embeds, scale, compare_texts(["x", "x", "y"]))
    apart = compute_contrastive_loss(embeds, embeds, scale, compare_texts(["x", "z", "y"]))
    torch.testing.assert_close(shared, torch.tensor(2.0).log() * 2 / 3)
    torch.testing.assert_close(apart, shared)
    wrong = compute_contrastive_loss(embeds, embeds[[0, 2, 1]], scale, compare_texts(["x", "x", "y"]))
    assert wrong > shared + 10


def test_whole_crops_are_the_image_or_its_mirror() -> None:
    images = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    crops = sample_crops(images, 8, 1.0, torch.Generator().manual_seed(0))
    is_plain = torch.isclose(crops, images, atol=1e-5).all((1, 2, 3))
    is_mirror = torch.isclose(crops, images.flip(3), atol=1e-5).all((1, 2, 3))
    assert (is_plain ^ is_mirror).all()
    assert is_plain.any()
    assert is_mirror.any()
    assert sample_crops(images, 4, 0.5, torch.Generator().manual_seed(0)).shape == (16, 3, 4, 4)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    directory = tmp_path / "shards"
    directory.mkdir()
    generator = np.random.default_rng(0)
    np.save(directory / "images.npy", generator.integers(0, 256, (12, 40, 40, 3), dtype=np.uint8))
    captions = [f"a photo of {number} apples" for number in range(12)]
    (directory / "captions.json").write_text(json.dumps(captions))
    return directory


def run(shards: Path, output: Path, steps: int, *, resume: bool = False) -> None:
    arguments = {"data": [shards], "held_out": shards, "output": output, "max_steps": steps, "minutes": 5.0}
    train(argparse.Namespace(**arguments, device="cpu", resume=resume), TOY)


@pytest.mark.usefixtures("default_signals")
def test_toy_run_exports_what_the_libraries_load(shards: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run(shards, output, 2)
    last = json.loads((output / "log.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["samples"]) == (2, 8)
    assert 0 <= last["image_to_text"] <= 1
    tokenizer = CLIPTokenizer.from_pretrained(output / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(output / "text_encoder")
    image_encoder = CLIPVisionModelWithProjection.from_pretrained(output / "image_encoder")
    processor = CLIPImageProcessorPil.from_pretrained(output / "feature_extractor")
    assert text_encoder.dtype == image_encoder.dtype == torch.float16
    tokens = tokenizer(["one", "a photo of one"], padding="max_length", return_tensors="pt")
    pooled = text_encoder.float()(tokens.input_ids).pooler_output
    image = np.load(shards / "images.npy")[0]
    embeds = image_encoder.float()(processor(image, return_tensors="pt").pixel_values).image_embeds
    assert pooled.shape == (2, 16)
    assert embeds.shape == (1, 16)
    # The pooled state is that of the first end token, wherever the text ends.
    hidden = text_encoder(tokens.input_ids).last_hidden_state
    ends = (tokens.input_ids == tokenizer.eos_token_id).int().argmax(1)
    torch.testing.assert_close(pooled, hidden[torch.arange(2), ends])


@pytest.mark.usefixtures("default_signals")
def test_resumed_run_continues_from_the_checkpoint(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path / "run", 2)
    first = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    run(shards, tmp_path / "run", 4, resume=True)
    second = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert (first["train_state"]["step"], second["train_state"]["step"]) == (2, 4)
    assert second["ema"]["num_updates"] == 4
    assert not torch.equal(first["pair"]["log_scale"], second["pair"]["log_scale"])
