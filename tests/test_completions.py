"""Completion scripts, and what d2s answers to a shell that asks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from d2s_cli.cli import suggestions
from d2s_cli.cli.app import app
from d2s_cli.cli.completions import completion_script

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = {"bash": "d2s.bash", "zsh": "_d2s", "fish": "d2s.fish", "powershell": "d2s.ps1"}
MAIN = "import sys; sys.argv[0] = 'd2s'; from d2s_cli.cli.app import main; main()"


def ask(words: str, shell: str = "bash") -> str:
    """What d2s prints when a shell asks for suggestions for the last word."""
    asked = {
        "_D2S_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": words.split(" ")[-1],
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | asked
    run = subprocess.run(
        [sys.executable, "-c", MAIN], env=environment, capture_output=True, text=True, check=False
    )
    assert run.stderr == ""
    assert run.returncode == 0
    return run.stdout


@pytest.mark.parametrize("shell", FILES)
def test_the_scripts_in_the_repository_are_those_of_the_program(shell: str) -> None:
    result = CliRunner().invoke(app, ["completions", shell])
    assert result.exit_code == 0
    written = (REPOSITORY / "completions" / FILES[shell]).read_text()
    assert result.stdout == written, f"try: d2s completions {shell} > completions/{FILES[shell]}"


def test_zsh_finds_its_first_line_and_other_shells_keep_their_tab_key() -> None:
    assert completion_script("zsh").startswith("#compdef d2s\n")
    assert '_d2s_completion "$@"' in completion_script("zsh")
    assert "Set-PSReadLineKeyHandler" not in completion_script("powershell")


def test_an_unknown_shell_is_wrong_usage() -> None:
    result = CliRunner().invoke(app, ["completions", "tcsh"])
    assert "no completion for shell 'tcsh'" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "among", "not_among"),
    [
        ("d2s ", {"inpaint", "refine", "completions"}, {"--guide"}),
        ("d2s inp", {"inpaint"}, {"refine"}),
        ("d2s inpaint --gu", {"--guide"}, {"--grow"}),
        ("d2s refine --guide-o", {"--guide-outputs"}, {"--guide"}),
        ("d2s inpaint --guide t", {"telea"}, {"ns"}),
        ("d2s inpaint --weights ", {"d2s-base"}, set()),
        ("d2s mask ", {"check", "make", "edit", "preview"}, {"inpaint"}),
        ("d2s mask make --kind mat", {"mat-large", "mat-small"}, {"box"}),
        ("d2s weights ", {"list", "pull", "import", "verify", "info", "where", "remove"}, set()),
        ("d2s weights pull ", {"lama-traced", "inception-fid"}, {"d2s-base"}),
        ("d2s weights list --kind ", {"guide", "metric", "refiner"}, set()),
        ("d2s completions ", {"bash", "zsh", "fish", "powershell"}, set()),
    ],
)
def test_a_shell_gets_commands_options_and_values(
    words: str, among: set[str], not_among: set[str]
) -> None:
    suggested = set(ask(words).split())
    assert among <= suggested
    assert not not_among & suggested


@pytest.mark.parametrize("shell", FILES)
def test_every_shell_is_answered(shell: str) -> None:
    assert "--guide-outputs" in ask("d2s refine --guide-o", shell)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    command = tmp_path / "d2s"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{MAIN}" "$@"\n')
    command.chmod(0o755)
    asked = (
        f"source {REPOSITORY}/completions/d2s.bash; complete -p d2s;"
        " COMP_WORDS=(d2s inpaint --sam); COMP_CWORD=2; _d2s_completion d2s;"
        ' echo "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(
        ["bash", "--norc", "-c", asked], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "--sampler --samples"


def test_suggested_values_are_those_that_the_program_takes() -> None:
    from d2s_cli import runtime
    from d2s_cli.diffusion.sampling import SAMPLERS
    from d2s_cli.guides.registry import BY_PREFIX, guide_names
    from d2s_cli.images.draw_masks import KINDS, MIX
    from d2s_cli.images.edit_masks import JOINS
    from d2s_cli.images.masks import FITS, POLARITIES, MaskSettings
    from d2s_cli.images.picture_sets import PAIRINGS
    from d2s_cli.metrics.presets import PRESETS as EVALUATION_PRESETS
    from d2s_cli.metrics.scores import METRICS
    from d2s_cli.paper.dataset import FILTERS
    from d2s_cli.paper.plan import PARTS
    from d2s_cli.recipe import IF_EXISTS
    from d2s_cli.recipe import PRESETS as QUALITY_PRESETS
    from d2s_cli.training.data import DATA
    from d2s_cli.training.refiner import PRESETS
    from d2s_cli.training.run import MASKS, RATES
    from d2s_cli.weights.manifest import KINDS as KINDS_OF_WEIGHTS
    from d2s_cli.weights.manifest import manifest

    assert list(suggestions.GUIDES) == guide_names()
    assert suggestions.guides() == [*guide_names(), *(f"{prefix}:" for prefix in BY_PREFIX)]
    assert set(suggestions.SAMPLERS) == set(SAMPLERS)
    assert list(suggestions.QUALITY_PRESETS) == list(QUALITY_PRESETS)
    assert set(suggestions.POLARITIES) == set(POLARITIES)
    assert set(suggestions.FITS) == set(FITS)
    assert set(suggestions.IF_EXISTS) == set(IF_EXISTS)
    assert set(suggestions.PRECISIONS) == {"auto", *runtime.PRECISIONS}
    assert list(suggestions.MASK_KINDS) == [*KINDS, MIX]
    assert set(suggestions.JOINS) == set(JOINS)
    for source in suggestions.MASK_SOURCES:
        MaskSettings(source=source + "FF00FF" * source.endswith("#"))
    assert set(suggestions.PRESETS) == set(PRESETS)
    assert suggestions.DATA == DATA
    assert suggestions.TRAINING_MASKS == MASKS
    assert suggestions.LR_SCHEDULES == RATES
    assert list(suggestions.METRICS) == list(METRICS)
    assert list(suggestions.EVALUATION_PRESETS) == list(EVALUATION_PRESETS)
    assert suggestions.PAIRINGS == PAIRINGS
    assert suggestions.PAPER_PARTS == PARTS
    assert list(suggestions.RESIZE_FILTERS) == list(FILTERS)
    assert set(suggestions.WEIGHTS_KINDS) == set(KINDS_OF_WEIGHTS)
    assert suggestions.published_names() == list(manifest())


def processor_seconds(run: Callable[[], object], times: int = 5) -> float:
    """Of the child processes that `run` starts; the best of several."""
    resource = pytest.importorskip("resource")
    best = float("inf")
    for _ in range(times):
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        run()
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, ended.ru_utime - began.ru_utime + ended.ru_stime - began.ru_stime)
    return best


def python(*words: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, *words]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("words", [["--help"], ["--version"], []])
def test_help_version_and_completion_answer_at_once(words: list[str]) -> None:
    """0.1 to 0.3 s on an idle core. Machines are noisy, so the measure is what typer alone takes;
    loading torch takes more than ten times that."""
    typer_alone = processor_seconds(lambda: python("-c", "import typer"))
    ours = (lambda: python("-c", MAIN, *words)) if words else (lambda: ask("d2s inpaint --"))
    assert processor_seconds(ours) < 6 * typer_alone
