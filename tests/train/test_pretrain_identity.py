"""Identity pretraining: losses on paper, who is drawn, what augmentation does, a toy run from a bank to figures."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from acfun.face.align import face_crop
from acfun.face.identity import IdentityEncoder
from acfun.synthetic.people import Person, to_canonical
from acfun.synthetic.shards import write_shards
from tests.synthetic.conftest import paint_face
from train.identity_augmentation import augment_crops, cut_turned_crops, draw_glasses
from train.identity_bank import HeldOutSampler, TrainingSampler, mix_person
from train.identity_data import IdentityBank, open_bank
from train.identity_evaluation import FIGURES, compute_recognition, format_table, open_held_out
from train.identity_head import compute_discriminants, fit_head
from train.pretrain_identity import (
    IdentityConfig,
    compute_contrastive_loss,
    compute_margin_loss,
    train,
)

SIZE = 64
TOY = IdentityConfig(
    stem_channels=4,
    channels=(4, 8, 8),
    num_units=(1, 0, 0),
    head_channels=4,
    embedding_size=8,
    batch_size=4,
    precision="no",
    head_batches=2,
)


def paint_person(number: int, kind: str = "neutral") -> Person:
    """Somebody whose colours and proportions depend on the number."""
    image, landmarks = paint_face(SIZE)
    tint = np.random.default_rng(number).uniform(0.7, 1, 3)
    moved = landmarks * np.asarray([1, 1 + 0.01 * number], np.float32)
    return Person(
        identity=f"painted_{number:03d}",
        key=f"faces/painted_{number:03d}_{kind}.jpg",
        image=np.dstack([image * tint, np.ones((SIZE, SIZE))]).astype(np.float32),
        landmarks=moved,
        shape=to_canonical(moved),
        has_clean_background=False,
    )


def build_training_sampler() -> TrainingSampler:
    people = [paint_person(number) for number in range(4)]
    return TrainingSampler(people, [], num_morphs=2, samples_per_photo=2, samples_per_morph=2, size=SIZE, seed=0)


def build_held_out_sampler() -> HeldOutSampler:
    studio = [paint_person(number, kind) for number in (0, 1) for kind in ("neutral", "smiling")]
    portraits = [paint_person(number, kind) for number in (2, 3) for kind in ("grey", "colour")]
    return HeldOutSampler(studio + portraits, size=SIZE, seed=0)


def faces(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(images (B,3,S,S), landmarks (B,189,2), mean shape (189,2))."""
    image, landmarks = paint_face(SIZE)
    images = torch.from_numpy(image).permute(2, 0, 1).expand(count, -1, -1, -1) * 2 - 1
    points = torch.from_numpy(landmarks)
    return images, points.expand(count, -1, -1), (points + 0.5) / SIZE


def test_margin_loss_without_margin_is_cross_entropy_and_grows_with_it() -> None:
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(6, 5, generator=generator) * 1.8 - 0.9
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    torch.testing.assert_close(compute_margin_loss(cosines, labels, 0.0, 8.0), F.cross_entropy(8 * cosines, labels))
    angle = cosines.gather(1, labels[:, None]).acos() + 0.3
    expected = F.cross_entropy(8 * cosines.scatter(1, labels[:, None], angle.clamp(max=torch.pi).cos()), labels)
    torch.testing.assert_close(compute_margin_loss(cosines, labels, 0.3, 8.0), expected)
    assert compute_margin_loss(cosines, labels, 0.3, 8.0) > compute_margin_loss(cosines, labels, 0.0, 8.0)


def test_contrast_is_lowest_where_partners_agree() -> None:
    embeds = torch.eye(4)
    assert float(compute_contrastive_loss(embeds, embeds, 0.05)) < 1e-6
    assert float(compute_contrastive_loss(embeds, embeds.roll(1, 0), 0.05)) > 10


