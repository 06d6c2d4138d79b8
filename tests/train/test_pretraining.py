"""What all pretraining scripts rely on: averages, budget, checkpoints that survive, shards that fit."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from acfun.errors import DataError
from acfun.process import MALLOC_SETTINGS
from train import pretraining
from train.ema import Ema
from train.pretraining import Budget, Interval, TrainState


class Toy:
    """A model with an optimizer, an average and a generator: all that a run carries."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.ema = Ema(self.model, 0.9)
        self.state, self.generator = TrainState(), torch.Generator().manual_seed(1)

    def step(self) -> None:
        batch = torch.randn(4, 3, generator=self.generator) + torch.randn(3)
        self.model(batch).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model)
        self.state.step += 1

    def parts(self) -> dict[str, pretraining.HasState]:
        return {"model": self.model, "optimizer": self.optimizer, "ema": self.ema}

    def save(self, directory: Path) -> None:
        pretraining.save_checkpoint(directory, self.state, self.generator, **self.parts())

    def load(self, directory: Path) -> bool:
        return pretraining.load_checkpoint(directory, self.state, self.generator, **self.parts())


def test_ema_follows_its_formula() -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema = Ema(module, decay=0.15)
    expected = 1.0
    for value, decay in ((2.0, 0.1), (3.0, 0.15), (4.0, 0.15)):
        with torch.no_grad():
            module.weight.fill_(value)
        ema.update(module)
        expected = decay * expected + (1 - decay) * value
    assert ema.averages["weight"].item() == pytest.approx(expected)


def test_ema_is_applied_only_inside_the_block() -> None:
    module = nn.Linear(2, 2)
    ema = Ema(module)
    average = module.weight.detach().clone()
    own = average + 1
    with torch.no_grad():
        module.weight.copy_(own)
    with pytest.raises(RuntimeError, match="inside"), ema.applied(module):
        assert torch.equal(module.weight, average)
        raise RuntimeError("inside")
    assert torch.equal(module.weight, own)


def test_resumed_run_equals_the_undisturbed_one(tmp_path: Path) -> None:
    whole = Toy()
    for _ in range(6):
        whole.step()
    first = Toy()
    for _ in range(3):
        first.step()
    first.save(tmp_path)
    resumed = Toy()
    assert resumed.load(tmp_path)
    for _ in range(3):
        resumed.step()
    assert resumed.state.step == whole.state.step == 6
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert torch.equal(resumed.ema.averages["bias"], whole.ema.averages["bias"])


def test_failed_save_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    toy = Toy()
    toy.step()
    toy.save(tmp_path)
    before = (tmp_path / pretraining.CHECKPOINT_NAME).read_bytes()

    class Unwritable:
        def state_dict(self) -> dict[str, object]:
            return {"tensor": torch.zeros(1000), "handle": sys.stdout}

        def load_state_dict(self, state_dict: dict[str, object], /) -> None:
            """Nothing to take back."""

    toy.step()
    with pytest.raises(TypeError):
        pretraining.save_checkpoint(tmp_path, toy.state, toy.generator, model=toy.model, bad=Unwritable())
    assert (tmp_path / pretraining.CHECKPOINT_NAME).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [pretraining.CHECKPOINT_NAME]
    again = Toy()
    assert again.load(tmp_path)
    assert again.state.step == 1


def test_load_without_or_with_another_checkpoint(tmp_path: Path) -> None:
    toy = Toy()
    assert not toy.load(tmp_path)
    pretraining.save_checkpoint(tmp_path, toy.state, toy.generator, model=toy.model)
    with pytest.raises(DataError, match="has no ema, optimizer"):
        toy.load(tmp_path)


def test_budget_ends_by_steps_and_by_minutes() -> None:
    state = TrainState()
    by_steps = Budget(minutes=100, state=state, max_steps=4)
    progress = []
    while not by_steps.is_over():
        progress.append(by_steps.progress())
        state.step += 1
    assert progress == [0, 0.25, 0.5, 0.75]
    resumed = Budget(minutes=1, state=TrainState(seconds=30))
    assert 0.5 <= resumed.progress() < 0.52
    assert not resumed.is_over()
    assert Budget(minutes=1, state=TrainState(seconds=60)).is_over()
    assert Budget(minutes=1, state=TrainState(seconds=60), max_steps=10).is_over()


def test_interval_is_due_once_each_time() -> None:
    assert not Interval(60).is_due()
    always = Interval(0)
    assert always.is_due()
    late = Interval(60)
    late._last -= 61
    assert late.is_due()
    assert not late.is_due()


def test_schedule_and_group_scales() -> None:
    scales = [pretraining.compute_cosine_scale(p, warmup=0.1, final=0.05) for p in (0, 0.05, 0.1, 0.55, 1.0)]
    assert scales == pytest.approx([0.01, 0.5, 1.0, 0.525, 0.05])
    groups: list[dict[str, Any]] = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "scale": 0.1}]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    pretraining.set_learning_rate(optimizer, 2.0)
    assert [group["lr"] for group in optimizer.param_groups] == [2.0, 0.2]


