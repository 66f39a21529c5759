"""Weights as people have them after a download: zip files and folders."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from guide_checks import run_inpaint
from test_guide_lama import TINY, narrow, write_lightning
from test_guide_wavepaint import PLACES, small
from test_weights_commands import edgeconnect, lama, saved, weights

import d2s_cli as d2s
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.weights import archive
from d2s_cli.weights.containers import is_container, unpack
from d2s_cli.weights.reading import read_weights
from d2s_cli.weights.store import installed, installed_files


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D2S_WEIGHTS_DIR", str(tmp_path / "store"))
    return tmp_path / "store"


def pack(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return path


def big_lama(path: Path, **more: Any) -> Path:
    """Laid out as published."""
    files = {"big-lama/config.yaml": b"x: 1", "big-lama/models/best.ckpt": saved(lama(18))}
    return pack(path, files, **more)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_is_imported_as_it_is(tmp_path: Path, folder: Path, method: int) -> None:
    path = big_lama(tmp_path / "big-lama.zip", method=method)
    result = weights("import", path)
    assert "big-lama.zip: big-lama/models/best.ckpt is LaMa, 18 blocks" in result.stderr
    (stored,) = installed_files("lama")
    assert stored == folder / "lama" / "best.safetensors"
    (file,) = installed()["lama"].files
    assert file.source == "big-lama.zip: big-lama/models/best.ckpt"
    assert len(read_weights(stored)[0]) == 19
    error = weights("import", path, fails=UsageError)
    assert f"import {path} --as lama --force" in error.hint


def test_of_many_the_entrys_own_is_taken(tmp_path: Path) -> None:
    """As the archive with all networks of LaMa's authors."""
    kinds = ("lama-celeba-hq/lama-fourier", "lama-celeba-hq/lama-regular", "lama-places")
    files = {
        f"LaMa_models/{kind}/models/best.ckpt": saved(lama(9 if "fourier" in kind else 4))
        for kind in kinds
    }
    path = pack(tmp_path / "lama-models.zip", files)
    result = weights("import", path)
    assert "holds 2 more checkpoints" in result.stderr
    assert installed_files("lama-celeba")[0].name == "lama-celeba-best.safetensors"
    weights("import", path, "--as", "lama-celeba", "--force")
    error = weights("import", path, "--as", "mat", "--yes", fails=UsageError)
    assert "several checkpoints" in error.message
    assert "LaMa_models/lama-places/models/best.ckpt" in error.hint
    error = weights("import", path, "--member", "nowhere", fails=UsageError)
    assert "no checkpoint with 'nowhere'" in error.message
    error = weights("import", path, "--member", "regular", fails=WeightsError)
    assert f"{path}: LaMa_models/lama-celeba-hq/lama-regular/models/best.ckpt" in error.message
    assert f"import {path} --as NAME" in error.hint
    weights("import", path, "--member", "lama-places", "--as", "own")
    assert set(installed()) == {"lama-celeba", "own"}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_folder_of_several_networks(tmp_path: Path, zipped: bool) -> None:
    names = ("EdgeModel_gen", "EdgeModel_dis", "InpaintingModel_gen", "InpaintingModel_dis")
    files = {f"celeba/{n}.pth": saved(edgeconnect("Edge" in n)) for n in names}
    path = pack(tmp_path / "celeba.zip", files) if zipped else tmp_path / "downloads"
    if not zipped:
        (path / "celeba").mkdir(parents=True)
        for name, data in files.items():
            (path / name).write_bytes(data)
    error = weights("import", path, fails=UsageError)
    assert "edgeconnect, edgeconnect-places" in error.message
    result = weights("import", path, "--as", "edgeconnect", "--yes")
    assert "lacks" not in result.stderr
    names_stored = [p.name for p in installed_files("edgeconnect")]
    assert names_stored == ["EdgeModel_gen.safetensors", "InpaintingModel_gen.safetensors"]


