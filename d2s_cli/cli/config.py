"""Settings files: d2s.toml here, then the user's; options and environment win over both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from d2s_cli.errors import UsageError

PROJECT_FILE = "d2s.toml"
#: --guide or --features with one of these runs a program or code in a file
RUNS_CODE = ("cmd:", "torchscript:")

Table = dict[str, Any]


def user_file() -> Path:
    """config.toml in the platform's settings folder."""
    import platformdirs

    return Path(platformdirs.user_config_dir("d2s", appauthor=False)) / "config.toml"


def settings_files(given: str | None) -> list[Path]:
    """Files to read, the strongest last. "none" reads none; a named file is read alone."""
    if given == "none":
        return []
    if given is not None:
        if not os.path.isfile(given):
            raise UsageError(f"no settings file at {given}", "try: --config none")
        return [Path(given)]
    return [path for path in (user_file(), Path(PROJECT_FILE)) if os.path.isfile(path)]


def option_defaults(
    files: list[Path], commands: dict[str, Table], named: bool = False
) -> dict[str, Table]:
    """New defaults by command and parameter name.

    Options at the top of a file hold for every command that has them; a table [inpaint] holds for
    that command alone.

    Args:
        files: see `settings_files`.
        commands: by command, parameter names by option name ("if-exists": "if_exists").
        named: the user asked for these very files.

    Raises:
        UsageError: unreadable file, a command or option that is not there, or a project file that
            was not asked for and would run code.
    """
    defaults: dict[str, Table] = {name: {} for name in commands}
    for path in files:
        table = _read(path)
        if path == Path(PROJECT_FILE) and not named:
            _refuse_code(table, path)
        everywhere = {key: value for key, value in table.items() if not isinstance(value, dict)}
        known = {option for options in commands.values() for option in options}
        for key, value in everywhere.items():
            _check(key, known, path, "option")
            for name, options in commands.items():
                if key in options:
                    defaults[name][options[key]] = value
        for name, section in table.items():
            if not isinstance(section, dict):
                continue
            _check(name, set(commands), path, "command")
            for key, value in section.items():
                _check(key, set(commands[name]), path, f"option of {name}")
                defaults[name][commands[name][key]] = value
    return defaults


def _refuse_code(table: Table, path: Path) -> None:
    """A folder of pictures may come from anybody: entering it must not run what is in it."""
    for section in (table, *(value for value in table.values() if isinstance(value, dict))):
        for option in ("guide", "features"):
            value = section.get(option)
            if isinstance(value, str) and value.startswith(RUNS_CODE):
                raise UsageError(
                    f"{path} asks to run a program: {option} = {value!r}",
                    f"if you trust it: --config {path}; if not: --config none\n"
                    "your own settings file may name such programs",
                )


def _read(path: Path) -> Table:
    import tomllib

    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read the settings file {path}: {error}") from error


def _check(key: str, known: set[str], path: Path, kind: str) -> None:
    if key in known:
        return
    import difflib

    near = difflib.get_close_matches(key, sorted(known), 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
    raise UsageError(f"{path}: there is no {kind} named {key!r}", hint)