@pytest.mark.usefixtures("default_signals")
def test_first_signal_asks_the_loop_to_stop() -> None:
    stop = pretraining.catch_stop_signals()
    assert not stop.is_set()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.is_set()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_process_restarts_itself_with_the_malloc_settings(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, torch\nfrom train.pretraining import *\nprepare_process(1)\n"
        "print(os.environ['MALLOC_TRIM_THRESHOLD_'], sys.argv[1:], torch.get_num_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if name not in MALLOC_SETTINGS}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, str(script), "--x", "1"], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "17179869184 ['--x', '1'] 1"


@pytest.mark.parametrize("is_there", [True, False])
def test_bfloat16_is_only_used_where_it_is_not_emulated(monkeypatch: pytest.MonkeyPatch, is_there: bool) -> None:
    monkeypatch.setattr(pretraining, "has_bfloat16", lambda device: is_there)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        assert pretraining.build_accelerator("cpu", "bf16").mixed_precision == ("bf16" if is_there else "no")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_device_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="torch sees no GPU"):
        pretraining.build_accelerator("cuda")
    with pytest.raises(ValueError, match="'tpu' is unknown"):
        pretraining.build_accelerator("tpu")


def test_export_writes_half_precision_and_leaves_the_model(tmp_path: Path) -> None:
    config = CLIPTextConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = CLIPTextModel(config)
    for _ in range(2):
        pretraining.export_half(model, tmp_path / "text_encoder")
    assert model.dtype == torch.float32
    loaded = CLIPTextModel.from_pretrained(tmp_path / "text_encoder", dtype="auto")
    assert loaded.dtype == torch.float16
    before, after = (part.state_dict()["embeddings.token_embedding.weight"] for part in (model, loaded))
    assert torch.equal(after, before.half())
    assert [path.name for path in tmp_path.iterdir()] == ["text_encoder"]


@pytest.mark.parametrize("num_replaced", [0, 1])
def test_an_export_that_is_killed_leaves_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_replaced: int
) -> None:
    config = CLIPTextConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    pretraining.export_half(CLIPTextModel(config), tmp_path / "text_encoder")
    calls = iter([Path.replace] * num_replaced)

    def kill(path: Path, target: Path) -> Path:
        return next(calls)(path, target)

    monkeypatch.setattr(Path, "replace", kill)
    with pytest.raises(StopIteration):
        pretraining.export_half(CLIPTextModel(config), tmp_path / "text_encoder")
    assert CLIPTextModel.from_pretrained(tmp_path / "text_encoder", dtype="auto").dtype == torch.float16


def test_an_export_leaves_no_file_of_before(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "model-00001-of-00002.safetensors").write_bytes(b"")
    config = CLIPTextConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    pretraining.export_half(CLIPTextModel(config), tmp_path / "vae")
    assert {path.name for path in (tmp_path / "vae").iterdir()} == {"config.json", "model.safetensors"}


def write_shards(directory: Path, captions: object, name: str = "captions.json", count: int = 4) -> None:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 6, 5, 3), np.uint8)
    np.save(directory / "images.npy", images)
    (directory / name).write_text(json.dumps(captions))


def test_shards_give_images_in_the_order_asked(tmp_path: Path) -> None:
    write_shards(tmp_path, ["a", ["b", "c"], "d", "e"])
    shards = pretraining.open_shards(tmp_path)
    pixel_values = shards.pixel_values(torch.tensor([3, 0, 2, 2]))
    assert pixel_values.shape == (4, 3, 6, 5)
    assert pixel_values.is_contiguous(memory_format=torch.channels_last)
    values = (pixel_values[:, 0, 0, 0] + 1) * 127.5
    assert values.tolist() == pytest.approx([3, 0, 2, 2], abs=1e-4)
    drawn = shards.sample_captions(torch.tensor([1] * 40 + [0]), torch.Generator().manual_seed(0))
    assert set(drawn[:40]) == {"b", "c"}
    assert drawn[40] == "a"


def test_shards_read_labels_too(tmp_path: Path) -> None:
    write_shards(tmp_path, [{"caption": text, "renderer": ""} for text in "abcd"], "labels.json")
    assert pretraining.open_shards(tmp_path).captions == (("a",), ("b",), ("c",), ("d",))


@pytest.mark.parametrize("captions", [["a"] * 3, ["a", "b", "c", []]])
def test_shards_that_do_not_fit_are_refused(tmp_path: Path, captions: object) -> None:
    with pytest.raises(DataError, match=r"has no images\.npy"):
        pretraining.open_shards(tmp_path)
    write_shards(tmp_path, captions)
    with pytest.raises(DataError, match="of 4 images"):
        pretraining.open_shards(tmp_path)


def test_log_prints_and_appends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = TrainState(step=3, num_samples=12)
    log = pretraining.TrainLog(tmp_path, Budget(1, state, max_steps=6))
    log.report(loss=0.25)
    log.report(loss=0.125)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [0.25, 0.125]
    assert lines[0]["step"] == asdict(state)["step"]
    assert "50.0% step 3" in capsys.readouterr().out
