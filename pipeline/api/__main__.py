"""`python -m dataltt`, and the console script: the command line."""

import sys


def main() -> None:
    """Runs the command line; Ctrl-C may come before it is there."""
    try:
        from .pipeline.cli import main as run
    except KeyboardInterrupt:
        print("dataltt: interrupted before it began", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
