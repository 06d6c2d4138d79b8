"""Pretraining of VAE and UNet: toy runs from shards to loadable parts, which resume where they stopped."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file

from acfun.errors import DataError
from acfun.face.identity import IdentityEncoder
from acfun.identity_adapter import ADAPTER_FILE, ADAPTER_FOLDER, flatten_adapter, start_adapter
from acfun.portrait import place_mean_face
from acfun.synthetic.shards import Labels
from tests.tiny import LATENT_CHANNELS, MAX_LENGTH, WIDTH, build_text_encoder, build_tokenizer, build_vae
from train import assemble_mini, pretrain_identity_adapter, pretrain_unet, pretrain_vae
from train.diffusion import build_scheduler
from train.latents import load_latents, load_neighbours
from train.pretraining import CHECKPOINT_NAME, build_accelerator
from train.vae_parts import vary_colours

SIZE, COUNT = 32, 6
VAE = pretrain_vae.VaeConfig(
    block_out_channels=(16, 32),
    start_steps=5,
    latent_channels=LATENT_CHANNELS,
    crop_sizes=(16,),
    crop_batch_pixels=1024,
    perceptual_weight=0.1,
    perceptual_start=0.4,
    adversarial_weight=0.1,
    adversarial_start=0.4,
    precision="no",
)
UNET = pretrain_unet.UnetConfig(
    block_out_channels=(32, 32), attention_levels=1, num_heads=2, batch_size=3, precision="no"
)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Six pictures of noise with a caption each, and the average face in all of them."""
    directory = tmp_path / "shards"
    directory.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)
    np.save(directory / "images.npy", pixels)
    np.save(directory / "landmarks.npy", np.stack([place_mean_face(SIZE).numpy()] * COUNT))
    labels = [
        Labels(caption=f"a photo {index}", renderer="", parents=(f"person {index}",), attributes={})
        for index in range(COUNT)
    ]
    (directory / "labels.json").write_text(json.dumps([vars(label) for label in labels]))
    return directory


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    """VAE, text encoder and tokenizer of the tiny base."""
    tokenizer = build_tokenizer()
    build_vae().save_pretrained(tmp_path / "base" / "vae")
    build_text_encoder(tokenizer).save_pretrained(tmp_path / "base" / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "base" / "tokenizer")
    return tmp_path / "base"


def make_arguments(shards: Path, output: Path, max_steps: int, **others: object) -> argparse.Namespace:
    common = {"data": [shards], "held_out": shards, "output": output, "minutes": 5.0, "max_steps": max_steps}
    return argparse.Namespace(**common, device="cpu", resume=True, **others)


