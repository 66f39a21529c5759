"""`--set NAME=VALUE`: fields of a training run's configuration, given as text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from d2s_cli.cli.app import app
from d2s_cli.errors import UsageError
from d2s_cli.training.guide_data import GuideConfig
from d2s_cli.training.refiner import MODERN
from d2s_cli.training.settings import with_settings
from d2s_cli.weights.reading import read_weights


def test_text_becomes_values_of_the_fields_types() -> None:
    changed = with_settings(
        MODERN,
        [
            "sizes=64, 96",
            "size_shares=0.5,0.5",
            "tk_max=none",
            "min_snr=5",
            "per_hole=no",
            "unet.inner_channels=96",
            "unet.channel_mults=1,2",
            "init=a=b",
        ],
    )
    assert changed == dataclasses.replace(
        MODERN,
        sizes=(64, 96),
        size_shares=(0.5, 0.5),
        tk_max=None,
        min_snr=5.0,
        per_hole=False,
        unet=dataclasses.replace(MODERN.unet, inner_channels=96, channel_mults=(1, 2)),
        init="a=b",
    )
    assert isinstance(changed.min_snr, float)


def test_nothing_set_is_the_recipe_itself() -> None:
    assert with_settings(MODERN, []) == MODERN


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("style", "NAME=VALUE"),
        ("stile=4", "no 'stile'"),
        ("style=much", "'much' is no float"),
        ("batch=2.5", "'2.5' is no int"),
        ("network=1", "network has parts"),
        ("network.depth=1", "no 'depth'"),
        ("batch.size=1", "batch has no parts"),
        ("network.widths=1,2", "3 values"),
        ("batch=none", "'none' is no int"),
    ],
)
def test_what_cannot_be_set_is_said(setting: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        with_settings(GuideConfig(), [setting])


def test_a_network_of_another_size_from_the_command_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(2):
        picture = rng.integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / "photos" / f"{i}.png")
    train = [
        "train",
        str(tmp_path / "photos"),
        "--size",
        "32",
        "--images",
        "2",
        "-b",
        "2",
        "-d",
        "cpu",
    ]
    small = ["unet.inner_channels=32", "unet.channel_mults=1,1"]
    options = [word for setting in small for word in ("--set", setting)]
    result = CliRunner().invoke(app, [*train, *options, "-o", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    _, header = read_weights(tmp_path / "run" / "refiner.safetensors")
    assert header["unet"]["inner_channels"] == 32


def test_sizes_and_shares_that_do_not_fit_are_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    result = CliRunner().invoke(app, ["train", str(tmp_path / "photos"), "--set", "sizes=64,96"])
    assert isinstance(result.exception, UsageError)
    assert "do not fit" in str(result.exception)
