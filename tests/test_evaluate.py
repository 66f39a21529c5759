"""`d2s evaluate`, as a user types it."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import photo as scene_of
from PIL import Image
from test_cli import REPOSITORY, d2s, weights  # noqa: F401 (a fixture)

import d2s_cli
from d2s_cli.errors import D2SError
from d2s_cli.images.picture_sets import PictureSet, find_set, pair_sets
from d2s_cli.metrics import pixels
from d2s_cli.metrics.distances import frechet_of_features
from d2s_cli.metrics.seam import seam

COUNT, SIZE = 5, (64, 80)


class Tiny(torch.nn.Module):
    """Colour and contrast of the quarters of a picture: 24 features."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        square = torch.nn.functional.adaptive_avg_pool2d(x * x, 2).flatten(1)
        return torch.cat([mean, square], 1)


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "tiny.pt"
    torch.jit.trace(Tiny(), torch.rand(1, 3, 8, 8)).save(str(path))
    return path


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with truth/, results/ (filled by OpenCV) and masks/, to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("D2S_WEIGHTS_DIR", str(tmp_path / "weights"))
    for folder in ("truth", "results", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(COUNT):
        picture, hole = scene_of(*SIZE, seed=i), np.zeros(SIZE, np.uint8)
        hole[12 : 24 + 6 * i, 10 : 30 + 6 * i] = 255
        Image.fromarray(picture).save(tmp_path / f"truth/p{i}.png")
        Image.fromarray(hole).save(tmp_path / f"masks/p{i}.png")
        fill = cv2.inpaint(picture, hole, 3, cv2.INPAINT_TELEA)
        Image.fromarray(fill).save(tmp_path / f"results/p{i}_d2s.png")
    return tmp_path


def rgb(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def report(*words: object, code: int = 0) -> dict[str, Any]:
    result = d2s("evaluate", *words, "--json")
    assert result.exit_code == code, result.output
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    return dict(document)


def error_of(*words: object) -> D2SError:
    found = d2s("evaluate", *words).exception
    assert isinstance(found, D2SError)
    return found


def features_of(folder: Path) -> np.ndarray:
    rows = [
        Tiny()(torch.from_numpy(rgb(p).astype(np.float32) / 255).permute(2, 0, 1)[None])
        for p in sorted(folder.iterdir())
    ]
    return torch.cat(rows).numpy()


def test_pixels_and_seams_need_no_weights_and_are_means_over_pictures(sets: Path) -> None:
    document = report("results/", "--reference", "truth/", "--masks", "masks/")
    values = {name: score["value"] for name, score in document["scores"].items()}
    results, truths = ([rgb(p) for p in sorted((sets / d).iterdir())] for d in ("results", "truth"))
    holes = [rgb(p)[..., 0] > 0 for p in sorted((sets / "masks").iterdir())]
    triples = list(zip(results, truths, holes, strict=True))
    assert values["psnr"] == pytest.approx(np.mean([pixels.psnr(a, b) for a, b, _ in triples]))
    assert values["psnr-hole"] == pytest.approx(np.mean([pixels.psnr(*t) for t in triples]))
    assert values["ssim"] == pytest.approx(np.mean([pixels.ssim(a, b) for a, b, _ in triples]))
    assert values["l1-hole"] == pytest.approx(np.mean([pixels.l1(*t) for t in triples]))
    judged = [seam(a, h) for a, _, h in triples]
    assert values["seam"] == pytest.approx(np.mean([s.score for s in judged if s]))
    floor = [seam(b, h) for _, b, h in triples]
    detail = document["scores"]["seam"]["detail"]
    assert detail["floor"] == pytest.approx(np.mean([s.score for s in floor if s]))
    for score in document["scores"].values():
        assert score["count"] == COUNT
        assert score["low"] <= score["value"] <= score["high"]
    assert sum(one["count"] for one in document["bins"]) == COUNT
    assert [row["name"] for row in document["pictures"]] == [f"p{i}" for i in range(COUNT)]
    assert document["warnings"] == []


def test_the_python_function_gives_the_same(sets: Path, network: Path) -> None:
    scores = d2s_cli.evaluate(
        "results/", reference="truth/", metrics=["frechet", "pids", "uids", "kid"],
        features=f"torchscript:{network}", workers=0, batch=2,
    )  # fmt: skip
    fake, real = features_of(sets / "results"), features_of(sets / "truth")
    assert scores["frechet"] == pytest.approx(frechet_of_features(fake, real, 0), rel=1e-5)
    assert set(scores) == {"frechet", "pids", "uids", "kid"}
    assert scores.preset == "mat"
    assert callable(d2s_cli.evaluate)  # and stays the function once its module is loaded
    document = report(
        "results", "-R", "truth", "--features", f"torchscript:{network}", "--bootstrap", 20,
        "-M", "frechet", "-M", "kid", "-M", "uids", "-M", "pids",
    )  # fmt: skip
    for name, value in scores.items():
        assert document["scores"][name]["value"] == pytest.approx(value, rel=1e-6, abs=1e-9)
        assert document["scores"][name]["low"] is not None
    assert any("biased upwards" in warning for warning in document["warnings"])


def test_fid_by_every_preset_with_statistics_and_cache(sets: Path, inception_file: Path) -> None:
    for i in range(2, COUNT):
        (sets / f"truth/p{i}.png").unlink()
        (sets / f"results/p{i}_d2s.png").unlink()
    given = ("--metric-weights", inception_file)
    words = ("results", "-R", "truth", "-M", "fid", "-M", "is", *given)
    first = report(*words, "--save-stats", "truth.npz")
    assert first["recipe"]["weights"]["inception-fid"][0]["sha256"]
    assert any("not the published file" in w for w in first["warnings"])
    assert first["scores"]["is"]["value"] == pytest.approx(1)  # two splits of one picture each
    with np.load("truth.npz") as file:
        assert file["mu"].shape == (2048,)
        assert file["sigma"].shape == (2048, 2048)
        np.savez("other.npz", mu=file["mu"], sigma=file["sigma"])
    again = d2s("evaluate", *words, "--json")
    assert "come from an earlier evaluation" in again.stderr
    assert json.loads(again.stdout)["scores"] == first["scores"]
    by_file = report("results", "-R", "truth.npz", "-M", "fid", "-M", "pids", *given)
    assert by_file["scores"]["fid"]["value"] == pytest.approx(first["scores"]["fid"]["value"])
    foreign = report("results", "-R", "other.npz", "-M", "fid", *given)
    assert any("does not say which network" in w for w in foreign["warnings"])
    wrong = error_of("results", "-R", "truth.npz", "-M", "fid", "--preset", "clean", *given)
    assert (wrong.exit_code, "of other features" in wrong.message) == (4, True)
    wrong = error_of("results", "-R", "other.npz", "-M", "kid", *given)
    assert "mean and covariance alone" in wrong.message


def test_missing_weights_exit_5_and_say_what_to_type(sets: Path) -> None:
    for metric, name in (("fid", "inception-fid"), ("lpips", "lpips-alex"), ("lpips-vgg",) * 2):
        found = error_of("results", "-R", "truth", "-M", metric)
        assert found.exit_code == 5
        assert f"d2s weights pull {name}" in found.hint
        assert "d2s weights import" in found.hint


def test_lpips_takes_its_parts_from_wherever_they_are(sets: Path) -> None:
    trunk = {}
    shapes = {
        0: (64, 3, 11),
        3: (192, 64, 5),
        6: (384, 192, 3),
        8: (256, 384, 3),
        10: (256,) * 2 + (3,),
    }
    for number, (outputs, inputs, side) in shapes.items():
        trunk[f"features.{number}.weight"] = torch.randn(outputs, inputs, side, side) / side
        trunk[f"features.{number}.bias"] = torch.zeros(outputs)
    widths = [shape[0] for shape in shapes.values()]
    heads = {f"lin{i}.model.1.weight": torch.ones(1, w, 1, 1) / w for i, w in enumerate(widths)}
    torch.save(trunk, "trunk.pth")
    torch.save(heads, "heads.pth")
    torch.save(trunk | heads, "both.pth")
    words = ("results", "-R", "truth", "-M", "lpips", "--metric-weights")
    whole = report(*words, "both.pth")["scores"]["lpips-alex"]["value"]
    assert whole > 0
    parts = report(*words, "trunk.pth", "--metric-weights", "heads.pth")
    assert parts["scores"]["lpips-alex"]["value"] == pytest.approx(whole)
    assert "no weights for lpips-alex-trunk" in error_of(*words, "heads.pth").message
    (sets / "weights").mkdir()
    (sets / "heads.pth").rename(sets / "weights/alex.pth")
    assert report(*words, "lpips-alex=trunk.pth")["scores"] == parts["scores"]


def test_the_last_run_is_judged_by_its_manifest(sets: Path, weights: Path) -> None:  # noqa: F811
    run = d2s(
        "inpaint", "truth", "-m", "masks", "-o", "out", "-w", weights, "--guide", "telea", "-q"
    )
    assert run.exit_code == 0, run.output
    result = d2s("evaluate", "--metric", "psnr", "--metric", "seam", "--json")
    document = json.loads(result.stdout)
    assert "ground truth: the run's inputs" in result.stderr
    assert document["scores"]["psnr-hole"]["count"] == COUNT
    assert document["warnings"] == []
    same = report("out", "-R", "truth", "--masks", "masks", "-M", "psnr", "-M", "seam")
    assert same["scores"] == document["scores"]
    by_name = report("--reference", "truth", "-M", "psnr")
    assert by_name["scores"]["psnr"] == document["scores"]["psnr"]


def test_a_run_on_damaged_pictures_asks_for_the_truth(sets: Path, weights: Path) -> None:  # noqa: F811
    (sets / "damaged").mkdir()
    for i in range(COUNT):
        picture = rgb(sets / f"truth/p{i}.png").copy()
        picture[rgb(sets / f"masks/p{i}.png")[..., 0] > 0] = 255
        Image.fromarray(picture).save(sets / f"damaged/p{i}.png")
    words = ("damaged", "-m", "masks", "-o", "out", "-w", weights, "--guide", "telea", "-q")
    assert d2s("inpaint", *words).exit_code == 0
    found = error_of("--metric", "psnr")
    assert found.exit_code == 2
    assert "--reference FOLDER" in found.hint
    assert report("--metric", "seam")["scores"]["seam"]["count"] == COUNT
    assert report("--metric", "psnr", "-R", "truth")["scores"]["psnr"]["count"] == COUNT
    changed = report("--metric", "psnr", "-R", "inputs")["warnings"]
    assert changed == []  # known pixels of the inputs are those of the results


def test_holes_that_pictures_mark_themselves_are_found(sets: Path, weights: Path) -> None:  # noqa: F811
    (sets / "clear").mkdir()
    for i in range(COUNT):
        alpha = 255 - rgb(sets / f"masks/p{i}.png")[..., :1]
        picture = np.concatenate([rgb(sets / f"truth/p{i}.png"), alpha], axis=2)
        Image.fromarray(picture).save(sets / f"clear/p{i}.png")
    words = ("clear", "-o", "out", "-w", weights, "--guide", "telea", "-q")
    assert d2s("inpaint", *words).exit_code == 0
    found = report("--metric", "psnr", "-R", "truth")
    given = report("out", "-R", "truth", "--masks", "masks", "-M", "psnr")
    assert found["scores"] == given["scores"]


def test_nothing_to_judge_says_what_to_type(sets: Path) -> None:
    found = error_of("--metric", "psnr")
    assert found.exit_code == 2
    assert "d2s evaluate RESULTS --reference TRUTH" in found.hint


def test_a_damaged_cache_is_made_again(sets: Path, network: Path) -> None:
    words = ("results", "-R", "truth", "--features", f"torchscript:{network}")
    first = report(*words)
    (kept,) = (sets / "cache").rglob("*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    again = d2s("evaluate", *words, "--json")
    assert "features are computed again" in again.stderr
    assert json.loads(again.stdout)["scores"] == first["scores"]
    picture = rgb(sets / "truth/p0.png").copy()
    picture[0, 0] ^= 128
    Image.fromarray(picture).save(sets / "truth/p0.png")
    assert "earlier evaluation" not in d2s("evaluate", *words).stderr
    assert "earlier evaluation" in d2s("evaluate", *words).stderr


def test_tables_for_people_and_programs(sets: Path) -> None:
    words = ("results", "-R", "truth", "-M", "psnr", "-M", "l1")
    table = d2s("evaluate", *words).stdout
    assert "psnr ↑" in table
    assert "dB" in table
    (header, *rows) = list(csv.reader(io.StringIO(d2s("evaluate", *words, "--csv").stdout)))
    assert header[:2] == ["metric", "value"]
    value = report(*words)["scores"]["psnr"]["value"]
    assert float(dict(row[:2] for row in rows)["psnr"]) == value
    text = d2s("evaluate", *words, "--markdown").stdout
    assert text.splitlines()[1] == "|---|---|---|---|"
    assert error_of(*words, "--csv", "--json").exit_code == 2


def test_checks_exit_7_when_they_are_true(sets: Path) -> None:
    words = ("results", "-R", "truth", "-M", "psnr", "-M", "l1")
    assert d2s("evaluate", *words, "--fail-if", "psnr<5", "--fail-if", "l1 > 0.9").exit_code == 0
    failed = d2s("evaluate", *words, "--fail-if", "l1>=0")
    assert failed.exit_code == 7
    assert "check failed: l1>=0" in failed.stderr
    assert "l1 ↓" in failed.stdout
    for text in ("fid>3", "psnr=3", "psnr", "l1>x"):
        assert error_of(*words, "--fail-if", text).exit_code == 2


def test_what_cannot_be_judged_is_refused(sets: Path, network: Path) -> None:
    truth = ("-R", "truth")
    for words, code, text in (
        (("results", "-M", "psnr"), 2, "there are none"),
        (("results", *truth, "-M", "nonsense"), 2, "unknown metric"),
        (("results", *truth, "-M", "seam"), 2, "needs the holes"),
        (("results", *truth, "-M", "frechet"), 2, "needs --features"),
        (
            ("results", *truth, "-M", "fid", "--features", f"torchscript:{network}"),
            2,
            "own network",
        ),
        (("results", *truth, "--features", "magic:x"), 2, "unknown --features"),
        (("results", *truth, "--features", "onnx:none.onnx"), 5, "no network"),
        (("results", *truth, "--features", "torchscript:truth/p0.png"), 5, "no TorchScript"),
        (("results", *truth, "--preset", "best"), 2, "unknown preset"),
        (("nowhere", *truth), 4, "no picture or folder"),
        (("results", "-R", "truth.npz"), 4, "no statistics"),
        (("results", *truth, "--masks", "none"), 4, "no masks"),
        (("results", *truth, "--metric-weights", "x=y"), 2, "no weights are named"),
    ):
        found = error_of(*words)
        assert (found.exit_code, text in found.message) == (code, True), (words, found)


def test_faults_of_folders_are_named(sets: Path) -> None:
    (sets / "empty").mkdir()
    assert "no pictures in empty" in error_of("results", "-R", "empty").message
    (sets / "truth/p9.png").write_bytes((sets / "truth/p0.png").read_bytes())
    found = error_of("results", "-R", "truth")
    assert "1 in truth without partner in results: p9" in found.message
    assert "--matched-only" in found.hint
    assert report("results", "-R", "truth", "--matched-only")["scores"]["l1"]["count"] == COUNT
    assert (
        "cannot be matched by order"
        in error_of("results", "-R", "truth", "--pair", "order").message
    )
    (sets / "truth/p9.png").unlink()
    (sets / "results/p3_d2s.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    found = error_of("results", "-R", "truth")
    assert (found.exit_code, "results/p3_d2s.png" in found.message) == (4, True)
    scene = Image.fromarray(scene_of(30, 40))
    scene.save(sets / "results/p3_d2s.png")
    found = error_of("results", "-R", "truth")
    assert "40x30" in found.message
    assert "80x64" in found.message


def test_odd_pictures_are_warned_about(sets: Path) -> None:
    picture = Image.open(sets / "results/p0_d2s.png")
    picture.save(sets / "results/p0_d2s.jpg")
    (sets / "results/p0_d2s.png").unlink()
    picture.convert("RGBA").save(sets / "results/p1_d2s.png")
    warnings = " ".join(report("results", "-R", "truth", "--masks", "masks")["warnings"])
    for text in ("1 of 5 results are JPEG", "mixed formats: 1 JPEG, 4 PNG", "alpha channel"):
        assert text in warnings
    # the wrong ground truth: known pixels differ
    assert "known pixels differ from the reference in 2 of 5" in warnings
    warnings = report("results", "-R", "truth", "--masks", "masks", "--polarity", "black")[
        "warnings"
    ]
    assert any("in 5 of 5" in warning for warning in warnings)
    words = ("results", "-R", "truth", "--masks", "masks", "--polarity", "auto")
    assert "masks/p0.png: white is taken as the hole" in d2s("evaluate", *words).stderr
    for i in range(COUNT):
        scene = Image.fromarray(rgb(sets / f"truth/p{i}.png") ^ 1)
        scene.save(sets / f"truth/p{i}.png")
    warnings = report("results", "-R", "truth", "-M", "l1")["warnings"]
    assert any("share hardly any pixel" in warning for warning in warnings)


def test_equal_pictures_have_infinite_psnr_which_is_said(sets: Path) -> None:
    document = report("truth", "-R", "truth", "-M", "psnr", "-M", "ssim")
    assert document["scores"]["psnr"]["value"] is None
    assert document["scores"]["psnr"]["detail"] == {"equal_pictures": COUNT}
    assert document["scores"]["ssim"]["value"] == pytest.approx(1)
    assert any("infinite" in warning for warning in document["warnings"])


def test_lists_and_orders(sets: Path) -> None:
    lines = ["# the second half", "", *(f"results/p{i}_d2s.png" for i in (3, 4))]
    (sets / "some.txt").write_text("\n".join(lines))
    found = report("some.txt", "-R", "truth", "--matched-only", "-M", "l1")
    assert [row["name"] for row in found["pictures"]] == ["p3", "p4"]
    (sets / "bad.txt").write_text("results/p3_d2s.png\nnowhere.png")
    assert "line 2: no picture at nowhere.png" in error_of("bad.txt", "-R", "truth").message
    by_order = report("results", "-R", "truth", "--masks", "masks", "--pair", "order")
    assert by_order["scores"] == report("results", "-R", "truth", "--masks", "masks")["scores"]


def test_names_of_tools_and_trees_are_matched() -> None:
    def made(*names: str) -> PictureSet:
        return PictureSet(Path("x"), tuple(map(Path, names)), names)

    truths = made("a/1", "b/1", "c_out")
    assert pair_sets(made("b/1_inpainted", "a/Out_1", "c_out"), truths) == [(0, 1), (1, 0), (2, 2)]
    with pytest.raises(D2SError, match="two results"):
        pair_sets(made("a/1", "a/1_d2s", "b/1"), truths)
    assert pair_sets(made("x", "y"), truths, "order", matched_only=True) == [(0, 0), (1, 1)]


def test_folders_are_read_in_order_and_below_only_if_asked(sets: Path) -> None:
    (sets / "truth/more").mkdir()
    (sets / "truth/p0.png").rename(sets / "truth/more/p0.png")
    assert find_set(sets / "truth").names == ("p1", "p2", "p3", "p4")
    assert "more/p0" in find_set(sets / "truth", recursive=True).names


def test_an_onnx_network_gives_the_same_distances(sets: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    size = ["N", 3, "H", "W"]
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, 1, size) for name in ("x", "y")]
    graph = helper.make_graph([node], "means", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (sets / "means.onnx").write_bytes(model.SerializeToString())
    found = report("results", "-R", "truth", "--features", "onnx:means.onnx")
    sides = [
        np.stack([rgb(p).mean(axis=(0, 1)) / 255 for p in sorted((sets / folder).iterdir())])
        for folder in ("results", "truth")
    ]
    wanted = frechet_of_features(*(side.astype(np.float32) for side in sides), ddof=0)
    assert found["scores"]["frechet"]["value"] == pytest.approx(wanted, rel=1e-3)


def test_a_folders_own_settings_may_not_name_a_network_that_runs_code(
    sets: Path, network: Path
) -> None:
    (sets / "d2s.toml").write_text(f'[evaluate]\nfeatures = "torchscript:{network}"\n')
    found = error_of("results", "-R", "truth")
    assert (found.exit_code, "asks to run a program" in found.message) == (2, True)


def test_features_that_are_no_numbers_end_the_evaluation(sets: Path) -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(2, 3)).log() * 0 / 0

    torch.jit.trace(Broken(), torch.rand(1, 3, 8, 8)).save("broken.pt")
    found = error_of("results", "-R", "truth", "--features", "torchscript:broken.pt")
    assert (found.exit_code, "no numbers" in found.message) == (4, True)


def test_two_ranks_give_the_numbers_of_one(sets: Path, network: Path) -> None:
    words = [
        "evaluate", "results", "-R", "truth", "--masks", "masks", "--json", "-b", "1", "--no-cache",
        "-M", "frechet", "-M", "pids", "-M", "psnr", "-M", "seam",
        "--features", f"torchscript:{network}",
    ]  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "d2s_cli", *words]
    runs = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank), "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert outputs[1] == ""
    alone = report(*words[1:])
    assert json.loads(outputs[0])["scores"] == alone["scores"]
    assert json.loads(outputs[0])["pictures"] == alone["pictures"]
