"""`d2s paper`: the group of commands that repeat the paper's experiments."""

from __future__ import annotations

import typer

from d2s_cli.cli.paper_data import pair, resize, split
from d2s_cli.cli.paper_sweep import sweep

paper_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Repeat the paper's experiments: its data, its sweeps over T and T_k, its figures and"
    " Table 1. See benchmarks/paper.md.",
)
for command in (split, resize, pair, sweep):
    paper_app.command(no_args_is_help=True)(command)
