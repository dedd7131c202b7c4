"""`python -m quire.entrypoints.api_server --model MODEL`: the demo server of vLLM 0.4.0, POST /generate.

Its flags are those of `quire serve`; for anything but a trial that server is the better one.
"""

import os
import sys
from collections.abc import Sequence

from quire.cli import guarded


def main(words: Sequence[str]) -> int:
    """Serve until told to end, and return the exit status."""
    from quire.commands.serve import notes
    from quire.server_arguments import parse_server_args

    def run() -> int:
        arguments = parse_server_args(words, os.environ)
        for line in notes(arguments):
            print(f"api_server: {line}", file=sys.stderr)
        from quire.server.demo import demo_app
        from quire.server.run import serve

        return serve(arguments, demo_app)

    return guarded("api_server", words, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
