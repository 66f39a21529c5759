"""Training at scale: several processes, workers, fine-tuning, validation, and what may go wrong."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import signal
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUICK, filled, make_weights, photo
from PIL import Image
from processes import first_of_two, pickled, start
from typer.testing import CliRunner

from d2s_cli.cli import train as train_command
from d2s_cli.cli.app import app
from d2s_cli.diffusion.loading import load_refiner
from d2s_cli.diffusion.loss import min_snr_weights, training_loss
from d2s_cli.diffusion.refiner import Refiner, RefinerConfig
from d2s_cli.diffusion.unet import UNet, UNetConfig
from d2s_cli.errors import D2SError, InputError, UsageError, WeightsError
from d2s_cli.ranks import Ranks, local_device
from d2s_cli.runtime import Compute
from d2s_cli.training import samples, utilisation, validation
from d2s_cli.training.checkpoints import CHECKPOINT
from d2s_cli.training.data import draw_example, make_batch
from d2s_cli.training.logbook import BOARD, LOG, Logbook
from d2s_cli.training.pictures import PictureFiles, load_photos
from d2s_cli.training.refiner import (
    EXPORT,
    PAPER,
    Drawing,
    RefinerTrainer,
    TrainConfig,
    fine_tuning,
    train,
)
from d2s_cli.training.run import Pace, Progress
from d2s_cli.training.streams import open_stream

REPOSITORY = Path(__file__).resolve().parents[1]
CPU = Compute(torch.device("cpu"))
RUN = TrainConfig(
    unet=QUICK,
    prediction="v",
    images=30,
    batch=5,
    sizes=(32,),
    learning_rate=1e-3,
    table_steps=1000,
    tk_max=400,
    masks="mixed",
    per_hole=True,
)
#: a run in a process of its own, as the pickle says; argument 2 is when it stops, 3 when it dies
SCRIPT = """
import os, pickle, signal, sys
sys.modules["torch.utils.tensorboard"] = None  # takes long to import
import torch
from d2s_cli.runtime import Compute
from d2s_cli.training import refiner, run, samples
torch.set_num_threads(1)
samples.SIZE, samples.COUNT = 32, 2
folder, output, config = pickle.load(open(sys.argv[1], "rb"))
stop_at, die_at = int(sys.argv[2]), int(sys.argv[3])
steps, saves, save = [], [], torch.save
def stop():
    steps.append(1)
    return len(steps) > stop_at
