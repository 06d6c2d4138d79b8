"""LoRAs of others: as styles they do what diffusers does with them, and blend with fitted ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from acfun.base import FAMILIES, Base
from acfun.cfun import CFunOptions
from acfun.errors import StyleFileError
from acfun.lora_import import import_lora
from acfun.pipelines import build_pipeline
from acfun.portrait import STYLE_SIDE
from acfun.style import Style
from tests.tiny import LATENT_CHANNELS, LATENT_SIZE, build_diffusers_pipeline
from tests.tiny import make_tiny_base as make_base
from tests.tools import make_fitted

TARGETS = ["to_q", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "conv1"]
RANK, ALPHA = 3, 6.0


@pytest.fixture(params=["mini", "sdxl"])
def base(request: pytest.FixtureRequest) -> Base:
    return make_base(family=request.param)


def make_layers(base: Base, *, rank: int = RANK, seed: int = 0, targets: list[str] = TARGETS) -> dict[str, Tensor]:
    """A random LoRA by PEFT's names, made on another base of the same kind."""
    unet = make_base(family=base.family).unet
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in unet.named_parameters():
        if "lora" in name:
            parameter.data.normal_(std=0.2, generator=generator)
    return {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(unet).items()}


def write_diffusers(base: Base, path: Path, **options: Any) -> None:
    layers = make_layers(base, **options)
    FAMILIES[base.family].pipeline_class.save_lora_weights(path.parent, unet_lora_layers=layers, weight_name=path.name)


def write_kohya(base: Base, path: Path, **options: Any) -> None:
    """With an alpha of its own, and two layers of the text encoder."""
    content = {}
    for name, tensor in make_layers(base, **options).items():
        module, side = name.removesuffix(".weight").rsplit(".", 1)
        stem = f"lora_unet_{module.replace('.', '_')}"
        content[f"{stem}.{ {'lora_A': 'lora_down', 'lora_B': 'lora_up'}[side] }.weight"] = tensor
        content[f"{stem}.alpha"] = torch.tensor(ALPHA)
    number, width = "1" if len(base.text_encoders) == 2 else "", base.text_encoder.config.hidden_size
    for layer in ("q_proj", "out_proj"):
        stem = f"lora_te{number}_text_model_encoder_layers_0_self_attn_{layer}"
        content |= {f"{stem}.lora_down.weight": torch.zeros(2, width), f"{stem}.lora_up.weight": torch.zeros(width, 2)}
        content[f"{stem}.alpha"] = torch.tensor(2.0)
    save_file(content, path)


WRITERS = {"diffusers": write_diffusers, "kohya": write_kohya}


