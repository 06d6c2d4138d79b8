"""What benchmarks paint: pictures of folders, renderings with a known truth, people who are kept apart."""

from pathlib import Path

import pytest
import torch

from acfun.errors import ConfigError, NoFaceFoundError
from acfun.evaluation.suites import (
    RENDERERS,
    build_paintings,
    build_paired,
    choose_renderers,
    digest_pictures,
    list_pictures,
)
from acfun.synthetic.data import find_data_dir
from tests.cli.tools import draw
from tests.fitting import build_face_finder
from tests.tiny import RESOLUTION


def test_pictures_make_a_suite(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        draw(tmp_path / name, 3, (48, 48))
    paths = list_pictures(tmp_path)
    assert [path.name for path in paths] == ["a.png", "b.png"]
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.png").read_bytes())
    with pytest.raises(ConfigError, match="same name"):
        list_pictures(tmp_path)
    with pytest.raises(ConfigError, match="no folder with pictures"):
        list_pictures(tmp_path / "nowhere")
    with pytest.raises(NoFaceFoundError, match=r"a\.png: no face"):
        list(build_paintings(paths, paths, RESOLUTION, build_face_finder()))


def test_pictures_that_were_replaced_are_other_pictures(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, 3, (48, 48))
    before = digest_pictures(list_pictures(tmp_path))
    assert list(before) == ["a", "b"]
    assert before["a"] == before["b"]
    draw(tmp_path / "b.png", 4, (48, 48))
    after = digest_pictures(list_pictures(tmp_path))
    assert (after["a"], after["b"] == before["b"]) == (before["a"], False)


def test_an_unknown_renderer_is_named() -> None:
    with pytest.raises(ConfigError, match="oli"):
        build_paired("oli", 0, RESOLUTION, 1)


@pytest.mark.skipif(find_data_dir() is None, reason="the licensed photographs are not on this machine")
def test_a_paired_scene_has_the_truth_of_every_person() -> None:
    scene = build_paired("etching", 0, 64, 2)
    assert "etching" in RENDERERS
    assert scene.truths is not None
    assert scene.faces.shape == scene.truths[0].shape == (2, 3, 64, 64)
    assert scene.landmarks.shape == scene.truths[1].shape == (2, 189, 2)
    assert not torch.equal(scene.faces, scene.truths[0])
    assert len(scene.people) == 2
    with pytest.raises(ConfigError, match="leave none"):
        build_paired("etching", 0, 64, 99)


def test_the_development_suite_shares_nothing_with_the_test() -> None:
    test, development = (choose_renderers(None, is_held_out=is_held_out) for is_held_out in (True, False))
    assert set(test) | set(development) == RENDERERS.keys()
    assert not set(test) & set(development)
    assert choose_renderers(["oil", "etching"], is_held_out=True) == ["etching", "oil"]
    with pytest.raises(ConfigError, match="no renderer etching; choose from big_eyed"):
        choose_renderers(["oil", "etching"], is_held_out=False)


@pytest.mark.skipif(find_data_dir() is None, reason="the licensed photographs are not on this machine")
def test_development_scenes_have_other_people() -> None:
    test, development = (build_paired("oil", 0, 64, 2, is_held_out=is_held_out) for is_held_out in (True, False))
    assert development.truths is not None
    assert development.faces.shape == (2, 3, 64, 64)
    assert not torch.equal(test.faces, development.faces)
    # As they were photographed: a person's eyes are where the canonical framing has them.
    for scene in (test, development):
        pupils = scene.landmarks[:, :2].mean(0)
        assert (pupils / 64 - torch.tensor([[0.385, 0.47], [0.615, 0.47]])).abs().max() < 0.02