def test_a_guide_reads_a_zip_file(tmp_path: Path) -> None:
    write_lightning(tmp_path / "best.ckpt", narrow(TINY))
    data = (tmp_path / "best.ckpt").read_bytes()
    files = {"big-lama/config.yaml": b"x", "big-lama/models/best.ckpt": data}
    path = pack(tmp_path / "big-lama.zip", files)
    image, hole = torch.zeros(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    guide = d2s.load_guide("lama", weights=path)
    plain = d2s.load_guide("lama", weights=tmp_path / "best.ckpt")
    assert torch.equal(guide(image, hole), plain(image, hole))
    assert guide.files == (path,)
    # its folder, unpacked
    with zipfile.ZipFile(path) as opened:
        opened.extractall(tmp_path / "unpacked")
    folder = d2s.load_guide("lama", weights=tmp_path / "unpacked")
    assert torch.equal(folder(image, hole), plain(image, hole))


def test_a_zip_file_of_another_guide_is_named(tmp_path: Path) -> None:
    path = pack(tmp_path / "w.zip", {"a/w.pth": saved(small(PLACES))})
    with pytest.raises(WeightsError) as raised:
        d2s.load_guide("lama", weights=path)
    assert f"{path}: a/w.pth holds no Fourier network" in raised.value.message
    assert "it holds WavePaint" in raised.value.hint
    error = weights("info", path, fails=WeightsError)
    assert "is a zip file with a/w.pth in it" in error.message
    assert f"d2s weights import {path}" in error.hint


def test_from_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from d2s_cli.cli.app import app

    run_inpaint("lama", [write_lightning(tmp_path / "best.ckpt", narrow(TINY))], tmp_path)
    data = (tmp_path / "best.ckpt").read_bytes()
    path = pack(tmp_path / "big-lama.zip", {"big-lama/models/best.ckpt": data})
    words = ["inpaint", "photo.png", "-m", "hole.png", "-o", "out.png", "--tk", "0", "-d", "cpu"]
    words = [str(tmp_path / w) if w.endswith(".png") else w for w in words]
    more = ["-g", "lama", "--guide-weights", str(path)]
    result = CliRunner().invoke(app, words + more)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "photo_d2s.png").read_bytes()


def test_pytorchs_own_archives_are_no_containers(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "w.pth")
    assert not is_container(tmp_path / "w.pth")
    assert not is_container(tmp_path / "nothing")
    assert is_container(tmp_path)


# zip files made to do harm


def test_names_are_no_paths(tmp_path: Path, folder: Path) -> None:
    data = saved(lama(18))
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    path = pack(deep / "w.zip", {"../../../up.ckpt": data, "a/config.yaml": b"x"})
    weights("import", path, "--as", "lama")
    assert list(tmp_path.rglob("up*")) == []
    assert {p.name for p in folder.rglob("*") if p.is_file()} == {"entry.json", "best.safetensors"}


def test_what_grows_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path / "w.zip", {"w.ckpt": bytes(60 << 20)})
    error = weights("import", path, fails=WeightsError)
    assert "62914560 bytes in" in error.message
    monkeypatch.setattr(archive, "MAX_UNPACKED", 1000)
    path = pack(tmp_path / "v.zip", {"w.ckpt": bytes(1001)})
    assert "1001 bytes in" in weights("import", path, fails=WeightsError).message


def test_a_record_that_says_less_than_it_holds_is_cut_off(tmp_path: Path) -> None:
    data = bytearray(pack(tmp_path / "w.zip", {"w.ckpt": bytes(3 << 20)}).read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (1 << 20).to_bytes(4, "little")
    (tmp_path / "w.zip").write_bytes(data)
    with pytest.raises(WeightsError, match="is damaged"):
        unpack(tmp_path / "w.zip", "w.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_is_found(tmp_path: Path, method: int) -> None:
    whole = big_lama(tmp_path / "w.zip", method=method).read_bytes()
    middle = whole.index(b"best.ckpt") + 2000
    spoilt = {
        "changed": whole[:middle] + bytes([whole[middle] ^ 8]) + whole[middle + 1 :],
        "cut": whole[: len(whole) // 2],
    }
    for name, data in spoilt.items():
        path = tmp_path / f"{name}.zip"
        path.write_bytes(data)
        message = weights("import", path, fails=WeightsError).message
        assert name in message
        assert "damaged" in message or "cut off" in message


@pytest.mark.parametrize("at", ["flags", "method"])
def test_what_is_encrypted_or_packed_otherwise_is_refused(tmp_path: Path, at: str) -> None:
    data = bytearray(big_lama(tmp_path / "w.zip").read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    place, value = {"flags": (entry + 8, 1), "method": (entry + 10, 9)}[at]
    data[place] = value
    (tmp_path / "w.zip").write_bytes(data)
    message = weights("import", tmp_path / "w.zip", fails=WeightsError).message
    assert "encrypted" in message or "in a way that d2s does not read" in message


def test_a_zip_file_without_checkpoints(tmp_path: Path) -> None:
    path = pack(tmp_path / "w.zip", {"readme.txt": b"x", "__MACOSX/._w.pth": b"x"})
    assert "no checkpoint in" in weights("import", path, fails=WeightsError).message
    with pytest.raises(WeightsError, match="no checkpoint in"):
        d2s.load_guide("lama", weights=path)
    out = io.BytesIO()
    zipfile.ZipFile(out, "w").close()
    path.write_bytes(out.getvalue())
    assert "w.zip is damaged" in weights("import", path, fails=WeightsError).message
