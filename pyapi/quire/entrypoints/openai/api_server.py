"""`python -m quire.entrypoints.openai.api_server --model MODEL`: the same as `quire serve`."""

import sys

from quire.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