def sample(pipe: Any, prompt: str = "a man") -> Tensor:
    shape = (1, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pipe.set_progress_bar_config(disable=True)
    latents: Tensor = pipe(
        prompt, latents=start, num_inference_steps=3, guidance_scale=1.0, output_type="latent"
    ).images
    return latents


@pytest.mark.parametrize("layout", WRITERS)
def test_an_imported_lora_does_what_diffusers_does_with_it(base: Base, layout: str, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    WRITERS[layout](base, path)
    modules = (base.unet, *base.text_encoders)
    before = [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in modules]
    imported = import_lora(path, base, licence="CC0-1.0")
    for module, state in zip(modules, before, strict=True):
        assert list(module.state_dict()) == list(state)
        assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in state.items())
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert len(imported.left_out) == (2 if layout == "kohya" else 0)
    assert all(name.startswith("text_encoder.text_model.encoder.layers.0") for name in imported.left_out)
    plain = build_diffusers_pipeline(make_base(family=base.family))
    bare = sample(plain)
    plain.load_lora_weights(tmp_path, weight_name=path.name)
    imported.style.save(tmp_path / "style.safetensors")
    pipe = build_pipeline(base)
    pipe.load_style(tmp_path / "style.safetensors")
    assert pipe.style.metadata["licence"] == "CC0-1.0"
    assert (sample(plain) - bare).abs().max() > 1e-3
    torch.testing.assert_close(sample(pipe), sample(plain), atol=1e-5, rtol=1e-4)
    pipe.unload_style()
    torch.testing.assert_close(sample(pipe), bare, atol=1e-5, rtol=1e-4)


def test_names_of_old_files_are_read_beside_new_ones(tmp_path: Path) -> None:
    base, path = make_base(), tmp_path / "lora.safetensors"
    write_diffusers(base, path)
    expected = import_lora(path, base).style.tensors
    older = convert_state_dict_to_diffusers(make_layers(base))
    assert any(".lora.down." in name for name in older)
    assert any(".lora_A." in name for name in older)
    for prefix in ("unet.", "", "base_model.model."):
        save_file({f"{prefix}{name}": tensor for name, tensor in older.items()}, path)
        found = import_lora(path, base).style.tensors
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(("options", "scale"), [({}, 2.0), ({"use_rslora": True}, 2 * RANK**0.5)])
def test_the_config_of_peft_in_a_file_counts(options: dict[str, Any], scale: float, tmp_path: Path) -> None:
    base, path = make_base(), tmp_path / "lora.safetensors"
    layers = make_layers(base)
    names = sorted({name.split(".lora_")[0] for name in layers})
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=names, alpha_pattern={"to_v": RANK}, **options)
    pipeline, metadata = FAMILIES[base.family].pipeline_class, config.to_dict()  # type: ignore[no-untyped-call]
    pipeline.save_lora_weights(
        tmp_path, unet_lora_layers=layers, weight_name=path.name, unet_lora_adapter_metadata=metadata
    )
    style = import_lora(path, base).style
    for name in names:
        factor = scale / 2 if name.endswith("to_v") else scale
        up, down = (layers[f"{name}.lora_{side}.weight"].flatten(1) for side in "BA")
        torch.testing.assert_close(multiply(style, name), factor * up @ down)


def multiply(style: Style, layer: str) -> Tensor:
    """ΔW (out, in·k·k) of one layer; 0 where the style leaves it alone."""
    down, up = (style.tensors.get(f"cfun.{layer}.lora_{side}.weight") for side in "AB")
    return torch.zeros(()) if down is None or up is None else up.flatten(1) @ down.flatten(1)


