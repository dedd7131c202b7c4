"""The page at GET /: one file that asks nothing of anybody but the server it came from."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

# Nothing is allowed but the page's own script and style, told by their hashes, and requests to where it came from.
_POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


@cache
def page() -> tuple[bytes, dict[str, str]]:
    """Body of the page and the headers it must be sent with; they hold its Content-Security-Policy.

    It holds no secret, so it needs no key; what it asks of the server does.
    """
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    policy = _POLICY.format(script=_hashes("script", text), style=_hashes("style", text))
    return text.encode(), {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        # Asked for anew each time, so that a new version of the server is seen at once.
        "Cache-Control": "no-cache",
    }


def _hashes(tag: str, text: str) -> str:
    """Sources of a policy that allow what stands in these elements, to the last byte."""
    inside = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in inside)
