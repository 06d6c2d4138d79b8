"""`python -m acfun`: the command line."""

from acfun.cli import main

if __name__ == "__main__":
    main()
