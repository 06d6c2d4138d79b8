"""The benchmark: peers do what their papers say, rows are never lost, reports are made of them."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from skimage.color import rgb2lab
from torch import Tensor

from acfun.base import Base
from acfun.base.vae_features import decode_latents, encode_latents
from acfun.config import FitConfig
from acfun.errors import BaseNotFoundError, ConfigError
from acfun.evaluation.measures import COLUMNS, measure
from acfun.evaluation.methods import METHODS, AcfunVariant, Method
from acfun.evaluation.report import BLIND_FILE, PLOT_FILE, SCORECARD_FILE, SHEET_FILE, TABLE_FILE, write_report
from acfun.evaluation.runner import OPTIONS_FILE, ROWS_FILE, Ledger, name_picture, read_rows, run
from acfun.evaluation.style_judge import StyleJudge, load_style_judge
from acfun.evaluation.suites import (
    Scene,
)
from acfun.fit import fit_style
from acfun.images import tensor_to_array
from acfun.portrait import Portrait, StyleImage, place_mean_face
from acfun.style import Style
from benchmarks.ablation import build_methods
from tests.fitting import build_face_finder, build_identity_encoder
from tests.tiny import RESOLUTION, build_image_encoder, build_image_processor, make_tiny_base

SIZE = RESOLUTION


@pytest.fixture(scope="module")
def base() -> Base:
    return make_tiny_base()


def make_pictures(count: int, seed: int, size: int = SIZE) -> Tensor:
    coarse = torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(-1, 1)


def make_scene(*, has_truth: bool = True) -> Scene:
    landmarks = place_mean_face(SIZE)[None]
    style, faces = make_pictures(1, 0), make_pictures(2, 1)
    return Scene(
        name="noise",
        people=("Ann", "Bert"),
        picture=style,
        style=StyleImage(Portrait(style, landmarks), Portrait(style, landmarks), 1.0),
        faces=faces,
        landmarks=landmarks.expand(2, -1, -1),
        truths=(make_pictures(2, 2), landmarks.expand(2, -1, -1)) if has_truth else None,
    )


def paint(name: str, base: Base, setting: float) -> Tensor:
    return METHODS[name].prepare(base, make_scene(), 0)(setting)


@torch.no_grad()
def reconstruct(base: Base, images: Tensor) -> Tensor:
    return decode_latents(base.vae, encode_latents(base.vae, images)).clamp(-1, 1)


def test_a_scene_can_be_cut_to_one_person() -> None:
    whole = make_scene()
    assert whole.truths is not None
    one = whole.select(1)
    assert one.people == ("Bert",)
    assert one.truths is not None
    pairs = ((one.faces, whole.faces), (one.landmarks, whole.landmarks), *zip(one.truths, whole.truths, strict=True))
    assert all(torch.equal(part, everybody[1:]) for part, everybody in pairs)
    assert make_scene(has_truth=False).select(0).truths is None


def test_statistics_are_those_of_the_style(base: Base) -> None:
    scene, painted = make_scene(), paint("statistics", base, 0.5)
    style, face, result = (
        rgb2lab(tensor_to_array(image[:1])).reshape(-1, 3).mean(0) for image in (scene.picture, scene.faces, painted)
    )
    # Half-way, but for colours that no screen can show.
    assert abs(result - (style + face) / 2).max() < 3


def test_transport_gives_the_styles_colours(base: Base) -> None:
    painted, style = paint("transport", base, 1.0), make_scene().picture
    for channel in range(3):
        wanted, found = style[0, channel].flatten().sort().values, painted[0, channel].flatten().sort().values
        assert float((wanted - found).abs().mean()) < 0.05


def test_covariances_are_those_of_the_style(base: Base) -> None:
    painted, style = paint("covariance", base, 1.0), make_scene().picture
    wanted, found = (image[0].flatten(1).cov() for image in (style, painted))
    assert float((wanted - found).abs().max()) < 0.15 * float(wanted.abs().max())


@pytest.mark.parametrize("name", ["statistics", "covariance", "transport"])
def test_a_dial_at_zero_leaves_the_photograph(base: Base, name: str) -> None:
    torch.testing.assert_close(paint(name, base, 0.0), make_scene().faces, atol=2e-2, rtol=0)


def test_gatys_comes_nearer_to_the_style_with_more_weight(base: Base) -> None:
    encoder, scene = build_identity_encoder(), make_scene()
    distances = [
        measure(base, encoder, scene, paint("gatys", base, setting))[0]["style_distance"] for setting in (0.0, 10.0)
    ]
    assert distances[1] < distances[0]


@pytest.mark.parametrize("name", ["latent_adain", "sdedit"])
def test_latent_methods_paint_on_the_base(base: Base, name: str) -> None:
    painted = paint(name, base, 0.5)
    assert painted.shape == (2, 3, SIZE, SIZE)
    assert painted.isfinite().all()
    assert torch.equal(painted, paint(name, base, 0.5))
    plain = reconstruct(base, make_scene().faces)
    near, far = (float((paint(name, base, setting) - plain).abs().mean()) for setting in (0.3, 1.0))
    assert 0.01 < near < far


def test_normalised_latents_have_the_styles_moments(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene()
    torch.testing.assert_close(paint("latent_adain", base, 0.0), reconstruct(base, scene.faces))
    monkeypatch.setattr("acfun.evaluation.peers.classic.decode_latents", lambda vae, latents: latents)
    wanted = encode_latents(base.vae, scene.style.painting.image)
    near, far = (
        sum(
            float((moment(painted, (2, 3)) - moment(wanted, (2, 3))).abs().mean()) for moment in (torch.mean, torch.std)
        )
        for painted in (paint("latent_adain", base, share) for share in (1.0, 0.0))
    )
    assert near < 0.05 * far


def test_variants_share_what_they_fit(base: Base) -> None:
    fit = {"max_steps": 1, "framing": "whole", "objective": "two_target"}
    methods = build_methods(["photograph", "default", "no fit"], fit, {"num_inference_steps": 3})
    variant = methods["default"].prepare
    assert isinstance(variant, AcfunVariant)
    painted = [methods[name].prepare(base, make_scene(), 0)(1.0) for name in ("default", "no fit")]
    assert len(variant.styles) == 1
    assert not torch.equal(*painted)


def test_an_interrupted_fit_gives_no_row(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(config: FitConfig, *, base: Base) -> Style:
        return fit_style(config, base=base, report=lambda progress: signal.raise_signal(signal.SIGTERM))

    monkeypatch.setattr("acfun.evaluation.methods.fit_style", interrupt)
    variant = AcfunVariant(fit={"max_steps": 2, "framing": "whole", "objective": "two_target"})
    with pytest.raises(KeyboardInterrupt):
        variant(base, make_scene(), 0)


def test_what_is_known_is_measured(base: Base) -> None:
    encoder, scene = build_identity_encoder(), make_scene()
    judges: dict[str, Any] = {"finder": build_face_finder(), "second_encoder": encoder}
    judges["style_encoder"] = StyleJudge(build_image_encoder(), build_image_processor())
    face, truth = (
        measure(base, encoder, scene, images, **judges)[1] for images in (scene.faces, paint("truth", base, 1.0))
    )
    assert list(face) == list(COLUMNS)
    names = ("identity", "identity_2", "clip_face", "ssim_face", "structure", "is_kept")
    assert [face[name] for name in names] == pytest.approx([1, 1, 1, 1, 0, face["is_kept"]], abs=1e-5)
    assert face["leakage_2"] == face["leakage"]
    of_truth = {"to_truth", "ssim_truth", "identity_truth", "identity_truth_2", "clip_truth"}
    assert {name: truth[name] for name in of_truth} == pytest.approx(
        dict.fromkeys(of_truth, 1) | {"to_truth": 0}, abs=1e-5
    )
    assert truth["landmark_error"] == pytest.approx(0, abs=1e-5)
    assert all(face[name] < 1 - 1e-4 for name in of_truth - {"to_truth"})
    unknown = measure(base, encoder, make_scene(has_truth=False), scene.faces)[0]
    shape = {"landmark_error", "shape_distance", "pose_leakage"}
    assert set(COLUMNS) - set(unknown) == {
        *of_truth,
        "identity_2",
        "leakage_2",
        "is_kept_2",
        "style_similarity",
        *shape,
    }
    alone = replace(make_scene(has_truth=False), faces=scene.faces[:1], landmarks=scene.landmarks[:1])
    assert "clip_face" not in measure(base, encoder, alone, scene.faces[:1])[0]
    with pytest.raises(ConfigError, match="not known"):
        METHODS["truth"].prepare(base, make_scene(has_truth=False), 0)


def test_a_judge_of_style_is_read_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BaseNotFoundError, match="preprocessor_config"):
        load_style_judge(tmp_path)
    build_image_encoder().save_pretrained(tmp_path)
    build_image_processor().save_pretrained(tmp_path)
    judge, scene = load_style_judge(tmp_path), make_scene()
    embeds = judge(torch.cat([scene.faces, scene.faces[:1]]))
    assert embeds.norm(dim=1) == pytest.approx(torch.ones(3))
    assert torch.equal(embeds[0], embeds[2])
    assert not torch.equal(embeds[0], embeds[1])
    same, other = (
        measure(make_tiny_base(), build_identity_encoder(), scene, images, style_encoder=judge)[0]["style_similarity"]
        for images in (scene.picture.expand(2, -1, -1, -1), scene.faces)
    )
    assert same == pytest.approx(1, abs=1e-5)
    assert other < same
    weights = load_file(tmp_path / "model.safetensors")
    save_file({f"backbone.{name}": weight for name, weight in weights.items()}, tmp_path / "model.safetensors")
    with pytest.raises(BaseNotFoundError, match="visual_projection"):
        load_style_judge(tmp_path)


def test_a_run_goes_on_where_it_ended(base: Base, tmp_path: Path) -> None:
    encoder = build_identity_encoder()
    told: list[str] = []
    methods = {name: METHODS[name] for name in ("photograph", "statistics")}
    methods["transport"] = METHODS["transport"]

    def go_on() -> None:
        run(base, encoder, [make_scene()], methods, [0, 1], Ledger(tmp_path, {"people": 2}), told.append)

    go_on()
    assert len(told) == 1 + 2 + 2 * 2  # only the last one depends on the seed
    go_on()
    assert len(told) == 7
    rows = read_rows(tmp_path)
    assert len(rows) == 2 * 7
    assert {row["person"] for row in rows} == {"Ann", "Bert"}
    (tmp_path / ROWS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows[1:]), encoding="utf-8")
    go_on()  # a trial without all its people is painted again, whole
    assert len(told) == 8
    assert sorted(map(str, read_rows(tmp_path))) == sorted(map(str, rows))
    paths = write_report(tmp_path, methods, 0)
    assert [path.name for path in paths] == [TABLE_FILE, SHEET_FILE, PLOT_FILE, SCORECARD_FILE, BLIND_FILE]
    lines = (tmp_path / TABLE_FILE).read_text(encoding="utf-8").splitlines()
    cells = [line.split("|")[1:3] for line in lines if line.startswith("| ") and "method" not in line]
    assert {name.strip() for name, _ in cells} == set(methods)
    assert all(count.strip() == "2" for _, count in cells)
    for stem in ("noise-face", "noise-transport-1-1", "noise-photograph-1-0"):  # every person at the default
        assert all((tmp_path / name_picture(stem, index)).is_file() for index in (0, 1))
    assert not (tmp_path / name_picture("noise-transport-0.5-0", 1)).is_file()
    assert (tmp_path / PLOT_FILE).read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_rows_of_other_options_are_refused(tmp_path: Path) -> None:
    Ledger(tmp_path, {"people": 2, "base": "mini"})
    Ledger(tmp_path, {"people": 2, "base": "mini"})
    with pytest.raises(ConfigError, match="people 2; now it is 3"):
        Ledger(tmp_path, {"people": 3, "base": "mini"})


def test_rows_that_were_measured_otherwise_are_refused(tmp_path: Path) -> None:
    (tmp_path / OPTIONS_FILE).write_text('{"people": 2}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"metrics None; now it is \d+: take another folder"):
        Ledger(tmp_path, {"people": 2})


def test_a_method_that_cannot_paint_a_scene_is_left_out(base: Base, tmp_path: Path) -> None:
    told: list[str] = []
    methods = {name: METHODS[name] for name in ("truth", "photograph")}
    scene = make_scene(has_truth=False)
    run(base, build_identity_encoder(), [scene], methods, [0], Ledger(tmp_path, {}), told.append)
    assert [text.split(",")[0] for text in told] == [
        "noise: truth is left out: the truth of 'noise' is not known; leave the method 'truth' to the suite 'paired'",
        "noise: photograph 1",
    ]
    assert {row["method"] for row in read_rows(tmp_path)} == {"photograph"}


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    row = json.dumps({"scene": "a"})
    (tmp_path / ROWS_FILE).write_text(f"{row[:5]}\n{row}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 1 is damaged"):
        read_rows(tmp_path)


def test_every_default_is_one_of_the_settings() -> None:
    assert all(isinstance(method, Method) and method.default in method.settings for method in METHODS.values())
