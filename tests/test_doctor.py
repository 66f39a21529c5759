"""`d2s doctor`: what it finds here, and what it says when something is broken."""

from __future__ import annotations

import getpass
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import d2s

from d2s_cli import doctor, runtime
from d2s_cli.errors import D2SError, WeightsError
from d2s_cli.runtime import Compute, precision_error, within_limits
from d2s_cli.weights import bundled


def lines_about(text: str, *words: str) -> list[str]:
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_here_d2s_can_run_and_every_part_is_named(tmp_path: Path) -> None:
    result = d2s("doctor", "--report", tmp_path / "report.txt")
    assert result.exit_code == 0, result.stdout
    assert "d2s can run here" in result.stderr
    for words in (("torch", torch.__version__), ("d2s-base", "MB"), ("guide", "telea", "works")):
        assert lines_about(result.stdout, "ok", *words)
    assert lines_about(result.stdout, "CPU", "fp32: computes")
    report = (tmp_path / "report.txt").read_text()
    assert len(report.splitlines()) == len(result.stdout.splitlines())
    for private in (str(Path.home()), getpass.getuser(), platform.node()):
        assert private not in report


def test_a_report_is_not_replaced_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda *_: iter([doctor.Finding("ok", "fine")]))
    target = tmp_path / "report.txt"
    target.write_text("mine")
    error = d2s("doctor", "--report", target).exception
    assert isinstance(error, D2SError)
    assert "exists already" in error.message
    assert target.read_text() == "mine"
    assert d2s("doctor", "--report", target, "--force").exit_code == 0
    assert "fine" in target.read_text()
    assert d2s("doctor", "--report", tmp_path / "no" / "r.txt").exception


def test_a_library_that_does_not_load_is_an_error_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(name: str) -> None:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor.importlib, "import_module", load)
    findings = list(doctor.examine())
    assert findings[-1].level == "error"
    assert "opencv-python-headless does not load: libGL" in findings[-1].text
    assert "pip install" in findings[-1].hint
    assert not doctor.can_run(findings)


def test_without_weights_d2s_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(bundled, "bundled_weights", dict)
    result = d2s("doctor")
    assert result.exit_code == 7
    assert lines_about(result.stdout, "error", "no bundled weights")
    assert "cannot run" in result.stderr


def test_damaged_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    (tmp_path / "mine.safetensors").write_bytes(b"not weights at all")
    monkeypatch.setattr(bundled, "WEIGHTS_FOLDERS", (tmp_path,))
    (finding,) = doctor.check_weights()
    assert (finding.level, "mine" in finding.text) == ("error", True)


def test_a_guide_that_does_not_load_is_a_warning_and_none_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from d2s_cli.guides import registry

    def absent() -> Any:
        raise WeightsError("guide is not usable", "try: --guide telea")

    monkeypatch.setitem(registry.BUILT_IN, "patchmatch", absent)
    findings = list(doctor.check_guides())
    assert [f.level for f in findings] == ["warning", "ok", "ok"]
    assert findings[0].hint == "try: --guide telea"
    for name in ("telea", "ns"):
        monkeypatch.setitem(registry.BUILT_IN, name, absent)
    assert not doctor.can_run(doctor.check_guides())


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (finding,) = doctor.check_folders({"output": tmp_path / "not there"})
    assert finding.level == "warning"
    assert "--output" in finding.hint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_arithmetic_is_tested_against_double_precision(dtype: torch.dtype) -> None:
    compute = Compute(torch.device("cpu"), dtype)
    error = precision_error(compute)
    assert error > 0
    assert within_limits(compute, error)
    assert not within_limits(compute, float("nan"))
    assert not within_limits(compute, 0.5)


def test_wrong_arithmetic_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "precision_error", lambda compute: 0.3)
    assert not doctor.can_run(doctor.check_devices())

    def fails(compute: Compute) -> float:
        raise RuntimeError("could not create a primitive\nmore")

    monkeypatch.setattr(runtime, "precision_error", fails)
    findings = list(doctor.check_devices())
    assert "does not compute (could not create a primitive)" in findings[1].text


def test_reports_hold_no_paths_of_the_home_folder_and_no_names() -> None:
    text = "cannot read /home/ann/clients/acme/photo.png on anns-laptop, ann; annual\n/home/ann"
    clean = doctor.without_names(text, Path("/home/ann"), ("ann", "anns-laptop", ""))
    assert clean == "cannot read ~/.../photo.png on ..., ...; annual\n~"


@pytest.mark.parametrize(
    ("packages", "data"),
    [
        ("checkout", "checkout/weights"),
        ("target", "target/share/d2s/weights"),
        ("home/.local/lib/python3.11/site-packages", "home/.local/share/d2s/weights"),
        ("Library/Python/3.11/lib/python/site-packages", "Library/Python/3.11/share/d2s/weights"),
        ("Python/Python311/site-packages", "Python/share/d2s/weights"),
        ("prefix/Lib/site-packages", "prefix/share/d2s/weights"),
    ],
)
def test_weights_are_found_wherever_pip_was_told_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: str, data: str
) -> None:
    (tmp_path / data).mkdir(parents=True)
    (tmp_path / data / "d2s-base.safetensors").touch()
    folders = bundled.weights_folders(tmp_path / packages / "d2s_cli")
    monkeypatch.setattr(bundled, "WEIGHTS_FOLDERS", folders)
    assert bundled.find_weights("d2s-base") == tmp_path / data / "d2s-base.safetensors"
