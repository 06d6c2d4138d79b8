"""The doctor: healthy things are ok, broken ones come with a remedy."""

import shutil
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from safetensors.torch import save_file

from acfun import doctor
from acfun.paths import CACHE_DIR_VARIABLE, mini_dir


def test_two_builds_of_onnxruntime_are_a_problem_with_a_remedy() -> None:
    check = doctor.check_onnxruntime({"onnxruntime": "1.20", "onnxruntime-gpu": "1.20"})
    assert check.status == "problem"
    assert "pip uninstall" in check.remedy
    for installed in ({}, {"onnxruntime": "1.20"}, {"onnxruntime-gpu": "1.20"}):
        assert doctor.check_onnxruntime(installed).status == "ok"


@pytest.mark.parametrize(
    ("installed", "status"), [({}, "problem"), ({"peft": "0.1"}, "problem"), ({"peft": "0.30"}, "ok")]
)
def test_libraries_are_held_against_the_requirements(installed: dict[str, str], status: str) -> None:
    check = doctor.check_library("peft", installed, {"peft": Requirement("peft>=0.21")})
    assert check.status == status
    assert check.remedy == ("pip install 'peft>=0.21'" if status == "problem" else "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="xformers may work where CUDA is")
def test_xformers_without_cuda_is_a_note_not_a_problem() -> None:
    assert doctor.check_xformers({"xformers": "0.0.35"}).status == "note"
    assert doctor.check_xformers({}).status == "ok"


def write_base_files(directory: Path) -> None:
    for name in doctor.BASE_FILES:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(b"{}")


@pytest.mark.parametrize("name", ["identity_adapter/ip_adapter.safetensors", *doctor.BASE_FILES])
def test_what_generating_and_the_demo_need_is_looked_for(name: str, tmp_path: Path) -> None:
    shutil.copytree(mini_dir(), tmp_path / "mini")
    assert doctor.check_base(tmp_path / "mini").status == "ok"
    (tmp_path / "mini" / name).unlink()
    check = doctor.check_base(tmp_path / "mini")
    assert check.status == "problem"
    assert name in check.detail or "no weights of identity_adapter" in check.detail


def test_the_base_is_whole_only_with_all_its_parts(tmp_path: Path) -> None:
    write_base_files(tmp_path)
    for part in doctor.BASE_PARTS[:-1]:
        (tmp_path / part).mkdir()
        save_file({"weight": torch.zeros(1000)}, tmp_path / part / "model.safetensors")
    check = doctor.check_base(tmp_path)
    assert (check.status, doctor.BASE_PARTS[-1] in check.detail) == ("problem", True)
    (tmp_path / doctor.BASE_PARTS[-1]).mkdir()
    save_file({"weight": torch.zeros(1000)}, tmp_path / doctor.BASE_PARTS[-1] / "model.safetensors")
    assert doctor.check_base(tmp_path).status == "ok"


def test_the_cache_must_be_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_DIR_VARIABLE, str(tmp_path / "cache"))
    check = doctor.check_cache(tmp_path / "cache")
    assert (check.status, "0 styles" in check.detail) == ("ok", True)
    (tmp_path / "file").write_bytes(b"")
    check = doctor.check_cache(tmp_path / "file")
    assert (check.status, CACHE_DIR_VARIABLE in check.remedy) == ("problem", True)


def test_face_models_that_cannot_be_used_have_a_remedy(tmp_path: Path) -> None:
    (check,) = doctor.check_faces(str(tmp_path / "buffalo_l"))
    assert (check.status, "no such folder" in check.detail, "check the path" in check.remedy) == ("problem", True, True)
    (tmp_path / "buffalo_l").mkdir()
    (tmp_path / "buffalo_l" / "det_10g.onnx").write_bytes(b"cut off")
    checks = doctor.check_faces(str(tmp_path / "buffalo_l"))
    assert [(check.name, check.status) for check in checks] == [
        ("face models", "ok"),
        ("identity encoder", "problem"),
        ("face detector", "problem"),
    ]
    assert "research only" in checks[0].detail
    assert all(check.remedy for check in checks[1:])


def test_face_models_are_loaded(tmp_path: Path) -> None:
    packs = pytest.importorskip("tests.packs", reason="needs the package onnx")
    pack = packs.write_pack(tmp_path / "buffalo_l")
    identity = [check for check in doctor.examine(str(pack)) if check.name == "identity encoder"]
    assert [check.status for check in identity] == ["ok"]
    assert len(doctor.check_faces(str(pack / "w600k_r50.onnx"))) == 2  # a file finds no faces


def test_every_problem_has_a_remedy() -> None:
    checks = doctor.examine()
    assert {"torch", "device", "malloc", "embedded base", "cache"} <= {check.name for check in checks}
    assert all(check.remedy for check in checks if check.status == "problem")
