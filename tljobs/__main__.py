"""`python -m tljobs` is the same as `tljobs`."""

from tljobs.cli import main

if __name__ == "__main__":
    main()
