"""`python -m quire.entrypoints.api_server --model MODEL`: the demo server of vLLM 0.4.0, POST /generate.

Its flags are those of `quire serve`; for anything but a trial that server is the better one.
"""

import os
import sys
from collections.abc import Sequence

from quire.cli import EXIT_ERROR, EXIT_USAGE, UsageError, one_line


def main(words: Sequence[str]) -> int:
    """Serve until told to end, and return the exit status."""
    from quire.server_arguments import parse_server_args

    try:
        arguments = parse_server_args(words, os.environ)
        from quire.server.demo import demo_app
        from quire.server.run import serve

        return serve(arguments, demo_app)
    except Exception as error:
        if "--debug" in words:
            raise
        print(f"api_server: error: {one_line(error)}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
