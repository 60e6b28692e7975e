"""Lets `python -m temper.cli` stand for `temper`."""

from temper.cli.app import main

main()
