"""Who may ask: the API key on every route, whatever a request is dressed as. R31 of the reliability goals."""

import base64
import http.client
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from quire.server.auth import KeyCheck
from server_process import ServerProcess, running_server

KEY = "sk-a-key-of-some-length"
BODY = {"model": "storyteller", "prompt": "Once", "max_tokens": 1}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a key, from the environment so that it is in no list of processes."""
    folder = tmp_path_factory.mktemp("locked")
    with running_server(folder, "--kv-cache-memory-bytes", "4M", VLLM_API_KEY=KEY) as running:
        yield running


ROUTES = [
    *("GET /", "GET /v1/models", "GET /v1/models/storyteller", "GET /metrics", "GET /version", "GET /docs"),
    *("GET /openapi.json", "POST /v1/completions", "POST /v1/chat/completions", "POST /tokenize", "POST /detokenize"),
    *("GET /docs/oauth2-redirect", "GET /nothing", "POST /health/../v1/completions", "HEAD /v1/models"),
    *("GET //health", "GET /health/", "GET /health//", "GET /Health", "GET /HEALTH", "GET /%68ealth", "GET /health%2f"),
    *("GET /health;x", "GET /health%00", "GET /./health", "GET /v1/../health", "GET /ready/", "GET /ready/x"),
    *("POST /v1/completions?/health", "POST //v1/completions", "POST /v1//completions", "POST /V1/completions"),
    *("POST /%76%31/completions", "POST /v1/completions/", "POST /v1/completions%2f", "OPTIONS /v1/completions"),
    *("OPTIONS *", "PUT /v1/completions", "DELETE /v1/models", "TRACE /v1/models", "PATCH /metrics"),
    *("GET http://x/health/", "GET http://127.0.0.1/v1/models", "GET /health@/v1/models", "GET /v1/models#/health"),
]

WRONG_KEYS: dict[str, dict[str, str]] = {
    "none": {},
    "empty": {"Authorization": ""},
    "no key": {"Authorization": "Bearer"},
    "another": {"Authorization": "Bearer sk-another-key-of-length"},
    "a beginning": {"Authorization": f"Bearer {KEY[:-1]}"},
    "longer": {"Authorization": f"Bearer {KEY}x"},
    "other case": {"Authorization": f"Bearer {KEY.upper()}"},
    "no scheme": {"Authorization": KEY},
    "another scheme": {"Authorization": f"Token {KEY}"},
    "another header": {"X-Api-Key": KEY, "api-key": KEY},
    "a cookie": {"Cookie": f"Authorization=Bearer {KEY}"},
    "wrong password": {"Authorization": "Basic " + base64.b64encode(b"a:b").decode()},
    "key as user": {"Authorization": "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()},
    "not base64": {"Authorization": "Basic !!!"},
}

DISGUISES: dict[str, dict[str, str]] = {
    "forged host": {"Host": "x/health?"},
    "host with path": {"Host": "127.0.0.1/health"},
    "forwarded": {"X-Forwarded-Host": "/health", "X-Forwarded-Prefix": "/health", "X-Forwarded-For": "127.0.0.1"},
    "rewritten": {"X-Original-URL": "/health", "X-Rewrite-URL": "/health", "X-HTTP-Method-Override": "GET"},
    "web socket": {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x" * 24,
    },
    "http2": {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"},
}


def status_of(server: ServerProcess, route: str, headers: dict[str, str], body: bytes | None = None) -> int:
    method, target = route.split(" ", 1)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.putrequest(method, target, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("kind", WRONG_KEYS)
def test_no_route_opens_without_the_key(locked: ServerProcess, kind: str) -> None:
    statuses = {route: status_of(locked, route, WRONG_KEYS[kind]) for route in ROUTES}
    # 400 is what the parser itself says of a target that is none.
    assert {route: status for route, status in statuses.items() if status not in (400, 401)} == {}
    assert statuses["POST /v1/completions"] == 401


@pytest.mark.parametrize("kind", DISGUISES)
def test_no_disguise_opens_a_route(locked: ServerProcess, kind: str) -> None:
    for route in ROUTES:
        assert status_of(locked, route, DISGUISES[kind]) in (400, 401), route


@pytest.mark.parametrize(
    "route", ["GET /health", "GET /ready", "HEAD /health", "GET /health?x=1", "GET http://x/health"]
)
def test_probes_need_no_key(locked: ServerProcess, route: str) -> None:
    # An absolute target is the same place to one parser, and none to the other.
    assert status_of(locked, route, {}) in ((200, 401) if "x/" in route else (200,))


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {KEY}",
        f"bearer {KEY}",
        f"Bearer   {KEY}  ",
        "Basic " + base64.b64encode(f"anybody:{KEY}".encode()).decode(),
        "basic " + base64.b64encode(f":{KEY}".encode()).decode(),
    ],
)
def test_the_key_opens(locked: ServerProcess, value: str) -> None:
    assert locked.request("POST", "/v1/completions", BODY, {"Authorization": value})[0] == 200


def test_two_keys_are_none() -> None:
    check = KeyCheck(KEY)
    right = (b"authorization", b"Bearer " + KEY.encode())
    assert check.accepts([right])
    assert not check.accepts([right, right])
    assert not check.accepts([right, (b"authorization", b"Bearer x")])
    assert not check.accepts([])


def test_refusal_has_the_api_form_and_a_browser_is_asked_for_the_key(locked: ServerProcess) -> None:
    status, headers, body = locked.request("GET", "/v1/models")
    assert status == 401 and headers["www-authenticate"].startswith("Bearer") and b'"AuthenticationError"' in body
    status, headers, _ = locked.request("GET", "/")
    assert status == 401 and headers["www-authenticate"].startswith("Basic")


def test_official_client_sends_the_key(locked: ServerProcess) -> None:
    with openai.OpenAI(base_url=locked.url + "/v1", api_key=KEY, max_retries=0) as client:
        assert client.completions.create(**BODY).choices  # type: ignore[call-overload]
    with openai.OpenAI(base_url=locked.url + "/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.status_code == 401


def test_preflight_needs_no_key_and_opens_nothing(locked: ServerProcess) -> None:
    headers = {
        "Origin": "http://elsewhere",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    status, answer, body = locked.request("OPTIONS", "/v1/completions", headers=headers)
    assert status == 200 and answer["access-control-allow-origin"] == "*" and body == b"OK"
    status, answer, _ = locked.request("POST", "/v1/completions", BODY, {"Origin": "http://elsewhere"})
    assert status == 401 and answer["access-control-allow-origin"] == "*"


def test_root_path_in_front_changes_nothing(tmp_path: Path) -> None:
    words = ("--kv-cache-memory-bytes", "4M", "--root-path", "/proxy")
    with running_server(tmp_path, *words, VLLM_API_KEY=KEY) as server:
        assert server.request("GET", "/health")[0] == 200
        assert server.request("GET", "/v1/models")[0] == 401
        assert server.request("GET", "/proxy/health")[0] in (200, 401, 404)
        assert server.request("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"})[0] == 200


def test_time_tells_nothing_about_the_key() -> None:
    """Welch's t between keys that differ in the first and in the last character, over 100,000 samples."""
    check = KeyCheck(KEY)
    kinds = [[(b"authorization", b"Bearer " + key)] for key in (b"x" + KEY[1:].encode(), KEY[:-1].encode() + b"x")]
    times: list[list[int]] = [[], []]
    for index in range(100_000):
        kind = index & 1
        start = time.perf_counter_ns()
        check.accepts(kinds[kind])
        times[kind].append(time.perf_counter_ns() - start)
    # What other programs on the machine add is no property of the comparison.
    cut = [sorted(one)[: len(one) * 9 // 10] for one in times]
    means, variances = [statistics.fmean(one) for one in cut], [statistics.variance(one) for one in cut]
    t = (means[0] - means[1]) / (sum(variances) / len(cut[0])) ** 0.5
    assert abs(t) < 4.5 or abs(means[0] - means[1]) < 0.02 * means[0], (t, means)
