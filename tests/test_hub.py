"""Uploads over HTTP to a stand-in of the hub on this machine: what arrives is what was there."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars
from safetensors.torch import load_file

from acfun.base import load_base
from acfun.errors import HubError
from acfun.hub import STYLE_NAME, push_folder
from acfun.model_card import CARD_NAME, CardFiles
from acfun.style import Style
from tests.cli.tools import draw, run, run_well
from tests.hub import TOKEN, Hub, serve_hub
from tests.test_export import make_style
from tests.tiny import make_tiny_base, save_tiny_checkpoint

# huggingface_hub itself hands large files to its HTTP library in a way that is no longer liked there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in takes the hub's place; large files travel as LFS has them, not through xet's own servers."""
    with serve_hub() as served:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, served.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        disable_progress_bars()
        yield served
        enable_progress_bars()
        huggingface_hub.close_session()


@pytest.fixture
def style_path(tmp_path: Path) -> Path:
    style = make_style(make_tiny_base())
    config = json.dumps({"base": "/home/anna/base", "max_steps": 60})
    metadata = style.metadata | {"base_name": "/home/anna/base", "config": config}
    replace(style, metadata=metadata).save(tmp_path / "oil.safetensors")
    return tmp_path / "oil.safetensors"


def test_a_style_arrives_whole(hub: Hub, style_path: Path, tmp_path: Path) -> None:
    style = Style.load(style_path)
    url = style.push_to_hub("anna/oil", licence="mit", private=True)
    assert url == f"{hub.endpoint}/anna/oil"
    assert hub.is_private == {"anna/oil": True}
    files = hub.repos["anna/oil"]
    assert set(files) == {STYLE_NAME, CARD_NAME}
    (tmp_path / "arrived.safetensors").write_bytes(files[STYLE_NAME])
    arrived = Style.load(tmp_path / "arrived.safetensors")
    assert arrived.tensors.keys() == style.tensors.keys()
    assert all(arrived.tensors[name].equal(tensor) for name, tensor in style.tensors.items())
    assert arrived.metadata == style.metadata | {
        "base_name": "base",
        "config": '{"base": "base", "max_steps": 60}',
        "licence": "mit",
    }
    card = files[CARD_NAME].decode()
    assert "# oil" in card
    assert "license: mit" in card
    assert "hf download anna/oil style.safetensors" in card
    assert not any(b"/home/anna" in content for content in files.values())


def test_files_of_other_sizes_arrive_whole(hub: Hub, tmp_path: Path) -> None:
    contents = {"a.safetensors": bytes(range(256)) * 5000, "b.txt": b"text", "empty.txt": b"", "in/c.safetensors": b"c"}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    push_folder(tmp_path, "oil")
    assert hub.repos == {"anna/oil": contents}
    assert hub.is_private == {"anna/oil": None}


def test_an_own_card_on_the_hub_stays(hub: Hub, style_path: Path) -> None:
    style = Style.load(style_path)
    style.push_to_hub("anna/oil")
    style.push_to_hub("anna/oil", licence="mit")
    files = hub.repos["anna/oil"]
    assert b"license: mit" in files[CARD_NAME]
    files[CARD_NAME] = b"mine"
    style.push_to_hub("anna/oil", files=CardFiles())
    assert files[CARD_NAME] == b"mine"


def test_the_command_uploads_exports_and_a_sample(hub: Hub, tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "base")
    make_style(load_base(tmp_path / "base")).save(tmp_path / "oil.safetensors")
    sheet = draw(tmp_path / "sheet.png", 0)
    push = ("push", tmp_path / "oil.safetensors", "--repo", "anna/oil", "--base", tmp_path / "base", "--json", "-q")
    answer = json.loads(run_well(*push, "--export", "diffusers", "--sample", sheet, "--public").stdout)
    assert answer == {"url": f"{hub.endpoint}/anna/oil"}
    assert hub.is_private == {"anna/oil": False}
    files = hub.repos["anna/oil"]
    lora, embedding = "pytorch_lora_weights.safetensors", "learned_embeds.safetensors"
    assert set(files) == {STYLE_NAME, CARD_NAME, lora, embedding, "samples.png"}
    (tmp_path / "arrived.safetensors").write_bytes(files[embedding])
    assert set(load_file(tmp_path / "arrived.safetensors")) == {"<style>"}
    assert b"pipe.load_lora_weights(files, weight_name='pytorch_lora_weights.safetensors')" in files[CARD_NAME]


def test_failures_are_explained(hub: Hub, style_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    style = Style.load(style_path)
    with pytest.raises(HubError, match=r"bert/oil could not .* no right to write there \(403\): use a token"):
        style.push_to_hub("bert/oil")
    with pytest.raises(HubError, match=r"no name of a repository .* give user/name"):
        style.push_to_hub("anna/oil/paint")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match=r"does not know the token \(401\): log in"):
        style.push_to_hub("anna/oil")
    assert hub.repos == {}


def test_without_a_token_nothing_is_sent(
    hub: Hub, style_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    result = run("push", style_path, "--repo", "anna/oil")
    assert result.exit_code == 1
    assert "hf auth login" in result.stderr
    assert hub.repos == {}


def test_without_a_network_the_remedy_is_named(hub: Hub, style_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    style = Style.load(style_path)
    monkeypatch.setattr(constants, "ENDPOINT", "http://192.0.2.1")
    with pytest.raises(HubError, match=r"cannot be reached.*: go online"):
        style.push_to_hub("anna/oil")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set: unset it"):
        style.push_to_hub("anna/oil")
