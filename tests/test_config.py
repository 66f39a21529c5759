"""Settings files and environment variables, in their order."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from d2s_cli.cli import config
from d2s_cli.cli.app import app
from d2s_cli.errors import UsageError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no user file but the test's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "user_file", lambda: tmp_path / "user.toml")
    return tmp_path


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(words), env=environment)


def complaint(result: Result) -> str:
    """What the sampler's check says shows which value arrived."""
    assert isinstance(result.exception, UsageError)
    return str(result.exception)


def restore(*words: str, **environment: str) -> str:
    from PIL import Image

    Image.new("RGB", (64, 64)).save("a.png")
    Image.new("L", (64, 64)).save("a_mask.png")
    return complaint(run(*words, "inpaint", "a.png", **environment))


def test_options_come_from_the_file_in_this_folder(here: Path) -> None:
    (here / "d2s.toml").write_text('progress = "from-file"\n')
    assert "from-file" in restore()


def test_a_commands_table_wins_over_the_top_of_the_file(here: Path) -> None:
    (here / "d2s.toml").write_text('progress = "top"\n[inpaint]\nprogress = "table"\n')
    assert "'table'" in restore()


def test_the_project_wins_over_the_user_and_the_environment_over_both(here: Path) -> None:
    (here / "user.toml").write_text('progress = "user"\n')
    assert "'user'" in restore()
    (here / "d2s.toml").write_text('progress = "project"\n')
    assert "'project'" in restore()
    assert "'environment'" in restore(D2S_PROGRESS="environment")


def test_a_named_file_is_read_alone_and_none_reads_none(here: Path) -> None:
    (here / "d2s.toml").write_text('progress = "project"\n')
    (here / "mine.toml").write_text('polarity = "mine"\n')
    assert "unknown --polarity 'mine'" in restore("--config", "mine.toml")
    (here / "d2s.toml").write_text("nonsense = 1\n")
    assert run("--config", "none", "inpaint", "--help").exit_code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("polarty = 'white'", "did you mean polarity?"),
        ("[inpant]\nseed = 1", "did you mean inpaint?"),
        ("[train]\npolarity = 'white'", "no option of train"),
        ("seed = = 1", "cannot read the settings file"),
    ],
)
def test_mistakes_are_named_with_their_file(here: Path, text: str, said: str) -> None:
    (here / "d2s.toml").write_text(text)
    message = restore()
    assert said in message
    assert "d2s.toml" in message


def test_a_missing_file_is_an_error() -> None:
    assert "no settings file at nowhere.toml" in restore("--config", "nowhere.toml")