def test_people_of_a_step_differ_and_so_do_their_two_pictures() -> None:
    names = ("a", "b", "c", "morph_0", "morph_1", "morph_2", "morph_3")
    rows = tuple(torch.tensor([3 * i, 3 * i + 1, 3 * i + 2]) for i in range(7))
    bank = IdentityBank(np.zeros((21, 4, 4, 3), np.uint8), torch.zeros(21, 189, 2), rows, names)
    generator = torch.Generator().manual_seed(0)
    people = bank.sample_people(4, 0.5, generator)
    assert len(set(people.tolist())) == 4
    assert sum(names[i].startswith("morph_") for i in people.tolist()) == 2
    assert sum(names[i].startswith("morph_") for i in bank.sample_people(6, 0.0, generator).tolist()) == 4
    first, second = bank.sample_pairs(people, generator).chunk(2)
    assert bool((first != second).all())
    assert torch.equal(first // 3, people)
    assert torch.equal(second // 3, people)


def test_turned_crops_keep_the_face_where_the_encoder_expects_it() -> None:
    images, landmarks, mean_shape = faces(16)
    turned = cut_turned_crops(images, landmarks, mean_shape, 112, 1.0, torch.Generator().manual_seed(0))
    plain = face_crop(images, landmarks)
    centre = (slice(None), slice(None), slice(30, 90), slice(30, 80))
    error = float((turned[centre] - plain[centre]).abs().mean())
    assert 0.01 < error < 0.5 * float((plain[centre] - plain[centre].mean()).abs().mean())


def test_augmentation_is_reproducible_and_in_range() -> None:
    images, landmarks, mean_shape = faces(8)
    one, two = (
        augment_crops(images, landmarks, mean_shape, 112, 1.0, torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(one, two)
    assert one.shape == (8, 3, 112, 112)
    assert float(one.abs().max()) <= 1 + 1e-5
    assert float((one[0] - one[1]).abs().mean()) > 0.02


def test_glasses_are_drawn_around_the_eyes_only() -> None:
    crops = torch.ones(64, 3, 112, 112)
    changed = (draw_glasses(crops, 0.3, torch.Generator().manual_seed(0)) != crops).any(1)
    worn = changed.flatten(1).any(1)
    assert 2 < int(worn.sum()) < 40
    assert not changed[:, 80:].any()
    assert not changed[:, 51, 36:40].all()


def test_sampler_photographs_and_paints_and_repeats_itself() -> None:
    sampler = build_training_sampler()
    assert sampler.count == 12
    first, again, painted, morph = (sampler(i) for i in (0, 0, 1, 10))
    assert np.array_equal(first.image, again.image)
    assert first.labels.renderer == "" != painted.labels.renderer
    assert first.labels.attributes == painted.labels.attributes == {"identity": "painted_000"}
    assert morph.labels.attributes["identity"].startswith("morph_")
    assert np.array_equal(morph.image, build_training_sampler()(10).image)


def test_mixed_person_is_none_of_the_parents() -> None:
    sampler = build_training_sampler()
    person = mix_person(sampler.mixer, "morph_x", np.random.default_rng(0))
    assert "+" in person.key
    assert all(float(np.abs(person.shape - parent.shape).max()) > 1e-4 for parent in sampler.people)


@pytest.mark.usefixtures("default_signals")
def test_toy_run_trains_exports_resumes_and_is_evaluated(tmp_path: Path) -> None:
    for name, build in (("bank", build_training_sampler), ("held", build_held_out_sampler)):
        write_shards(tmp_path / name, build, count=build().count, size=SIZE, workers=1)
    assert len(open_bank([tmp_path / "bank"]).names) == 6
    args = argparse.Namespace(
        data=[tmp_path / "bank"], held_out=tmp_path / "held", output=tmp_path / "run", init=None, fit_head=True,
        device="cpu", minutes=5.0, max_steps=2, save_every=600.0, resume=False,
    )  # fmt: skip
    train(args, TOY)
    encoder = IdentityEncoder.from_pretrained(tmp_path / "run" / "identity_encoder")
    held_out = open_held_out(tmp_path / "held")
    figures = compute_recognition(encoder, held_out)
    assert set(FIGURES) < set(figures)
    assert all(0 <= value <= 1 for value in figures.values())
    assert "| years |" in format_table(figures)
    args.max_steps, args.resume = 3, True
    train(args, TOY)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "mean" in line] == [2, 3]
    args.max_steps, args.resume, args.init = 1, False, tmp_path / "run" / "identity_encoder"
    args.output = tmp_path / "second"
    train(args, TOY)
    assert (args.output / "identity_encoder" / "model.safetensors").is_file()


def test_discriminants_prefer_what_differs_between_people() -> None:
    within = torch.diag(torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64))
    total = torch.diag(torch.tensor([1.5, 40.0, 5.0], dtype=torch.float64))
    rows = compute_discriminants(within, total, 2, shrinkage=0.0)
    torch.testing.assert_close(
        rows.abs(), torch.tensor([[0, 0.5, 0], [0, 0, 1.0]], dtype=torch.float64), atol=1e-5, rtol=0
    )


def test_fitted_head_looks_at_the_person_and_not_at_the_noise() -> None:
    torch.manual_seed(0)
    encoder = IdentityEncoder(
        stem_channels=4, channels=(4, 8, 8), num_units=(0, 0, 0), head_channels=4, embedding_size=8
    )
    generator = torch.Generator().manual_seed(0)

    def sample() -> Tensor:
        people = torch.nn.functional.interpolate(torch.randn(16, 3, 7, 7, generator=generator), 112).repeat(2, 1, 1, 1)
        lights = torch.randn(32, 1, 1, 1, generator=generator) * torch.linspace(-2, 2, 112)
        return people + lights

    def compute_gap() -> float:
        first, second = encoder.eval()(sample()).detach().chunk(2)
        similarities = first @ second.T
        return float(similarities.diagonal().mean() - similarities.mean())

    before = compute_gap()
    fit_head(encoder, (sample() for _ in range(40)))
    assert compute_gap() > before + 0.1
