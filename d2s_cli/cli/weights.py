"""`d2s weights`: the group of commands about weights."""

from __future__ import annotations

import typer

from d2s_cli.cli.weights_add import import_weights, pull
from d2s_cli.cli.weights_keep import remove, verify_weights
from d2s_cli.cli.weights_list import info, list_weights, where

weights_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Weights on this machine. Only pull uses the network. Files are checked by SHA-256 and"
    " read without running code from them.",
)
weights_app.command("list")(list_weights)
weights_app.command("pull", no_args_is_help=True)(pull)
weights_app.command("import", no_args_is_help=True)(import_weights)
weights_app.command("verify")(verify_weights)
weights_app.command("info", no_args_is_help=True)(info)
weights_app.command("where")(where)
weights_app.command("remove", no_args_is_help=True)(remove)
