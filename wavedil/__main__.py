"""``python -m wavedil``: the command line."""

from wavedil.cli import main

if __name__ == "__main__":
    main()