def save_and_die(state, file):
    saves.append(1)
    if len(saves) == die_at:
        file.write(b"half a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(state, file)
torch.save = save_and_die
pace = run.Pace(stop=stop, save_every=0 if die_at else 1000)
refiner.train([folder], output, config, Compute(torch.device("cpu")), pace)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos")
    for i in range(6):
        Image.fromarray(photo(70 + i, 90, i)).save(path / f"{i}.png")
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at on the way would take longer than the training here."""
    monkeypatch.setattr(samples, "SIZE", 32)
    monkeypatch.setattr(samples, "COUNT", 2)
    monkeypatch.setattr(validation, "COUNT", 4)
    monkeypatch.setattr(validation, "STEPS", 2)
    monkeypatch.setattr(utilisation, "TRIAL_SECONDS", 0.001)


def weights_of(trainer: RefinerTrainer) -> dict[str, torch.Tensor]:
    return trainer.refiner.unet.state_dict()


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return float(torch.cat([(a[key] - b[key]).flatten() for key in a]).norm())


# several processes


def test_two_processes_make_the_weights_of_one_and_stop_together(
    folder: Path, tmp_path: Path
) -> None:
    """Uneven shares, steps with fewer examples than processes, and one process that goes on.

    The first process is this one. Only the other is told to stop.
    """
    config = dataclasses.replace(
        RUN, sizes=(32, 64), size_shares=(0.5, 0.5), min_snr=5.0, images=36
    )
    assert {config.size_of(step)[1] for step in range(6)} == {1, 5}
    job = pickled(tmp_path / "job", folder, tmp_path / "shared", config)
    with first_of_two(SCRIPT, [job, "6", "0"]):
        train([folder], tmp_path / "shared", config, CPU)
    alone = train([folder], tmp_path / "alone", config, CPU, Pace(stop=stop_after(6)))
    states = [torch.load(tmp_path / name / CHECKPOINT) for name in ("shared", "alone")]
    assert [(s["images"], s["step"]) for s in states] == [(alone.images, 6)] * 2
    # Adam makes steps of rounding errors where a gradient is nothing else, as that of a bias before
    # a norm; its mean of gradients tells these apart
    moments = [{str(k): v["exp_avg"] for k, v in s["optimizer"]["state"].items()} for s in states]
    largest = max(float(v.abs().max()) for v in moments[1].values())
    assert largest_difference(*moments) < 1e-3 * largest
    began = RefinerTrainer(config, tmp_path, CPU).ema.average
    moved = distance(states[1]["unet"], began)
    assert moved > 0.1
    assert distance(states[0]["unet"], states[1]["unet"]) < 0.01 * moved
    assert distance(states[0]["ema"], states[1]["ema"]) < 0.01 * moved
    ends = [train([folder], tmp_path / name, config, CPU) for name in ("shared", "alone")]
    assert ends[0].images == ends[1].images >= 36
    assert distance(*map(weights_of, ends)) < 0.01 * moved


def stop_after(steps: int) -> Any:
    asked = count()
    return lambda: next(asked) >= steps


def test_shares_are_whole_and_do_not_overlap() -> None:
    for size in (1, 2, 3, 7):
        shares = [RUN.share(0, Ranks(rank, size)) for rank in range(size)]
        assert sorted(i for share in shares for i in share) == list(range(5))


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [local_device(name) for name in ("cuda", "cpu", "cuda:1")] == ["cuda:3", "cpu", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device("auto") == "auto"


# recipes


def test_the_cosine_begins_after_warm_up_and_ends_at_nothing() -> None:
    config = dataclasses.replace(RUN, images=1100, warmup=100, lr_schedule="cosine")
    rates = [config.rate_at(i) / config.learning_rate for i in (45, 100, 350, 600, 850, 1100)]
    half = np.sqrt(0.5)
    assert rates == pytest.approx([0.5, 1, (1 + half) / 2, 0.5, (1 - half) / 2, 0])


def test_min_snr_weights_are_the_published_ones() -> None:
    snr = torch.tensor([0.01, 1.0, 5.0, 50.0])
    alpha_bar = snr / (1 + snr)
    eps = min_snr_weights(alpha_bar, 5, "eps")
    assert eps.tolist() == pytest.approx([1, 1, 1, 0.1], rel=1e-4)
    v = min_snr_weights(alpha_bar, 5, "v")
    assert v.tolist() == pytest.approx([0.01 / 1.01, 0.5, 5 / 6, 5 / 51], rel=1e-4)


def test_min_snr_trains_otherwise(folder: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(RUN, images=10)
    plain = train([folder], tmp_path / "plain", config, CPU)
    weighted = train([folder], tmp_path / "snr", dataclasses.replace(config, min_snr=5.0), CPU)
    assert largest_difference(weights_of(plain), weights_of(weighted)) > 0


@pytest.mark.parametrize(
    "change", [{"min_snr": 0.0}, {"data": "tiles"}, {"masks": "none"}, {"lr_schedule": "step"}]
)
def test_unknown_recipes_are_errors(folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        train([folder], tmp_path, dataclasses.replace(RUN, **change), CPU)


def test_aligned_pictures_are_whole_and_only_mirrored() -> None:
    picture = photo(64, 64)
    seen = [draw_example([picture], 0, i, 64, "paper", "aligned").image for i in range(12)]
    mirrored = [np.array_equal(image, picture[:, ::-1]) for image in seen]
    assert all(m or np.array_equal(image, picture) for m, image in zip(mirrored, seen, strict=True))
    assert 0 < sum(mirrored) < 12
    wide = draw_example([photo(64, 100)], 0, 0, 32, "paper", "aligned").image
    assert wide.shape == (32, 32, 3)


def test_gradients_are_the_same_with_checkpointing() -> None:
    unet = filled(UNet(dataclasses.replace(QUICK, dropout=0.3))).requires_grad_(True).train()
    refiner = Refiner(unet, RefinerConfig(unet=QUICK))
    batch = make_batch([draw_example([photo(64, 64)], 0, i, 32, "mixed") for i in range(2)])
    noises = torch.randn(2, *batch.image.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for again in (False, True):
        unet.checkpointing = again
        unet.zero_grad()
        torch.manual_seed(0)
        levels = torch.tensor([0.9, 0.5])
        training_loss(refiner, batch.image, batch.hole, *noises, levels).backward()
        found.append([p.grad.clone() for p in unet.parameters() if p.grad is not None])
    assert len(found[0]) == len(list(unet.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# from another refiner


def test_a_run_begins_with_the_given_refiner_and_keeps_its_kind(
    folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    make_weights(tmp_path / "given.safetensors", seed=5)
    given = load_refiner(tmp_path / "given.safetensors")
    config = fine_tuning(dataclasses.replace(RUN, unet=PAPER.unet, prediction="eps"), given)
    assert config.unet == dataclasses.replace(QUICK, dropout=PAPER.unet.dropout)
    assert (config.prediction, config.init) == ("v", "given")
    still = dataclasses.replace(config, learning_rate=0.0, images=5)
    trainer = train([folder], tmp_path / "run", still, CPU, init=given)
    for found in (weights_of(trainer), trainer.ema.average):
        assert largest_difference(found, given.unet.state_dict()) < 1e-7
    # a run that has begun goes on from its own checkpoint
    moving = dataclasses.replace(still, learning_rate=1e-2, images=15)
    further = train([folder], tmp_path / "run", moving, CPU, init=given)
    assert further.step_number == 3
    away = largest_difference(weights_of(further), given.unet.state_dict())
    assert away > 1e-3


def test_a_published_checkpoint_can_be_gone_on_from(
    published_checkpoint: Path, tmp_path: Path
) -> None:
    given = load_refiner(published_checkpoint)
    config = fine_tuning(PAPER, given)
    assert config.prediction == "eps"
    trainer = RefinerTrainer(config, tmp_path, CPU)
    trainer.start_from(given)
    assert largest_difference(weights_of(trainer), given.unet.state_dict()) == 0


# pictures decoded by workers


def test_workers_draw_the_examples_of_memory_and_name_what_is_gone(
    folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "cut.png").write_bytes((folder / "0.png").read_bytes()[:900])
    ranks = Ranks(1, 2)
    memory = Drawing(load_photos([tmp_path]), RUN, ranks)
    files = Drawing(PictureFiles.find([tmp_path]), RUN, ranks)
    stream = open_stream(files, 3, workers=1)
    try:
        for step, batch in enumerate(islice(stream, 3), 3):
            expected = memory(step)
            assert torch.equal(batch.image, expected.image)
            assert torch.equal(batch.hole, expected.hole)
        for path in tmp_path.glob("*.png"):
            path.unlink()
        with pytest.raises(InputError, match="no longer"):
            list(islice(stream, 6))
    finally:
        stream.close()


# validation and records


def test_validation_is_logged_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    told: list[int] = []
    pace = Pace(validate_every=10, validated=lambda images, values: told.append(images))
    watched = train([folder], tmp_path / "watched", RUN, CPU, pace, held_out=[folder])
    plain = train([folder], tmp_path / "plain", RUN, CPU)
    assert told == [10, 20, 30]
    assert largest_difference(weights_of(watched), weights_of(plain)) == 0
    lines = [json.loads(line) for line in (tmp_path / "watched" / LOG).read_text().splitlines()]
    values = [line["validation"] for line in lines if "validation" in line]
    assert len(values) == 3
    assert len(values[0]["loss_at"]) == validation.LEVELS
    assert values[-1]["loss"] < values[0]["loss"]
    assert 5 < values[-1]["psnr"] < 60
    assert 0 < values[-1]["l1"] < 0.5
    assert 0 <= values[-1]["seam"] <= 1


def test_validation_has_the_same_values_each_time_and_perfect_ones_for_the_truth(
    folder: Path, tiny_refiner: Refiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = validation.Validation(load_photos([folder]), 32, "mixed", "crops", [0.9, 0.5])
    first = held_out.values(tiny_refiner)
    torch.manual_seed(1)
    assert held_out.values(tiny_refiner) == first
    truth = np.stack([e.image for e in held_out._examples])
    monkeypatch.setattr(validation.Validation, "_refined", lambda *given: truth)
    best = held_out.values(tiny_refiner)
    assert (best["l1"], best["psnr"]) == (0, validation.BEST_PSNR)
    assert best["loss"] == first["loss"]


def test_the_log_goes_on_where_the_checkpoint_stands(tmp_path: Path) -> None:
    book = Logbook(tmp_path, 0)
    for images in (10, 20, 30):
        book.write(images, {"loss": 1.0})
    book.close()
    with open(tmp_path / LOG, "a") as file:
        file.write('{"images": 15, "lo')
    Logbook(tmp_path, 20).close()
    assert [json.loads(line)["images"] for line in (tmp_path / LOG).read_text().splitlines()] == [
        10,
        20,
    ]


def test_tensorboard_gets_the_numbers_where_it_is_installed(tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    book = Logbook(tmp_path, 0)
    book.write(7, {"loss": 0.5, "validation": {"loss_at": {"0.9": 0.25}}, "utilisation": None})
    book.close()
    events = reading.EventAccumulator(str(tmp_path / BOARD)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "validation/loss_at/0.9"}
    (event,) = events.Scalars("loss")
    assert (event.step, event.value) == (7, 0.5)


def test_operations_are_counted_and_compared_with_the_machine(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one level, one block: by hand, in products of 32 x 32 pixels
    unet = UNetConfig(32, (1,), 1)
    wide = 9 * 32 * 32
    blocks = 2 * wide * 3 + 2 * (9 * 64 * 32 + wide + 64 * 32)
    ends = 9 * 6 * 32 + 9 * 32 * 3
    attention = 4 * 32 * 32 + 2 * 32 * 32**2
    by_hand = 3 * 2 * 32**2 * (blocks + ends + attention)
    assert utilisation.operations(unet, 32) == pytest.approx(by_hand, rel=0.01)
    monkeypatch.setattr(utilisation, "convolution_rate", lambda compute: 1e9)
    told: list[Progress] = []
    train([folder], tmp_path, RUN, CPU, Pace(told.append, report_every=0))
    assert all(p.operations_per_second == pytest.approx(1e9 * (p.utilisation or 0)) for p in told)
    assert min(p.operations_per_second or 0 for p in told) > 1e6


def test_a_convolution_has_a_rate() -> None:
    assert utilisation.convolution_rate(CPU) > 1e6


# what may go wrong


def test_a_full_disk_leaves_the_checkpoint_and_the_run_whole(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resource = pytest.importorskip("resource")
    train([folder], tmp_path, dataclasses.replace(RUN, images=10), CPU)
    files = [tmp_path / CHECKPOINT, tmp_path / EXPORT]
    before = [path.read_bytes() for path in files]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before[0]) // 2, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot be written") as failure:
            train([folder], tmp_path, RUN, CPU, Pace(save_every=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "make room" in failure.value.hint
    assert caplog.text.count("training goes on") == 4
    assert [path.read_bytes() for path in files] == before
    assert not list(tmp_path.glob("*.part"))
    resumed = train([folder], tmp_path, RUN, CPU)
    straight = train([folder], tmp_path / "straight", RUN, CPU)
    assert largest_difference(weights_of(resumed), weights_of(straight)) == 0


def test_an_export_that_cannot_be_written_is_an_error_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("d2s_cli.training.refiner.write_safetensors", full)
    with pytest.raises(InputError, match="No space left"):
        train([folder], tmp_path, dataclasses.replace(RUN, images=5), CPU)
    assert torch.load(tmp_path / CHECKPOINT)["images"] == 5


def test_a_log_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = Logbook(tmp_path, 0)
    (tmp_path / LOG).mkdir()
    with caplog.at_level(logging.WARNING):
        book.write(1, {"loss": 1.0})
        book.write(2, {"loss": 1.0})
    book.close()
    assert caplog.text.count("cannot write") == 1


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(
    folder: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    job = pickled(tmp_path / "job", folder, tmp_path / "killed", RUN)
    run = start(SCRIPT, [job, "99", "3"])
    errors = run.communicate(timeout=300)[1]
    assert run.returncode == -signal.SIGKILL, errors
    torch.set_num_threads(1)  # as that process: sums of more threads are rounded otherwise
    assert torch.load(tmp_path / "killed" / CHECKPOINT)["step"] == 2
    assert (tmp_path / "killed" / (CHECKPOINT + ".part")).is_file()
    resumed = train([folder], tmp_path / "killed", RUN, CPU)
    straight = train([folder], tmp_path / "straight", RUN, CPU)
    torch.set_num_threads(threads)
    assert largest_difference(weights_of(resumed), weights_of(straight)) == 0
    assert largest_difference(resumed.ema.average, straight.ema.average) == 0
    assert not list((tmp_path / "killed").glob("*.part"))


@pytest.mark.parametrize("name", ["loss", "gradient"])
def test_numbers_that_are_none_end_the_run_and_spare_the_checkpoint(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train([folder], tmp_path, dataclasses.replace(RUN, images=10), CPU)
    before = (tmp_path / CHECKPOINT).read_bytes()
    if name == "loss":
        broken = lambda *given: torch.full((5, 3, 32, 32), np.nan)  # noqa: E731
        monkeypatch.setattr("d2s_cli.training.refiner.squared_error", broken)
    else:
        broken = lambda *given: torch.tensor(np.inf)  # noqa: E731
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", broken)
    with pytest.raises(WeightsError, match=name):
        train([folder], tmp_path, RUN, CPU)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_checkpoint_of_before_still_resumes(folder: Path, tmp_path: Path) -> None:
    """Of versions that knew none of the settings since."""
    trainer = train([folder], tmp_path, dataclasses.replace(RUN, images=10), CPU)
    state = torch.load(tmp_path / CHECKPOINT)
    assert set(state) == {"unet", "ema", "optimizer", "images", "step", "network"}
    again = RefinerTrainer(RUN, tmp_path, CPU)
    assert again.resume()
    assert largest_difference(weights_of(trainer), weights_of(again)) == 0


def test_a_damaged_checkpoint_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"half a checkpoint")
    with pytest.raises(WeightsError, match=CHECKPOINT):
        train([folder], tmp_path, RUN, CPU)
    assert (tmp_path / CHECKPOINT).read_bytes() == b"half a checkpoint"


# command


def run_command(*words: str) -> D2SError | None:
    result = CliRunner().invoke(app, ["train", *words])
    if isinstance(result.exception, D2SError):
        return result.exception
    assert result.exit_code == 0, result.exception
    return None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model", "guide", "--checkpointing", "--min-snr", "5"],
            "--min-snr, --checkpointing: for refiners",
        ),
        (["--smoother", "neural"], "--smoother is for --model guide"),
        (["--workers", "many"], "--workers must be"),
        (["--workers", "0"], "--workers must be"),
        (["--size", "8"], "--size must be"),
        (["--masks", "none"], "unknown masks"),
        (["--data", "tiles"], "unknown data"),
    ],
)
def test_options_that_make_no_sense_are_named(
    folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    error = run_command(str(folder), "-o", str(tmp_path / "out"), *words)
    assert isinstance(error, UsageError)
    assert message in error.message
    assert not (tmp_path / "out").exists()


def test_the_command_trains_from_a_refiner_with_held_out_pictures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_weights(tmp_path / "given.safetensors")
    said: list[str] = []
    monkeypatch.setattr(train_command, "say", said.append)
    error = run_command(
        str(folder), "-o", str(tmp_path / "run"), "--init", str(tmp_path / "given.safetensors"),
        "--data", "aligned", "--size", "32", "--masks", "paper", "--images", "8", "-b", "4",
        "--lr-schedule", "cosine", "--warmup", "0", "--checkpointing", "--min-snr", "5",
        "--val", str(folder), "--val-every", "4", "-d", "cpu", "--precision", "fp32",
    )  # fmt: skip
    assert error is None
    assert sum("held out: loss" in line for line in said) == 2
    recipe = load_refiner(tmp_path / "run" / EXPORT).config.about["recipe"]
    assert recipe["init"] == "given"
    assert (recipe["data"], recipe["sizes"], recipe["masks"]) == ("aligned", [32], "paper")
    assert (recipe["lr_schedule"], recipe["min_snr"], recipe["checkpointing"]) == (
        "cosine",
        5,
        True,
    )
