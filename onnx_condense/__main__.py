"""`python -m onnx_condense` is the console script."""

import sys

from onnx_condense.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