def test_unlike_loras_blend_to_the_sum_of_what_they_change(base: Base, tmp_path: Path) -> None:
    fitted = make_fitted(base)
    write_diffusers(base, tmp_path / "first.safetensors")
    write_kohya(base, tmp_path / "second.safetensors", rank=2, seed=1, targets=["to_q", "to_k"])
    loras = [import_lora(tmp_path / f"{name}.safetensors", base).style for name in ("first", "second")]
    styles, weights = [fitted, *loras], [0.5, 0.3, 0.2]
    blend = Style.blend(list(zip(styles, weights, strict=True)))
    assert blend.architecture.cfun is not None
    assert blend.architecture.cfun.rank == 4 + RANK + 2
    for layer in blend.architecture.cfun.layers:
        expected = sum(weight * multiply(style, layer) for style, weight in zip(styles, weights, strict=True))
        torch.testing.assert_close(multiply(blend, layer), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(blend.tensors["token.offset"], 0.5 * fitted.tensors["token.offset"])
    assert torch.equal(blend.tensors["style_embeds"], fitted.tensors["style_embeds"])
    pipe = build_pipeline(base)
    blend.save(tmp_path / "blend.safetensors")
    pipe.load_style(tmp_path / "blend.safetensors")
    assert sample(pipe, "a <style> man").isfinite().all()
    pipe.unload_style()


def test_two_imported_loras_of_one_shape_are_stacked_not_averaged(tmp_path: Path) -> None:
    base = make_base()
    loras = []
    for seed in (0, 1):
        write_diffusers(base, tmp_path / "lora.safetensors", seed=seed)
        loras.append(import_lora(tmp_path / "lora.safetensors", base).style)
    blend = Style.blend([(loras[0], 0.25), (loras[1], 0.75)])
    assert blend.architecture.cfun is not None
    assert blend.architecture.placeholder is None
    layer = blend.architecture.cfun.layers[0]
    expected = 0.25 * multiply(loras[0], layer) + 0.75 * multiply(loras[1], layer)
    torch.testing.assert_close(multiply(blend, layer), expected)


def test_an_abstract_fusion_keeps_its_share(tmp_path: Path) -> None:
    base = make_base()
    write_diffusers(base, tmp_path / "lora.safetensors")
    fitted, lora = make_fitted(base, cfun=None), import_lora(tmp_path / "lora.safetensors", base).style
    effects = []
    for style in (fitted, Style.blend([(fitted, 0.4), (lora, 0.6)])):
        model = style.apply_to(base)
        embeds = torch.ones(1, 5, base.text_dim)
        effects.append(model.fuse(embeds) - embeds)
        model.eject()
    assert effects[0].abs().max() > 1e-3
    torch.testing.assert_close(effects[1], 0.4 * effects[0], atol=1e-5, rtol=1e-4)


def test_styles_that_nothing_can_be_both_of_are_refused(tmp_path: Path) -> None:
    base = make_base()
    write_diffusers(base, tmp_path / "lora.safetensors")
    lora = import_lora(tmp_path / "lora.safetensors", base).style
    affine, two = make_fitted(base, cfun=CFunOptions(rank=4)), make_fitted(base, num_vectors=2)
    with pytest.raises(StyleFileError, match=r"different architectures .*std_affine"):
        Style.blend([(lora, 0.5), (affine, 0.5)])
    with pytest.raises(StyleFileError, match="num_vectors 1 and 2"):
        Style.blend([(make_fitted(base), 0.5), (two, 0.5)])
    with pytest.raises(StyleFileError, match="cancel out"):
        Style.blend([(make_fitted(base, cfun=None), 0.5), (make_fitted(base, cfun=None), -0.5), (lora, 1.0)])


def test_a_picture_of_the_style_guides_sampling(tmp_path: Path) -> None:
    base = make_base()
    write_diffusers(base, tmp_path / "lora.safetensors")
    picture = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    style = import_lora(tmp_path / "lora.safetensors", base, picture=picture).style
    assert style.image is not None
    assert style.image.head.image.shape == (1, 3, STYLE_SIDE, STYLE_SIDE)
    fitted = make_fitted(base)
    assert Style.blend([(fitted, 0.8), (style, 0.2)]).image is not None


def test_what_is_no_lora_for_this_base_is_refused_and_leaves_it_free(tmp_path: Path) -> None:
    base, path = make_base(), tmp_path / "lora.safetensors"
    refused: list[tuple[str, dict[str, Tensor]]] = [
        ("holds LoHa", {"lora_unet_x.hada_w1_a": torch.zeros(1)}),
        ("holds DoRA", {"unet.x.lora_A.weight": torch.zeros(1), "unet.x.dora_scale": torch.zeros(1)}),
        (r"is no LoRA \(it has 'model.weight'\)", {"model.weight": torch.zeros(1)}),
    ]
    for message, content in refused:
        save_file(content, path)
        with pytest.raises(StyleFileError, match=message):
            import_lora(path, base)
    path.write_bytes(b"nothing")
    with pytest.raises(StyleFileError, match="cannot be read"):
        import_lora(path, base)
    with pytest.raises(StyleFileError, match="cannot be read"):
        import_lora(tmp_path / "absent.safetensors", base)
    layers = make_layers(base)
    save_file({f"unet.{name}": torch.zeros(7, 5) for name in layers}, path)
    with pytest.raises(StyleFileError, match=r"does not fit base 'tiny' .*\(7, 5\)"):
        import_lora(path, base)
    write_diffusers(make_base(family="sdxl"), path)
    with pytest.raises(StyleFileError, match=r"does not fit base 'tiny' of family mini .*the UNet has no"):
        import_lora(path, base)
    stem = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    save_file({f"{stem}.lora_A.weight": torch.zeros(2, 16), f"{stem}.lora_B.weight": torch.zeros(16, 2)}, path)
    with pytest.raises(StyleFileError, match="changes nothing in the UNet"):
        import_lora(path, base)
    write_diffusers(base, path)
    import_lora(path, base)


def test_half_a_layer_is_refused(tmp_path: Path) -> None:
    base = make_base()
    path = tmp_path / "lora.safetensors"
    write_diffusers(base, path)
    tensors = load_file(path)
    del tensors[next(name for name in tensors if name.endswith("lora_B.weight"))]
    save_file(tensors, path)
    with pytest.raises(StyleFileError, match=r"has no .*lora_B.weight.*not whole"):
        import_lora(path, base)
