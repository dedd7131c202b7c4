"""What `quire generate` tells of its work."""

import re


def tokens_made(stderr: str) -> int:
    """Of its last line, "7 tokens, 120.5 tokens/s, ..."."""
    (count,) = re.findall(r"^(\d+) tokens, ", stderr, re.MULTILINE)
    return int(count)
