"""The command line: parse, call, print. The only place that knows typer, rich and exit codes."""
