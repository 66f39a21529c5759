"""The `d2s` command: its subcommands, and errors turned into text and exit codes."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from d2s_cli import __version__
from d2s_cli.cli.bench import bench
from d2s_cli.cli.compare import compare
from d2s_cli.cli.completions import VARIABLE, completions
from d2s_cli.cli.config import option_defaults, settings_files
from d2s_cli.cli.console import names_as_they_are, print_error, print_json_error
from d2s_cli.cli.doctor import doctor
from d2s_cli.cli.evaluate import evaluate
from d2s_cli.cli.guides import guides_app
from d2s_cli.cli.inpaint import inpaint
from d2s_cli.cli.mask import mask_app
from d2s_cli.cli.paper import paper_app
from d2s_cli.cli.refine import refine
from d2s_cli.cli.train import train
from d2s_cli.cli.weights import weights_app
from d2s_cli.errors import D2SError

INTERRUPTED = 130

app = typer.Typer(
    name="d2s",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(rich_help_panel="Restore", no_args_is_help=True)(inpaint)
app.command(rich_help_panel="Restore", no_args_is_help=True)(refine)
app.command(rich_help_panel="Judge", no_args_is_help=True)(compare)
app.command(rich_help_panel="Judge")(evaluate)
app.command(rich_help_panel="Judge")(bench)
app.add_typer(paper_app, name="paper", rich_help_panel="Judge")
app.add_typer(mask_app, name="mask", rich_help_panel="Prepare")
app.command(rich_help_panel="Prepare", no_args_is_help=True)(train)
app.add_typer(guides_app, name="guides", rich_help_panel="Set up")
app.add_typer(weights_app, name="weights", rich_help_panel="Set up")
app.command(rich_help_panel="Set up")(doctor)
app.command(rich_help_panel="Set up", no_args_is_help=True)(completions)


def first_sentence(text: str) -> str:
    """What a help text says in lists of commands, on one line."""
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def _shorten(group: typer.Typer) -> None:
    """Lists of commands say the first sentence of each; its own page says the rest."""
    for command in group.registered_commands:
        command.short_help = first_sentence((command.callback and command.callback.__doc__) or "")
    for sub in group.registered_groups:
        if sub.typer_instance:
            sub.short_help = first_sentence(sub.typer_instance.info.help or "")
            _shorten(sub.typer_instance)


_shorten(app)


def _version(value: bool) -> None:
    if value:
        print(f"d2s {__version__}")
        raise typer.Exit


def _apply_settings_files(context: typer.Context, given: str | None) -> None:
    commands = {
        name: {
            option.removeprefix("--"): parameter.name
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--") and parameter.name
        }
        for name, command in getattr(context.command, "commands", {}).items()
    }
    defaults = option_defaults(settings_files(given), commands, named=given is not None)
    for name, command in getattr(context.command, "commands", {}).items():
        repeatable = {p.name for p in command.params if getattr(p, "multiple", False)}
        for key in repeatable & defaults[name].keys():
            value = defaults[name][key]
            defaults[name][key] = value if isinstance(value, list) else [value]
    context.default_map = defaults


@app.callback()
def common(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            envvar="D2S_CONFIG",
            show_default="d2s.toml here, then the user's",
            help='Settings file; "none" reads none.',
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Fill holes in photographs: a fast guide makes a first result, a diffusion model refines it.
    Pixels outside the hole are kept exactly.

    \b
    Examples:
      # one image, white in the mask is the hole
      d2s inpaint photo.png --mask m.png
      # a folder whose masks are named photo_mask.png
      d2s inpaint photos/ -o restored/
      # refine what another tool already made
      d2s refine photos/ --guide-outputs lama_out/ --tk 200 -o refined/

    \b
    Exit codes: 0 done, 2 wrong usage, 3 some images failed, 4 bad input,
    5 weights or guide not usable, 6 device or memory, 7 a check failed, 1 a bug, 130 interrupted.
    """
    names_as_they_are()
    _apply_settings_files(context, config)


def main() -> None:
    """Run the command line; errors that users can act on become one screen and their exit code."""
    if VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    try:
        app()
    except D2SError as error:
        if "--json" in sys.argv:
            print_json_error(error)
        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted; finished files are whole", file=sys.stderr)
        sys.exit(INTERRUPTED)
