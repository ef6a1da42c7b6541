"""`python -m onnx_condense` is the console script."""

import sys


def main() -> int:
    """Runs the command line; Ctrl-C while that is still imported ends it with a line, too."""
    try:
        from onnx_condense.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("onnx-condense: error: interrupted: nothing was written\n")
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
