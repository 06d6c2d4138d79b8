"""Model cards say what the hub and a reader need, and their code runs."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from acfun.afun import AFunOptions
from acfun.base import load_base
from acfun.export import Layout, export_style
from acfun.fit import fit_style
from acfun.model_card import CardFiles, build_model_card, hide_paths, name_prompt, write_model_card
from acfun.style import Style
from acfun.style_file import to_json
from tests.fitting import make_config
from tests.test_export import make_style
from tests.tiny import make_tiny_base, save_tiny_checkpoint

HUB_ID = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def describe(**metadata: str) -> dict[str, Any]:
    style = make_style(make_tiny_base())
    return replace(style, metadata=style.metadata | metadata).describe()


def read(card: str) -> dict[str, Any]:
    values: dict[str, Any] = ModelCard(card).data.to_dict()
    return values


def test_the_front_matter_is_the_hubs() -> None:
    config = to_json({"face_description": "a man", "max_steps": 60, "base_config": "/home/anna/sd"})
    described = describe(base_name="sd1", config=config)
    files = CardFiles(style="oil.safetensors", lora="a.safetensors", embedding="b.safetensors", kept=0.8)
    card = build_model_card(described, files, title="oil", licence="CC-BY-4.0")
    assert read(card) == {
        "library_name": "diffusers",
        "pipeline_tag": "image-to-image",
        "tags": ["acfun", "face-stylization", "style", "lora", "textual-inversion"],
        "base_model": HUB_ID,
        "instance_prompt": "a painting of a man in <style> style",
        "license": "cc-by-4.0",
    }
    for part in (described["base_fingerprint"], "| max_steps | `60` |", "keep 80%", "Paint people who agree"):
        assert part in card
    assert "/home/anna" not in card


def test_terms_are_those_of_the_style_unless_given() -> None:
    silent = build_model_card(describe(), CardFiles(), title="oil")
    assert "license" not in read(silent)
    assert "No terms are stated" in silent
    own = read(build_model_card(describe(licence="ask Anna"), CardFiles(), title="oil"))
    assert (own["license"], own["license_name"]) == ("other", "ask Anna")


@pytest.mark.parametrize(("name", "shown"), [("/home/anna/model.safetensors", "model.safetensors"), ("mini", "mini")])
def test_local_bases_are_named_without_their_folder(name: str, shown: str) -> None:
    card = build_model_card(describe(base_name=name), CardFiles(style="oil.safetensors"), title="oil")
    assert "base_model" not in read(card)
    assert f"`{shown}`" in card
    assert "/home/anna" not in card


def test_a_local_base_that_reads_like_a_hub_id_is_never_published_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_checkpoint(tmp_path / "models" / "sd15")
    monkeypatch.chdir(tmp_path)
    base = load_base("models/sd15")
    config = make_config(tmp_path, max_steps=0, base="models/sd15")
    described = fit_style(config, base=base).describe()
    load_base(described["base_name"])
    shutil.rmtree(tmp_path / "models")
    card = build_model_card(described, CardFiles(style="oil.safetensors"), title="oil")
    assert "base_model" not in read(card)
    assert "`sd15`" in card
    assert "models/sd15" not in card
    assert hide_paths(described["config"])["base"] == "sd15"


def test_blends_and_imports_say_so() -> None:
    blended = to_json({"blended_from": [{"config": {"base": "/a/b"}, "weight": 0.25}, {"config": {}, "weight": 0.75}]})
    card = build_model_card(describe(config=blended), CardFiles(), title="oil")
    assert "blended from 2 others" in card
    assert "`0.25, 0.75`" in card
    assert "made of a LoRA" in build_model_card(describe(config='{"imported_from": "l"}'), CardFiles(), title="oil")


def test_paths_are_hidden_in_configs_of_blends_too() -> None:
    config = {"blended_from": [{"config": {"base": "/a/b", "image_encoder": "own", "seed": 3}, "weight": 1.0}]}
    inner = {"base": "b", "image_encoder": "own", "seed": 3}
    assert hide_paths(config) == {"blended_from": [{"config": inner, "weight": 1.0}]}
    assert hide_paths({"base": HUB_ID, "base_config": None}) == {"base": HUB_ID, "base_config": None}


def test_a_card_of_the_users_own_stays(tmp_path: Path) -> None:
    card = build_model_card(describe(), CardFiles(), title="oil")
    path = write_model_card(tmp_path, card)
    assert path is not None
    assert write_model_card(tmp_path, card.replace("# oil", "# water")) == path
    assert "# water" in path.read_text(encoding="utf-8")
    path.write_text("mine", encoding="utf-8")
    assert write_model_card(tmp_path, card) is None
    assert path.read_text(encoding="utf-8") == "mine"


def run_block(card: str, heading: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the Python of a section in a folder; returns its variables."""
    section = card.split(f"## {heading}\n")[1]
    match = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert match is not None
    monkeypatch.chdir(folder)
    variables: dict[str, Any] = {}
    exec(match.group(1), variables)
    return variables


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_code_in_the_card_runs(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_checkpoint(tmp_path / "path" / "to" / "base", family=family)
    base = load_base(tmp_path / "path" / "to" / "base")
    style = make_style(base)
    exported = export_style(style, base, tmp_path)
    style.save(tmp_path / "oil.safetensors")
    assert exported.lora is not None and exported.embedding is not None
    files = CardFiles(
        style="oil.safetensors", lora=exported.lora.name, embedding=exported.embedding.name, kept=exported.kept
    )
    card = build_model_card(style.describe(), files, title="oil")
    assert "keep 100%" in card
    assert run_block(card, "With acfun", tmp_path, monkeypatch)["pipe"].style is not None
    plain = run_block(card, "With diffusers alone", tmp_path, monkeypatch)
    assert plain["picture"].size[0] > 0
    assert "<style>" in plain["pipe"].tokenizer.get_vocab()


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_kohyas_word_is_the_name_of_the_file(layout: Layout) -> None:
    files = CardFiles(lora="oil_lora.safetensors", embedding="oil_word.safetensors", layout=layout)
    card = build_model_card(describe(), files, title="oil", repo_id="anna/oil")
    is_kohya = layout == "kohya"
    assert ("a painting of a person in oil_word style <lora:oil_lora:1>" in card) == is_kohya
    assert ("load_textual_inversion(files, weight_name='oil_word.safetensors'" in card) != is_kohya
    assert ("files = 'anna/oil'" in card) != is_kohya


def test_a_style_without_a_word_has_a_plain_prompt() -> None:
    assert name_prompt(describe(placeholder="")) == "a painting of a person"


def test_whole_styles_have_a_card_as_well() -> None:
    style: Style = make_style(
        make_tiny_base(), variant="std_affine", afun=AFunOptions(num_layers=1, num_heads=2, head_dim=8)
    )
    card = build_model_card(style.describe(), CardFiles(style="oil.safetensors"), title="oil", repo_id="anna/oil")
    assert "hf download anna/oil oil.safetensors" in card
    assert "With diffusers" not in card
