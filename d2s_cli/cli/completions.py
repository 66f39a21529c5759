"""`d2s completions`."""

from __future__ import annotations

from typing import Annotated

import typer

from d2s_cli.cli.suggestions import SHELLS, one_of
from d2s_cli.errors import UsageError

#: what a running shell sets to ask for suggestions
VARIABLE = "_D2S_COMPLETE"
#: zsh runs a file from its function path as the body of a function: registering alone would leave
#: the first press of Tab without an answer
_ZSH_END = """\
if [[ $funcstack[1] == _d2s ]]; then
  _d2s_completion "$@"
else
  compdef _d2s_completion d2s
fi"""


def completion_script(shell: str) -> str:
    """The script that makes a shell complete d2s.

    Raises:
        UsageError: a shell that there is no script for.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    if shell not in SHELLS:
        raise UsageError(f"no completion for shell {shell!r}", f"one of: {', '.join(SHELLS)}")
    script = get_completion_script(prog_name="d2s", complete_var=VARIABLE, shell=shell)
    if shell == "zsh":
        script = script.replace("compdef _d2s_completion d2s", _ZSH_END)
    # what the Tab key does everywhere else is not ours to set
    kept = [li for li in script.splitlines() if not li.startswith("Set-PSReadLineKeyHandler")]
    return "\n".join(kept) + "\n"


def completions(
    shell: Annotated[
        str,
        typer.Argument(
            help="bash, zsh, fish or powershell.",
            metavar="SHELL",
            show_default=False,
            autocompletion=one_of(SHELLS),
        ),
    ],
) -> None:
    """Print a completion script for bash, zsh, fish or powershell. Changes no file.

    \b
    Examples:
      d2s completions bash > ~/.local/share/bash-completion/completions/d2s
      d2s completions zsh > "${fpath[1]}/_d2s"
      d2s completions fish > ~/.config/fish/completions/d2s.fish
      d2s completions powershell >> $PROFILE
    """
    print(completion_script(shell), end="")
