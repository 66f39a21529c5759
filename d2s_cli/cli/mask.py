"""`d2s mask`: the group of commands about masks."""

from __future__ import annotations

import typer

from d2s_cli.cli.mask_check import check
from d2s_cli.cli.mask_edit import edit
from d2s_cli.cli.mask_make import make
from d2s_cli.cli.mask_preview import preview

mask_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Check, make, edit and preview masks. White is the hole unless --polarity says otherwise.",
)
for command in (check, make, edit, preview):
    mask_app.command(no_args_is_help=True)(command)
