"""`python -m temper`: the command line, e.g. under torchrun."""

from temper.cli import main

if __name__ == "__main__":
    main()
