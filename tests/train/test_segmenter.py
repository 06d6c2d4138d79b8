"""Training of the segmenter: labels, scenes, and a toy run that resumes."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from acfun.errors import DataError
from acfun.face.segmenter import PARTS, PortraitSegmenter
from acfun.portrait import place_mean_face
from train import pretrain_segmenter, pretraining
from train.label_parts import SIZE as LABEL_SIZE
from train.label_parts import label_photo
from train.part_scenes import BARE_ABOVE, LabelledPeople, collect_grounds, group_people, open_labels, sample_scenes

SIZE = 32
KEYS = (
    *("portraits/0002_colour.jpg", "portraits/0242_colour.jpg", "portraits/nobody.jpg", "portraits/0019_colour.jpg"),
    *("portraits/0002_grey.jpg", "portraits/0074_colour.jpg", "faces/none.jpg", "portraits/0841_colour.jpg"),
)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Eight pictures: red heads on green ground, the right quarter outside the photograph; the last is not plain."""
    layers = np.zeros((len(KEYS), SIZE, SIZE, 4 + len(PARTS)), np.uint8)
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    is_head = np.hypot(rows - 0.5, columns - 0.5) < 0.25
    layers[..., 0], layers[..., 1] = 255 * is_head, 255 * ~is_head
    layers[..., 3] = 255 * (columns < 0.75)
    layers[..., 4 + PARTS.index("face")] = 255 * is_head
    layers[..., 4 + PARTS.index("background")] = 255 * ~is_head
    path = tmp_path / "labels.npz"
    spreads = np.array([0.05] * (len(KEYS) - 1) + [0.3], np.float32)
    np.savez(path, layers=layers, spreads=spreads, keys=KEYS, identities=[f"person {i}" for i in range(len(KEYS))])
    return path


def test_labels_of_a_photograph_say_where_it_ends() -> None:
    photo = torch.full((1, 3, 300, 240), 0.5)
    landmarks = place_mean_face(240)[None]
    layers, spread = label_photo(photo, landmarks, None)
    assert layers.shape == (4 + len(PARTS), LABEL_SIZE, LABEL_SIZE)
    assert layers.dtype == torch.uint8
    assert spread == pytest.approx(0, abs=1e-3)
    # Pupils are 0.125 of the crop apart there and 0.23 of the photograph's width in it.
    assert float((layers[3] > 0).float().mean(0).max()) == pytest.approx(300 / 240 * 0.125 / 0.23, abs=0.02)
    face = layers[4 + PARTS.index("face")]
    assert face[int(0.45 * LABEL_SIZE), LABEL_SIZE // 2] > 200


def test_groups_are_of_people_before_plain_grounds(labels: Path) -> None:
    people = open_labels(labels)
    groups = group_people(people)
    chosen = np.sort(np.concatenate(groups))
    assert chosen.tolist() == list(range(len(KEYS) - 1))
    assert KEYS.index("portraits/0242_colour.jpg") in groups[0]
    assert KEYS.index("portraits/0002_colour.jpg") in groups[1]
    assert KEYS.index("portraits/nobody.jpg") in groups[3]


def test_bald_heads_have_no_hair_on_top(labels: Path) -> None:
    with np.load(labels) as content:
        changed = dict(content)
    changed["layers"][..., 4:] = 0
    changed["layers"][..., 4 + PARTS.index("hair")] = 255
    np.savez(labels, **changed)
    layers, top = open_labels(labels).layers, round(BARE_ABOVE * SIZE)
    bald, other = layers[KEYS.index("portraits/0002_colour.jpg")], layers[KEYS.index("portraits/0242_colour.jpg")]
    assert (bald[:top, :, 4 + PARTS.index("face")] == 255).all()
    assert (bald[:top, :, 4 + PARTS.index("hair")] == 0).all()
    assert (bald[top:, :, 4 + PARTS.index("hair")] == 255).all()
    assert (other[..., 4 + PARTS.index("hair")] == 255).all()


def test_grounds_go_on_behind_people(labels: Path) -> None:
    grounds = collect_grounds(open_labels(labels))
    assert grounds.shape == (len(KEYS), 3, SIZE, SIZE)
    assert int(grounds[:, 0].max()) <= 1
    assert int(grounds[:, 1].min()) >= 254


def test_scenes_show_people_before_other_grounds(labels: Path) -> None:
    people, generator = open_labels(labels), torch.Generator().manual_seed(0)
    grounds = torch.full((1, 3, SIZE, SIZE), 255, dtype=torch.uint8)
    images, parts, inside = sample_scenes(people, np.arange(len(KEYS)), grounds, generator)
    assert images.shape == (len(KEYS), 3, SIZE, SIZE)
    assert float(images.abs().max()) <= 1
    assert 0.3 < float(inside.mean()) < 0.9
    assert float(images[(inside == 0).expand_as(images)].abs().max()) == 0
    known = parts.sum(1, keepdim=True)[inside > 0]
    torch.testing.assert_close(known, torch.ones_like(known), atol=0.05, rtol=0)
    again = sample_scenes(people, np.arange(len(KEYS)), grounds, torch.Generator().manual_seed(0))
    assert torch.equal(again[0], images)


def test_missing_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.npz is no file: write it with train/label_parts\.py first"):
        open_labels(tmp_path / "labels.npz")


def test_labels_of_too_few_people_are_refused(labels: Path) -> None:
    people = open_labels(labels)
    alone = LabelledPeople(people.layers[:1], people.spreads[:1], people.keys[:1], people.identities[:1])
    config = pretrain_segmenter.SegmenterConfig(precision="no")
    with pytest.raises(DataError, match="the labels lack long-haired or bald people"):
        pretrain_segmenter.SegmenterRun(config, alone, set(), pretraining.build_accelerator("cpu"))


@pytest.mark.usefixtures("default_signals")
def test_a_run_learns_resumes_and_exports(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain_segmenter, "require_data_dir", lambda: tmp_path)
    monkeypatch.setattr(pretrain_segmenter, "split_people", lambda _: (set(), {"person 4"}))
    monkeypatch.setattr(pretrain_segmenter, "NUM_MEASURED", 4)
    monkeypatch.setattr(pretrain_segmenter, "MEASURED_AT_ONCE", 4)
    config = pretrain_segmenter.SegmenterConfig(
        channels=(4, 4, 4, 4), dilations=(1,), num_backgrounds=2, batch_size=8, learning_rate=1e-2, precision="no"
    )
    output = tmp_path / "run"

    def run(max_steps: int) -> None:
        arguments = argparse.Namespace(
            labels=labels, output=output, minutes=5.0, max_steps=max_steps, device="cpu", resume=True
        )
        pretrain_segmenter.train(arguments, config)

    run(2)
    run(4)
    checkpoint = torch.load(output / "checkpoint.pt", weights_only=True)
    assert checkpoint["train_state"]["step"] == checkpoint["ema"]["num_updates"] == 4
    assert PortraitSegmenter.from_pretrained(output / "segmenter").crop_size == SIZE
    last = (output / "log.jsonl").read_text().splitlines()[-1]
    assert all(f'"iou_{part}"' in last for part in PARTS)