def read_log(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def read_dtypes(directory: Path) -> set[torch.dtype]:
    return {tensor.dtype for tensor in load_file(directory / "diffusion_pytorch_model.safetensors").values()}


@pytest.mark.usefixtures("default_signals")
def test_vae_run_resumes_and_exports(shards: Path, tmp_path: Path) -> None:
    features = tmp_path / "identity_encoder"
    IdentityEncoder(stem_channels=4, channels=(4, 4, 4)).save_pretrained(features)
    for max_steps in (2, 4):
        arguments = make_arguments(shards, tmp_path / "run", max_steps, features=features, start=None)
        pretrain_vae.train(arguments, VAE)
    assert {line["step"] for line in read_log(tmp_path / "run") if "psnr" in line} == {2, 4}
    assert read_dtypes(tmp_path / "run" / "vae") == {torch.float16}
    vae = AutoencoderKL.from_pretrained(tmp_path / "run" / "vae")
    assert vae.config.block_out_channels == [16, 32]
    latents = vae.encode(torch.zeros(1, 3, SIZE, SIZE)).latent_dist.mean
    assert latents.shape == (1, LATENT_CHANNELS, SIZE // 2, SIZE // 2)
    assert vae.config.scaling_factor != 0.18215


@pytest.mark.usefixtures("default_signals")
def test_a_decoder_alone_leaves_the_encoder_as_it_was(shards: Path, tmp_path: Path) -> None:
    start = pretrain_vae.build_vae(VAE, SIZE)
    start.register_to_config(scaling_factor=0.7)
    start.save_pretrained(tmp_path / "start")
    config = replace(VAE, trains_encoder=False, ema_decay=0.0, learning_rate=0.1)
    arguments = make_arguments(shards, tmp_path / "run", 2, features=None, start=tmp_path / "start")
    pretrain_vae.train(arguments, config)
    vae = AutoencoderKL.from_pretrained(tmp_path / "run" / "vae", torch_dtype=torch.float32)
    assert vae.config.scaling_factor == 0.7
    parts = {name: torch.equal(p.half().float(), vae.get_parameter(name)) for name, p in start.named_parameters()}
    assert all(is_same for name, is_same in parts.items() if name.startswith(("encoder.", "quant_conv.")))
    assert not parts["decoder.conv_out.weight"]


@pytest.mark.usefixtures("default_signals")
def test_unet_run_resumes_and_exports(shards: Path, base_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    for max_steps in (1, 2):
        pretrain_unet.train(make_arguments(shards, output, max_steps, base=base_dir, start=None), UNET)
    assert {line["step"] for line in read_log(output) if "held_out" in line} == {1, 2}
    assert read_dtypes(output / "unet") == {torch.float16}
    unet = UNet2DConditionModel.from_pretrained(output / "unet")
    assert (unet.config.in_channels, unet.config.sample_size) == (LATENT_CHANNELS, SIZE // 4)
    assert unet.config.cross_attention_dim == WIDTH
    scheduler = DDIMScheduler.from_pretrained(output / "scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.alphas_cumprod[-1] == 0
    assert {path.name for path in output.glob("samples_*.png")} == {"samples_000001.png", "samples_000002.png"}
    assert (output / CHECKPOINT_NAME).is_file()


@pytest.mark.usefixtures("default_signals")
def test_identity_adapter_run_resumes_and_exports(shards: Path, base_dir: Path, tmp_path: Path) -> None:
    pretrain_unet.build_unet(UNET, LATENT_CHANNELS, SIZE // 4, WIDTH).save_pretrained(base_dir / "unet")
    IdentityEncoder(stem_channels=4, channels=(4, 4, 4), embedding_size=8).save_pretrained(
        base_dir / "identity_encoder"
    )
    output = tmp_path / "run"
    config = pretrain_identity_adapter.IdentityAdapterConfig(batch_size=3, learning_rate=0.1, precision="no")
    for max_steps in (2, 4):
        pretrain_identity_adapter.train(make_arguments(shards, output, max_steps, base=base_dir), config)
    saved = [line for line in read_log(output) if "identity" in line]
    assert {line["step"] for line in saved} == {2, 4}
    assert saved[0]["held_out"] != saved[1]["held_out"]
    assert {"held_out_nobody", "identity_to_others"} <= saved[0].keys()
    adapter = load_file(output / ADAPTER_FOLDER / ADAPTER_FILE)
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float16}
    unet = UNet2DConditionModel.from_pretrained(base_dir / "unet")
    fresh = flatten_adapter(start_adapter(unet, 8), torch.float16)
    assert adapter.keys() == fresh.keys()
    assert not any(torch.equal(adapter[name], fresh[name]) for name in adapter)


def test_latents_are_encoded_once(shards: Path, base_dir: Path, tmp_path: Path) -> None:
    accelerator = build_accelerator("cpu", "no")
    neighbours = load_neighbours(base_dir, accelerator.device)
    path = tmp_path / "run" / "latents.pt"
    encoded = load_latents([shards], path, neighbours, accelerator)
    assert encoded.latents.shape == (COUNT, LATENT_CHANNELS, SIZE // 4, SIZE // 4)
    assert encoded.latents.dtype == torch.float16
    assert encoded.input_ids.shape == (COUNT, MAX_LENGTH)
    again = load_latents([tmp_path / "gone"], path, neighbours, accelerator)
    assert torch.equal(again.latents, encoded.latents)
    with pytest.raises(DataError, match="gone"):
        load_latents([tmp_path / "gone"], tmp_path / "other.pt", neighbours, accelerator)


def test_pure_noise_is_trained_on_too() -> None:
    """At zero terminal SNR the weight must not vanish: sampling starts there."""
    unet = pretrain_unet.build_unet(UNET, LATENT_CHANNELS, 8, WIDTH)
    alphas = build_scheduler().alphas_cumprod
    trainer = pretrain_unet.UnetTrainer(unet, alphas, snr_gamma=5.0)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 1, LATENT_CHANNELS, 8, 8, generator=generator)
    prompt_embeds = torch.zeros(1, 3, WIDTH)
    with torch.no_grad():
        last = torch.tensor([len(alphas) - 1])
        model_pred = unet(noise, last, encoder_hidden_states=prompt_embeds).sample
        loss, _ = trainer(latents, noise, last, prompt_embeds)
        torch.testing.assert_close(loss, (model_pred + latents).square().mean())


def test_a_position_that_outshines_the_others_is_penalised() -> None:
    unet = pretrain_unet.build_unet(UNET, LATENT_CHANNELS, 8, WIDTH)
    penalty = pretrain_unet.PeakPenalty(unet)
    resnet = unet.up_blocks[-1].resnets[-1]
    features = torch.ones(1, 4, 8, 8)
    peaked = features.clone()
    peaked[..., 3, 5] = 100.0
    peaked.requires_grad_()
    penalty._note(resnet, (), features)
    assert float(penalty.take()) == 0
    penalty._note(resnet, (), peaked)
    excess = penalty.take()
    assert float(excess.detach()) > 1
    excess.backward()
    assert peaked.grad is not None
    assert (peaked.grad[..., 3, 5] > 0).all()
    unet.eval()(torch.zeros(1, LATENT_CHANNELS, 8, 8), 0, encoder_hidden_states=torch.zeros(1, 3, WIDTH))
    assert not penalty.excesses  # nothing is kept outside of training


def test_colours_are_mixed_but_greys_kept() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    generator = torch.Generator().manual_seed(1)
    torch.testing.assert_close(vary_colours(grey, 1.0, generator), grey, atol=1e-5, rtol=0)
    assert torch.equal(vary_colours(images, 0.0, generator), images)
    assert not torch.allclose(vary_colours(images, 1.0, generator), images, atol=0.05)


def test_assembled_parts_lie_where_diffusers_looks(base_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "mini"
    size = assemble_mini.assemble({"vae": base_dir / "vae", "tokenizer": base_dir / "tokenizer"}, output)
    index = json.loads((output / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", "AutoencoderKL"]
    assert AutoencoderKL.from_pretrained(output / "vae").config.latent_channels == LATENT_CHANNELS
    assert size == sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    for source in (tmp_path / "absent", output / "vae"):
        with pytest.raises(DataError, match="vae"):
            assemble_mini.assemble({"vae": source}, output)
    assert (output / "vae" / "config.json").is_file()
