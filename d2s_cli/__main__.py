"""`python -m d2s_cli`, the same as `d2s`."""

from d2s_cli.cli.app import main

if __name__ == "__main__":
    main()
