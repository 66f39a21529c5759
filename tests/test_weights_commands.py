"""`d2s weights` from end to end: pull, import, use, verify, remove."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner
from unkind_server import Unkind, serving

from d2s_cli.cli.app import app
from d2s_cli.errors import D2SError, UsageError, WeightsError
from d2s_cli.weights import convert, store
from d2s_cli.weights import manifest as manifests
from d2s_cli.weights.bundled import bundled_guide
from d2s_cli.weights.manifest import Entry, PublishedFile, manifest, read_manifest
from d2s_cli.weights.reading import read_header, read_weights, write_safetensors
from d2s_cli.weights.recognise import Shapes, recognise
from d2s_cli.weights.store import installed_files

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D2S_WEIGHTS_DIR", str(tmp_path / "store"))
    monkeypatch.delenv("http_proxy", raising=False)
    return tmp_path / "store"


@pytest.fixture
def server() -> Iterator[Unkind]:
    with serving(Unkind()) as made:
        yield made


def weights(*words: object, fails: type[D2SError] | None = None, code: int = 0) -> Any:
    """Run `d2s weights`; returns the result, or the error that it is to end with."""
    result = CliRunner().invoke(app, ["weights", *map(str, words)])
    if fails is not None:
        assert isinstance(result.exception, fails), result.output
        return result.exception
    if code == 0 and result.exception is not None:
        raise result.exception
    assert result.exit_code == code
    return result


def saved(tensors: dict[str, Tensor], **more: object) -> bytes:
    out = io.BytesIO()
    torch.save({**tensors, **more}, out)
    return out.getvalue()


def lama(blocks: int = 2) -> dict[str, Tensor]:
    """Tensors by which LaMa is known, with what training leaves in its checkpoints."""
    found = {"generator.model.1.ffc.convl2l.weight": torch.rand(4, 4, 7, 7)}
    for block in range(5, 5 + blocks):
        found[f"generator.model.{block}.conv1.ffc.convl2l.weight"] = torch.rand(2, 2, 3, 3)
    return found | {"discriminator.0.weight": torch.rand(9), "loss_pl.w": torch.rand(5)}


def offer(
    monkeypatch: pytest.MonkeyPatch, data: bytes, url: str, known: bool = True, **more: Any
) -> Entry:
    """Make the manifest one entry, `tiny`, of a LaMa with two blocks."""
    fields: dict[str, Any] = {"limits": "", **more}
    file = PublishedFile(
        "best.ckpt",
        "lama-2",
        sources=(url,) if url else (),
        by_hand="https://example.org/share",
        member=fields.pop("member", ""),
        sha256=hashlib.sha256(data).hexdigest() if known else "",
    )
    entry = Entry("tiny", "guide", "a tiny LaMa", "MIT", (file,), "lama", **fields)
    for module in (manifests, store, convert):
        monkeypatch.setattr(module, "manifest", lambda: {"tiny": entry})
    return entry


def test_pull_keeps_what_inference_needs(
    server: Unkind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = lama()
    server.data = saved({"state_dict": tensors})
    offer(monkeypatch, server.data, server.url("best.ckpt"))
    result = weights("pull", "tiny")
    assert "licence: MIT" in result.stderr
    assert "--guide lama --guide-weights tiny" in result.stderr
    assert result.stdout == ""
    (path,) = installed_files("tiny")
    assert path == folder / "tiny" / "best.safetensors"
    found, header = read_weights(path)
    assert header == {}
    assert set(found) == {key for key in tensors if key.startswith("generator.")}
    assert all(torch.equal(found[key], tensors[key]) for key in found)
    source = read_header(path, "source")
    assert source["architecture"] == "lama-2"
    assert source["source_sha256"] == hashlib.sha256(server.data).hexdigest()
    assert source["licence"] == "MIT"
    assert [p for p in (folder / ".partial").rglob("*") if p.is_file()] == []
    asked = len(server.asked)
    assert "installed already" in weights("pull", "tiny").stderr
    assert len(server.asked) == asked
    weights("pull", "tiny", "--force")
    assert len(server.asked) > asked


def test_a_guide_takes_any_entry_that_is_for_it(
    server: Unkind, monkeypatch: pytest.MonkeyPatch
) -> None:
    from d2s_cli.guides.registry import checkpoint_files

    server.data = saved(lama())
    offer(monkeypatch, server.data, server.url())
    with pytest.raises(WeightsError, match="lama are not installed"):
        installed_files("lama")
    weights("pull", "tiny")
    assert installed_files("lama") == installed_files("tiny") == checkpoint_files("tiny")
    with pytest.raises(WeightsError, match="no weights file at none"):
        checkpoint_files("none")


def test_pull_from_a_zip_file(
    server: Unkind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("big/config.yaml", "x")
        opened.writestr("big/models/best.ckpt", saved(lama()))
        opened.writestr("../../../elsewhere", "x")
    server.data = out.getvalue()
    offer(monkeypatch, server.data, server.url("big.zip"), member="big/models/best.ckpt")
    weights("pull", "tiny")
    there = {p.name for p in folder.rglob("*") if p.is_file()}
    assert there == {"entry.json", "best.safetensors"}
    offer(monkeypatch, server.data, server.url("big.zip"), member="big/models/last.ckpt")
    error = weights("pull", "tiny", "--force", fails=WeightsError)
    assert "does not hold big/models/last.ckpt" in error.message
    server.data = b"no zip file"
    offer(monkeypatch, server.data, server.url("big.zip"), member="best.ckpt")
    assert "does not hold" in weights("pull", "tiny", "--force", fails=WeightsError).message
    assert {p.name for p in folder.rglob("*") if p.is_file()} == there


def test_what_is_pulled_must_be_what_was_meant(
    server: Unkind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.data = saved(lama(blocks=3))
    offer(monkeypatch, server.data, server.url())
    error = weights("pull", "tiny", fails=WeightsError)
    assert "holds LaMa, 3 blocks, not lama-2" in error.message
    assert not (folder / "tiny").exists()
    assert [p for p in (folder / ".partial").rglob("*") if p.is_file()] == []


def test_an_unknown_hash_is_remembered_and_said(
    server: Unkind, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.data = saved(lama())
    offer(monkeypatch, server.data, server.url(), known=False)
    found = hashlib.sha256(server.data).hexdigest()
    assert f"no SHA-256 of best.ckpt is known; this one is remembered: {found}" in (
        weights("pull", "tiny").stderr
    )
    assert "as first fetched" in weights("verify").stdout


def test_licences_that_limit_use_have_to_be_accepted(
    server: Unkind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.data = saved(lama())
    offer(monkeypatch, server.data, server.url(), limits="not for commercial use")
    error = weights("pull", "tiny", fails=UsageError)
    assert error.hint == "to accept: d2s weights pull tiny --yes"
    assert not folder.exists()
    assert server.asked == []
    assert "limits: not for commercial use" in weights("pull", "tiny", "--yes").stderr
    assert installed_files("tiny")


def test_somebody_at_a_terminal_is_asked(server: Unkind, monkeypatch: pytest.MonkeyPatch) -> None:
    from d2s_cli.cli import weights_add as commands

    server.data = saved(lama())
    entry = offer(monkeypatch, server.data, server.url(), limits="not for commercial use")
    monkeypatch.setattr(commands.sys.stdin, "isatty", lambda: True, raising=False)
    for answer, accepted in (("n", False), ("y", True)):
        monkeypatch.setattr(commands.typer, "confirm", lambda *_, a=answer, **__: a == "y")
        if accepted:
            commands._accept([entry], False, "pull", ["tiny"])
        else:
            with pytest.raises(UsageError, match="was not accepted"):
                commands._accept([entry], False, "pull", ["tiny"])


def test_what_has_only_a_share_page_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, b"", "", limits="not for commercial use")
    error = weights("pull", "tiny", fails=WeightsError)
    assert error.hint.splitlines() == [
        "by hand: https://example.org/share",
        "if you have it: d2s weights import best.ckpt --as tiny",
    ]


def test_offline_and_mirror(
    server: Unkind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.data = saved(lama())
    offer(monkeypatch, server.data, server.url("best.ckpt"))
    monkeypatch.setenv("D2S_OFFLINE", "1")
    assert "--mirror file:///" in weights("pull", "tiny", fails=WeightsError).hint
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / "best.ckpt").write_bytes(server.data)
    monkeypatch.setenv("D2S_MIRROR", (tmp_path / "usb").as_uri())
    weights("pull", "tiny")
    assert server.asked == []
    assert weights("verify", "tiny").stdout == "tiny: ok\n"


def test_dry_run_does_nothing(
    server: Unkind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, b"", server.url(), limits="x")
    assert server.url() in weights("pull", "tiny", "--dry-run").stdout
    assert server.asked == []
    assert not folder.exists()


def test_import_recognises_a_file_by_its_content(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = saved(lama())
    offer(monkeypatch, data, "")
    path = tmp_path / "whatever (1).bin"
    path.write_bytes(data)
    result = weights("import", path)
    assert "is LaMa, 2 blocks" in result.stderr
    assert "note:" not in result.stderr
    assert path.read_bytes() == data
    assert len(read_weights(installed_files("tiny")[0])[0]) == 3
    error = weights("import", path, fails=UsageError)
    assert error.hint.endswith("--as tiny --force")
    weights("import", path, "--force")
    # our own file, from another machine's store
    again = tmp_path / "again.safetensors"
    again.write_bytes(installed_files("tiny")[0].read_bytes())
    assert "is not the published one" in weights("import", again, "--force").stderr


def test_import_checks_a_hash_that_is_given(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(saved(lama()))
    error = weights("import", path, "--sha256", "00", fails=WeightsError)
    assert "has the SHA-256" in error.message


def test_import_of_what_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(saved({"blocks.0.weight": torch.rand(3)}))
    error = weights("import", path, fails=WeightsError)
    assert "blocks.0.weight" in error.hint
    assert "no network that d2s knows" in weights("import", path, "--as", "mine").stderr
    assert read_weights(installed_files("mine")[0])[0]["blocks.0.weight"].shape == (3,)


def test_import_of_a_wrong_file_for_an_entry(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(saved(lama()))
    error = weights("import", path, "--as", "mat", "--yes", fails=WeightsError)
    assert "holds LaMa, 2 blocks, not mat-256" in error.message
    path.write_bytes(saved(lama(9)))
    error = weights("import", path, "--as", "mat", "--yes", fails=WeightsError)
    assert error.hint == f"try: d2s weights import {path} --as lama-celeba"


def edgeconnect(edge: bool) -> dict[str, Any]:
    if edge:
        first = {"encoder.1.weight_orig": torch.rand(2, 3, 7, 7)}
    else:
        first = {"encoder.1.weight": torch.rand(2, 4, 7, 7)}
    return {"iteration": 3, "generator": first | {"middle.0.bias": torch.rand(2)}}


def test_entries_of_several_files(tmp_path: Path) -> None:
    edge, inpaint = tmp_path / "EdgeModel_gen.pth", tmp_path / "InpaintingModel_gen.pth"
    torch.save(edgeconnect(True), edge)
    torch.save(edgeconnect(False), inpaint)
    # two entries have files of these names and architectures
    error = weights("import", edge, fails=UsageError)
    assert "edgeconnect, edgeconnect-places" in error.message
    result = weights("import", edge, "--as", "edgeconnect", "--yes")
    assert "still lacks InpaintingModel_gen.pth" in result.stderr
    error = weights("pull", "edgeconnect", fails=WeightsError)
    both = "d2s weights import EdgeModel_gen.pth InpaintingModel_gen.pth --as edgeconnect"
    assert f"{both} (or the folder or zip file" in error.hint
    with pytest.raises(WeightsError, match="lack InpaintingModel_gen"):
        installed_files("edgeconnect")
    assert weights("verify", code=7).stdout == "edgeconnect: InpaintingModel_gen.pth is missing\n"
    assert "incomplete" in weights("list", "--installed").stdout
    weights("import", inpaint, "--as", "edgeconnect", "--yes")
    names = [path.name for path in installed_files("edgeconnect")]
    assert names == ["EdgeModel_gen.safetensors", "InpaintingModel_gen.safetensors"]
    assert set(read_weights(installed_files("edgeconnect")[0])[0]) == {
        "generator.encoder.1.weight_orig",
        "generator.middle.0.bias",
    }


def test_files_put_into_the_store_by_hand_are_taken(folder: Path) -> None:
    (folder / "lama").mkdir(parents=True)
    (folder / "lama" / "notes.txt").write_text("x")
    assert not store.is_installed("lama")
    (folder / "lama" / "best.ckpt").write_bytes(saved(lama()))
    assert installed_files("lama") == [folder / "lama" / "best.ckpt"]
    assert store.is_installed("lama")
    weights("remove", "lama", "--yes")
    assert not (folder / "lama").exists()


def test_own_refiners_are_found_by_their_name(tmp_path: Path, tiny_refiner: Any) -> None:
    from d2s_cli.diffusion.loading import load_refiner

    path = tmp_path / "refiner.safetensors"
    state = tiny_refiner.unet.state_dict()
    write_safetensors(path, state, tiny_refiner.config.to_json())
    error = weights("import", path, fails=UsageError)
    assert error.hint.endswith("--as refiner")
    weights("import", path, "--as", "mine", "--licence", "CC0-1.0")
    loaded = load_refiner("mine")
    assert all(torch.equal(loaded.unet.state_dict()[key], state[key]) for key in state)
    assert "CC0-1.0" in weights("list", "--kind", "refiner", "--installed").stdout
    weights("import", path, "--as", "mine", fails=UsageError)
    weights("import", path, "--as", "mine", "--force")
    with pytest.raises(WeightsError, match="no weights named 'minor'") as raised:
        load_refiner("minor")
    assert "mine" in raised.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"res_blocks": 10**9},
        {"channel_mults": [1] * 10**5},
        {"channel_mults": []},
        {"inner_channels": 0},
        {"inner_channels": 33},
        {"inner_channels": "x"},
        {"head_channels": 0},
        {"unshuffle": 10**9},
    ],
)
def test_a_refiner_that_describes_no_network(
    tmp_path: Path, tiny_refiner: Any, changes: dict[str, Any]
) -> None:
    from d2s_cli.diffusion.loading import load_refiner

    config = tiny_refiner.config.to_json()
    config["unet"] |= changes
    path = tmp_path / "refiner.safetensors"
    write_safetensors(path, {"w": torch.rand(2)}, config)
    with pytest.raises(WeightsError, match="describes no network"):
        load_refiner(path)


@pytest.mark.parametrize("shape", [(0,), (4,), (64, 0), (64, 6), (64, 6, 3, 3), ()])
def test_a_published_refiner_of_wrong_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    from d2s_cli.diffusion.loading import load_refiner

    path = tmp_path / "network.pth"
    state = {"input_blocks.0.0.weight": torch.rand(shape), "cond_embed.0.weight": torch.rand(shape)}
    path.write_bytes(saved(state))
    with pytest.raises(WeightsError):
        load_refiner(path)


def test_verify_finds_what_changed(server: Unkind, monkeypatch: pytest.MonkeyPatch) -> None:
    server.data = saved(lama())
    offer(monkeypatch, server.data, server.url())
    weights("pull", "tiny")
    (path,) = installed_files("tiny")
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"x")
    assert "has changed" in weights("verify", "tiny", code=7).stdout
    path.write_bytes(good[:-1])
    assert "bytes, not" in weights("verify", code=7).stdout
    path.unlink()
    assert "is gone" in weights("verify", code=7).stdout
    with pytest.raises(WeightsError, match="is gone"):
        installed_files("tiny")
    weights("verify", "mat", fails=WeightsError)


def test_a_damaged_record_is_an_error_with_a_way_out(folder: Path) -> None:
    (folder / "bad").mkdir(parents=True)
    outside = {"name": "bad", "kind": "guide", "licence": "", "files": [{"name": "../x"}]}
    for text in ("{", "[]", "[" * 100_000, json.dumps(outside), '{"files": 3}'):
        (folder / "bad" / "entry.json").write_text(text)
        assert "d2s weights remove bad" in weights("verify", "bad", fails=WeightsError).hint
        assert "is damaged" in weights("verify", code=7).stdout
        assert "damaged" in weights("list", "--installed").stdout
    weights("remove", "bad", "--yes")
    assert not (folder / "bad").exists()


def test_doctor_names_entries_that_are_not_whole(folder: Path, tmp_path: Path) -> None:
    from d2s_cli.doctor import check_installed

    path = tmp_path / "EdgeModel_gen.pth"
    torch.save(edgeconnect(True), path)
    weights("import", path, "--as", "edgeconnect", "--yes")
    (folder / "bad").mkdir()
    (folder / "bad" / "entry.json").write_text("{")
    told = {finding.text.split(":")[0]: finding for finding in check_installed()}
    assert "lack InpaintingModel_gen.pth" in told["weights edgeconnect"].text
    assert told["weights bad"].level == "warning"
    assert "d2s weights remove bad" in told["weights bad"].hint


def test_remove_asks_and_takes_links_for_links(
    tmp_path: Path, folder: Path, server: Unkind, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.data = saved(lama())
    offer(monkeypatch, server.data, server.url())
    weights("pull", "tiny")
    assert weights("remove", "tiny", fails=UsageError).hint == "try: d2s weights remove tiny --yes"
    assert weights("remove", "tiny", "--dry-run").stdout == f"{folder / 'tiny'}\n"
    assert installed_files("tiny")
    assert "freed" in weights("remove", "tiny", "--yes").stderr
    weights("remove", "tiny", "--yes", fails=UsageError)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    (folder / "link").symlink_to(precious)
    weights("remove", "link", "--yes")
    assert (precious / "file").read_text() == "mine"
    weights("remove", "../precious", "--yes", fails=UsageError)
    (folder / ".partial" / "tiny").mkdir(parents=True, exist_ok=True)
    (folder / ".partial" / "tiny" / "part").write_bytes(bytes(1000))
    weights("remove", "--partial", "--yes")
    assert not (folder / ".partial").exists()


def test_where_prints_paths_alone(folder: Path) -> None:
    assert weights("where").stdout == f"{folder}\n"
    assert weights("where", "d2s-base").stdout.endswith("d2s-base.safetensors\n")
    weights("where", "mat", fails=WeightsError)


def test_info(tmp_path: Path) -> None:
    assert "not for commercial use" in weights("info", "edgeconnect").stdout
    path = tmp_path / "x.pth"
    path.write_bytes(saved(lama()))
    told = json.loads(weights("info", path, "--json", "--tensors").stdout)
    assert told["read"][0]["architecture"] == "lama-2"
    assert "loss_pl.w [5] float32" in told["tensors"]
    assert "recognised: LaMa, 2 blocks" in weights("info", path).stdout
    assert "a refiner that d2s trained" in weights("info", "d2s-base").stdout
    assert "a guide that d2s trained" in weights("info", *bundled_guide("neural")).stdout
    assert "channel_mults: 1, 1, 2, 3\n" in weights("info", "d2s-base").stdout
    unknown = weights("info", "no-such-thing", fails=WeightsError)
    assert "d2s weights list" in str(unknown)


def test_verify_of_nothing_says_so(folder: Path) -> None:
    assert "none are installed" in weights("verify").stderr


def test_what_came_with_d2s_is_said_to_have() -> None:
    assert "d2s-base came with d2s" in weights("pull", "d2s-base").stderr
    assert "d2s doctor" in weights("verify", "d2s-base", fails=UsageError).hint


def test_files_of_an_entry_that_are_there_are_not_fetched_again(
    server: Unkind, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (server.url(name) for name in ("a.ckpt", "b.ckpt"))
    server.data = saved(lama())
    files = tuple(PublishedFile(url[-6:], "lama-2", (url,)) for url in (first, second))
    entry = Entry("tiny", "guide", "two files", "MIT", files, "lama")
    for module in (manifests, store, convert):
        monkeypatch.setattr(module, "manifest", lambda: {"tiny": entry})
    server.only = "/a.ckpt"
    weights("pull", "tiny", fails=WeightsError)
    server.only = ""
    weights("pull", "tiny")
    assert [path for path, _, _ in server.asked] == ["/a.ckpt", "/b.ckpt", "/b.ckpt"]
    assert [path.name for path in installed_files("tiny")] == ["a.safetensors", "b.safetensors"]


def test_names_are_suggested() -> None:
    assert "did you mean: wavepaint" in weights("pull", "wavepain", fails=UsageError).hint
    weights("list", "--kind", "x", fails=UsageError)


def test_list_and_where_load_nothing_heavy() -> None:
    code = (
        "import sys\nfrom d2s_cli.cli.app import app\n"
        "for words in (['list'], ['where']):\n"
        "    app(['weights', *words], standalone_mode=False)\n"
        "print(sorted({'torch', 'numpy', 'requests', 'PIL'} & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert run.stderr.strip() == "[]"
    assert "inception-fid" in run.stdout


def shapes_of(name: str) -> Shapes:
    spec = json.loads((Path(__file__).parent / "golden" / name).read_text())
    return {key: tuple(shape) for key, (shape, _) in spec.items()}


#: tensors by which each architecture is known, and one that inference does not need
KNOWN: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "lama-9": (
        {"generator.model.1.ffc.convl2l.weight": (64, 4, 7, 7)}
        | {f"generator.model.{i}.conv1.bn_l.weight": (3,) for i in range(5, 14)},
        "discriminator.x",
    ),
    "mat-256": (
        {
            "G_ema.synthesis.first_stage.conv_first.conv.weight": (180, 4, 3, 3),
            "G_ema.synthesis.dec.Dec_16x16.conv0.weight": (1,),
            "G_ema.synthesis.dec.Dec_256x256.conv0.weight": (1,),
        },
        "G.synthesis.first_stage.conv_first.conv.weight",
    ),
    "wavepaint-3": ({"wavemodules.0.conv.0.weight": (64, 3, 3, 3)}, "optimizer.x"),
    "edgeconnect-edge": ({"generator.encoder.1.weight_orig": (64, 3, 7, 7)}, "iteration"),
    "edgeconnect-inpaint": ({"module.encoder.1.weight": (64, 4, 7, 7)}, "iteration"),
    "diffir": (
        {
            "generator.G.patch_embed.proj.weight": (52, 4, 3, 3),
            "generator.denoise.resmlp.0.weight": (256, 513),
        },
        "generatorS1.G.patch_embed.proj.weight",
    ),
    "m2s-64": (
        {"time_embed.0.weight": (512, 128), "out.2.weight": (6, 128, 3, 3)}
        | {f"input_blocks.{i}.0.weight": (128, 3, 3, 3) for i in range(8)},
        "",
    ),
    "m2s-256": (
        {"time_embed.0.weight": (512, 128), "out.2.weight": (6, 128, 3, 3)}
        | {f"input_blocks.{i}.0.weight": (128, 3, 3, 3) for i in range(12)},
        "",
    ),
    "ddnm": ({"temb.dense.0.weight": (512, 128), "conv_in.weight": (128, 3, 3, 3)}, ""),
    "inception-fid": (
        {"Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3), "fc.weight": (1008, 2048)},
        "Conv2d_1a_3x3.bn.num_batches_tracked",
    ),
    "lpips-alex": ({"lin0.model.1.weight": (1, 64, 1, 1), "lin1.model.1.weight": (1, 192, 1, 1)},
                   "scaling_layer.shift"),
    "lpips-vgg": ({"lin0.model.1.weight": (1, 64, 1, 1), "lin1.model.1.weight": (1, 128, 1, 1)},
                  ""),
    "alexnet": (
        {"features.0.weight": (64, 3, 11, 11), "features.10.weight": (256, 256, 3, 3)},
        "classifier.1.weight",
    ),
    "vgg16": (
        {"features.0.weight": (64, 3, 3, 3), "features.28.weight": (512, 512, 3, 3)},
        "classifier.0.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("architecture", KNOWN)
def test_every_architecture_is_recognised(architecture: str) -> None:
    needed, other = KNOWN[architecture]
    match = recognise(needed | ({other: (7,)} if other else {}))
    assert match is not None
    assert match.architecture == architecture
    assert set(match.keep) == set(needed)


def test_the_published_palette_is_recognised() -> None:
    shapes = shapes_of("palette.spec.json")
    match = recognise(shapes | {"gammas": (2000,), "posterior_mean_coef1": (2000,)})
    assert match is not None
    assert (match.architecture, set(match.keep)) == ("palette", set(shapes))


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"fc.weight": (1000, 2048), "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3)},  # torchvision's
        {"features.0.weight": (64, 3, 3, 3), "features.28.weight": (512, 512, 3, 3),
         "features.34.weight": (512, 512, 3, 3), "features.30.weight": (512, 512, 3, 3)},  # VGG-19
        {"wavemodules.0.conv.0.weight": ()},
        {"lin0.model.1.weight": (), "lin1.model.1.weight": ()},
        {"time_embed.0.weight": (), "input_blocks.0.0.weight": ()},
        {"encoder.1.weight": (64, 3, 7, 7)},
        {"generator.denoise.resmlp.0.weight": (1,)},
    ],
)  # fmt: skip
def test_what_is_none_of_them_is_not(shapes: dict[str, tuple[int, ...]]) -> None:
    assert recognise(shapes) is None


def test_the_manifest_is_whole() -> None:
    known = manifest()
    assert {"inception-fid", "lpips-alex", "lpips-vgg", "palette"} <= set(known)
    for entry in known.values():
        assert store.NAME.fullmatch(entry.name)
        assert entry.kind in manifests.KINDS
        assert entry.licence
        assert entry.citation
        assert set(entry.needs) <= set(known)
        assert len({file.stored_name for file in entry.files}) == len(entry.files)
        for file in entry.files:
            assert file.sources or file.by_hand
            assert all(url.startswith("https://") for url in file.sources)
            assert file.sha256 == "" or len(bytes.fromhex(file.sha256)) == 32
            assert file.architecture in KNOWN.keys() | {
                "lama-18",
                "mat-512",
                "wavepaint-4",
                "palette",
            }


def test_every_guide_from_weights_has_an_entry() -> None:
    from d2s_cli.guides.registry import FROM_WEIGHTS

    guides = {entry.guide for entry in manifest().values() if entry.guide}
    assert guides <= set(FROM_WEIGHTS)
    assert set(FROM_WEIGHTS) - set(manifest()) == {"neural"}  # d2s trains it itself


def test_a_manifest_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    for text in ("x = ", "[a]\nkind = 1", "[a]\nfiles = [{}]"):
        path.write_text(text)
        with pytest.raises(WeightsError, match="is no list of weights"):
            read_manifest(path)


def test_the_manifest_goes_into_the_wheel() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    shipped = settings["tool"]["setuptools"]["data-files"]["share/d2s/weights"]
    assert "weights/manifest.toml" in shipped
    assert any(need.startswith("requests") for need in settings["project"]["dependencies"])
