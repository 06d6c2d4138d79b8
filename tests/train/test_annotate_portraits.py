"""Landmarks of the portraits in the wild, as shards read them."""

import sys
from pathlib import Path

import numpy as np
import pytest

from acfun.synthetic.data import find_data_dir, list_faces, list_portraits, load_landmarks, require_data_dir
from acfun.synthetic.samples import load_landmark_table
from train import annotate_portraits, pretraining

pytestmark = pytest.mark.skipif(find_data_dir() is None, reason="the licensed photographs are not on this machine")


def test_found_landmarks_are_read_back_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, sheet = tmp_path / "landmarks.npz", tmp_path / "sheet.png"
    monkeypatch.setattr(annotate_portraits, "list_portraits", lambda data_dir: list_portraits(data_dir)[:2])
    monkeypatch.setattr(annotate_portraits, "list_faces", lambda data_dir: list_faces(data_dir)[:4])
    monkeypatch.setattr(pretraining, "prepare_process", lambda num_threads: None)
    monkeypatch.setattr(sys, "argv", ["annotate", "--output", str(table), "--sheet", str(sheet)])
    annotate_portraits.main()
    landmarks = load_landmark_table(table)
    assert landmarks
    assert not landmarks.keys() & load_landmarks(require_data_dir()).keys()  # those come with their own
    for key, points in landmarks.items():
        assert key.startswith("portraits/") or key.endswith("_smiling.jpg")
        assert points.shape == (189, 2)
        assert np.isfinite(points).all()
    assert sheet.is_file()
