"""What the page is allowed to do, read from its text; and what it does, in a headless Chromium."""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser, Tab, chromium, program, wait_for
from stand_in import ANSWER, STORY, StandIn, serving

from quire.server.page import page
from server_process import ServerProcess, running_server

DESKTOP = (1280, 800)
PHONE = (375, 740)


class Elements(HTMLParser):
    """All start tags of a page, and the text of its scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in self.raw:
            self.raw[self.cdata_elem].append(data)


@pytest.fixture(scope="module")
def text() -> str:
    return page()[0].decode()


@pytest.fixture(scope="module")
def elements(text: str) -> Elements:
    parser = Elements()
    parser.feed(text)
    return parser


def policy() -> dict[str, list[str]]:
    directives = page()[1]["Content-Security-Policy"].split(";")
    return {name: values for name, *values in (directive.split() for directive in directives)}


def test_the_page_is_at_most_60_kilobytes(text: str) -> None:
    assert len(text.encode()) <= 60_000


def test_the_page_names_no_other_place(text: str) -> None:
    # The names of XML's vocabularies look like addresses and are none; the script looks for links in answers.
    rest = text.replace("http://www.w3.org/2000/svg", "").replace("(https?:[^\\s)]+)", "")
    assert [line for line in rest.splitlines() if re.search(r"https?:|wss?:|[\"'(=]//|@import|url\(", line)] == []


def test_the_policy_allows_the_page_s_own_script_and_style_and_no_other(elements: Elements) -> None:
    for tag in ("script", "style"):
        expected = [
            f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in elements.raw[tag]
        ]
        assert len(expected) == 1
        assert policy()[f"{tag}-src"] == expected
    assert policy()["default-src"] == policy()["base-uri"] == policy()["form-action"] == ["'none'"]
    assert policy()["frame-ancestors"] == ["'none'"]
    assert policy()["connect-src"] == ["'self'"]
    assert "unsafe" not in page()[1]["Content-Security-Policy"]


def test_the_other_headers_are_those_of_a_page_that_trusts_nobody() -> None:
    headers = page()[1]
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "\n" not in "".join(headers.values())


def test_nothing_of_the_page_needs_what_the_policy_forbids(elements: Elements, text: str) -> None:
    for tag, attributes in elements.tags:
        assert "style" not in attributes and "src" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "import("):
        assert word not in text


def test_the_key_is_kept_nowhere_but_in_the_tab(text: str) -> None:
    assert re.findall(r"(\w+)\.setItem\(.*key", text) == ["sessionStorage"]
    assert "document.cookie" not in text


def test_ids_are_unique_and_those_that_the_script_asks_for_exist(elements: Elements, text: str) -> None:
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\$\("([\w-]+)"\)', text)) <= set(ids)


def test_every_control_has_a_name_for_those_who_cannot_see_it(elements: Elements) -> None:
    """Controls within templates are named by the script; the browser's own check is below."""
    for tag, attributes in elements.tags:
        if tag in ("select", "textarea") or (tag == "input" and "id" in attributes):
            assert attributes.get("aria-label"), attributes


def test_the_page_says_something_without_javascript(text: str) -> None:
    assert re.search(r"<noscript>.*needs JavaScript.*</noscript>", text, re.DOTALL)
    assert '<html lang="en">' in text
    assert 'name="viewport" content="width=device-width' in text


# In the browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if program() is None:
        pytest.skip("no Chromium on this machine; Debian's package is called chromium")
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def server() -> Iterator[StandIn]:
    with serving() as stand_in:
        stand_in.says("One two three.")
        yield stand_in


Open = Callable[..., Tab]


@pytest.fixture
def open_page(browser: Browser, server: StandIn) -> Iterator[Open]:
    """Open the page in a tab of its own; at the end its console must be silent and only its server asked."""
    tabs: list[tuple[Tab, list[str]]] = []

    def open(size: tuple[int, int] = DESKTOP, errors: list[str] | None = None, **options: Any) -> Tab:
        tab = browser.tab(*size, **options)
        tabs.append((tab, errors or []))
        tab.open(server.url)
        tab.until("document.getElementById('model').value !== '…' || !document.getElementById('trouble').hidden")
        return tab

    yield open
    for tab, allowed in tabs:
        complaints = [line for line in tab.console_errors() if not any(word in line for word in allowed)]
        assert complaints == []
        assert all(url.startswith((server.url, "data:")) for url in tab.requested())
        tab.close()


def say(tab: Tab, text: str) -> None:
    tab.value("document.getElementById('text').focus()")
    tab.type(text)
    tab.press("Enter", 13)


def answer(tab: Tab) -> str:
    """The last answer, once it is complete."""
    tab.until("!running")
    return str(
        tab.value("(() => { const all = document.querySelectorAll('.answer'); return all[all.length-1].innerText })()")
    )


def facts(tab: Tab) -> str:
    return str(tab.value("[...document.querySelectorAll('.facts')].at(-1).textContent"))


def trouble(tab: Tab) -> str:
    return str(
        tab.until("!document.getElementById('trouble').hidden && document.querySelector('#trouble span').innerText")
    )


def test_an_answer_is_shown_while_it_comes(open_page: Open, server: StandIn) -> None:
    server.says("Slowly " * 30 + "done.", 0.03)
    tab = open_page()
    say(tab, "How fast?")
    shown = tab.until(
        "document.querySelector('.answer')?.textContent.length > 20 && document.querySelector('.answer').textContent"
    )
    assert shown.startswith("Slowly Slowly") and "done." not in shown
    assert tab.value("document.getElementById('send').getAttribute('aria-label')") == "Stop"
    assert answer(tab).endswith("done.")
    assert re.fullmatch(r"31 tokens · [\d.]+ tokens/s · first after \d+ ms", facts(tab))
    path, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "stand-in-7b",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 512,
        "messages": [{"role": "user", "content": "How fast?"}],
    }


def test_a_conversation_goes_on_with_all_that_was_said(open_page: Open, server: StandIn) -> None:
    tab = open_page()
    tab.value("document.getElementById('system').value = 'Be brief.'")
    for question in ("First?", "Second?"):
        say(tab, question)
        assert answer(tab) == "One two three."
    roles = [(one["role"], one["content"]) for one in server.requests[1][1]["messages"]]
    assert roles == [
        ("system", "Be brief."),
        ("user", "First?"),
        ("assistant", "One two three."),
        ("user", "Second?"),
    ]


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_ends_the_request_and_keeps_what_has_come(open_page: Open, server: StandIn, how: str) -> None:
    server.says("word " * 2000, 0.01)
    tab = open_page()
    say(tab, "Go on for ever")
    tab.until("document.querySelector('.answer')?.textContent.length > 20")
    tab.click("#send") if how == "button" else tab.press("Escape", 27)
    assert answer(tab).startswith("word word")
    assert re.match(r"about \d+ tokens", facts(tab)) and facts(tab).endswith("· stopped")
    assert server.cut.wait(5), "the server was not told"
    assert tab.value("document.getElementById('send').getAttribute('aria-label')") == "Send"
    server.says("Here again.")
    say(tab, "Still there?")
    assert answer(tab) == "Here again."


def test_an_answer_can_be_tried_again(open_page: Open, server: StandIn) -> None:
    tab = open_page()
    say(tab, "Well?")
    answer(tab)
    server.says("Another one.")
    tab.click(".again")
    tab.until("document.querySelector('.answer').innerText === 'Another one.'")
    assert server.requests[0][1] == server.requests[1][1]
    assert tab.value("document.querySelectorAll('.answer').length") == 1


def test_a_model_without_chat_format_writes_stories(open_page: Open, server: StandIn) -> None:
    server.card["has_chat_template"] = False
    server.says(STORY)
    tab = open_page()
    tab.until("document.body.dataset.mode === 'story'")
    assert tab.value("document.querySelector('[data-mode=chat][aria-pressed]').disabled")
    tab.click(".openings button")
    tab.until("!running && document.querySelector('.story')?.textContent.endsWith('hungry.')")
    path, body = server.requests[0]
    assert (path, body["prompt"]) == ("/v1/completions", "Once upon a time")
    server.says(" The end.")
    assert tab.value("document.getElementById('send').getAttribute('aria-label')") == "Write on"
    tab.press("Enter", 13)
    tab.until("!running && document.querySelector('.story').textContent.endsWith('The end.')")
    assert server.requests[1][1]["prompt"] == "Once upon a time" + STORY
    say(tab, "Or not")
    tab.until("!running && document.querySelector('.story').textContent.endsWith('Or not The end.')")
    assert server.requests[2][1]["prompt"] == "Once upon a time" + STORY + " The end. Or not"


def test_a_question_becomes_a_beginning_if_the_server_knows_no_chat_format(open_page: Open, server: StandIn) -> None:
    server.refusal = (400, {}, "This model has no chat template; use /v1/completions.")
    tab = open_page(errors=["400"])
    say(tab, "Once upon a time")
    wait_for(lambda: len(server.requests) > 1, "a second request")
    assert trouble(tab) == server.refusal[2], "it is not asked for ever"
    assert [path for path, _ in server.requests] == ["/v1/chat/completions", "/v1/completions"]
    assert tab.value("document.getElementById('text').value") == "Once upon a time", "given back"
    server.refusal = None
    server.says(" all was well.")
    tab.press("Enter", 13)
    tab.until("document.querySelector('.story')?.textContent === 'Once upon a time all was well.'")


def test_a_story_longer_than_the_model_s_memory_goes_on_from_its_last_part(open_page: Open, server: StandIn) -> None:
    server.card |= {"has_chat_template": False, "max_model_len": 1024}
    tab = open_page()
    say(tab, "word " * 1500 + "last")
    tab.until("!running && document.querySelector('.story') !== null")
    body = server.requests[0][1]
    assert body["max_tokens"] == 512
    assert body["prompt"].endswith("word last") and body["prompt"].startswith("word ")
    assert 500 < len(body["prompt"]) < 1500


def test_only_parameters_that_were_set_are_sent(open_page: Open, server: StandIn) -> None:
    tab = open_page()
    chosen = {"temperature": 0.7, "top_p": 0.9, "top_k": 0, "min_p": 0.05, "repetition_penalty": 1.1, "seed": 42}
    for name, value in {**chosen, "max_tokens": 64}.items():
        tab.value(
            f"{{ const input = document.getElementById('p-{name}'); input.value = {value};"
            " input.dispatchEvent(new Event('input')) }"
        )
    say(tab, "All?")
    answer(tab)
    body = server.requests[0][1]
    assert {name: body[name] for name in chosen} == chosen | {"top_k": -1}
    assert body["max_tokens"] == 64
    tab.click("#rows .row.set .small")
    tab.reload()
    tab.until("document.getElementById('model').value === 'stand-in-7b'")
    say(tab, "And now?")
    answer(tab)
    body = server.requests[1][1]
    assert "temperature" not in body
    assert body["seed"] == 42, "the others were kept"


@pytest.mark.parametrize(
    "status, headers, message, shown",
    [
        (429, {"Retry-After": "7"}, "too many", "The server is busy. Try again in 7 seconds."),
        (503, {}, "The server is shutting down.", "The server is shutting down."),
        (400, {}, "max_tokens is too large: 512.", "max_tokens is too large: 512."),
    ],
)
def test_a_refusal_is_one_clear_line(
    open_page: Open, server: StandIn, status: int, headers: dict[str, str], message: str, shown: str
) -> None:
    server.refusal = (status, headers, message)
    tab = open_page(errors=[str(status)])
    say(tab, "Please")
    assert trouble(tab) == shown
    assert tab.value("document.getElementById('text').value") == "Please", "the question is given back"
    tab.click("#trouble button")
    assert tab.value("document.getElementById('trouble').hidden")


def test_an_error_in_a_stream_is_shown_and_keeps_what_has_come(open_page: Open, server: StandIn) -> None:
    server.error_in_stream = "The engine has failed."
    tab = open_page()
    say(tab, "Please")
    assert trouble(tab) == "The engine has failed."
    assert answer(tab) == "One two three."


def test_a_server_that_has_gone_is_told(browser: Browser) -> None:
    with serving() as server:
        tab = browser.tab(*DESKTOP)
        tab.open(server.url)
        tab.until("document.getElementById('model').value === 'stand-in-7b'")
    say(tab, "Hello?")
    assert trouble(tab) == "The server cannot be reached. Is it still running?"
    tab.until("document.getElementById('alive').textContent === 'unreachable'")
    tab.close()


def test_the_key_is_asked_for_and_sent_and_gone_with_the_tab(open_page: Open, server: StandIn) -> None:
    server.key = "sesame"
    tab = open_page(errors=["401"])
    assert trouble(tab) == "This server asks for an API key. Enter it in the settings."
    tab.until("document.activeElement.id === 'key'")
    tab.type("wrong")
    tab.press("Enter", 13)
    tab.until("document.querySelector('#trouble span').innerText === 'The server does not accept this API key.'")
    tab.value("document.getElementById('key').select()")
    tab.type("sesame")
    tab.press("Enter", 13)
    tab.until("document.getElementById('model').value === 'stand-in-7b'")
    tab.until("document.getElementById('alive').textContent === 'running'")
    say(tab, "Open!")
    assert answer(tab) == "One two three."
    assert tab.value("sessionStorage.getItem('quire.key')") == "sesame"
    assert "sesame" not in tab.value("JSON.stringify(localStorage) + document.cookie")


def test_the_engine_is_seen_at_work(open_page: Open, server: StandIn) -> None:
    server.says("word " * 400, 0.01)
    tab = open_page()
    say(tab, "Work")
    tab.until("document.getElementById('running').textContent === '1'")
    assert tab.value("document.getElementById('blocks').textContent") == "37 of 1,024"
    assert tab.value("document.getElementById('hits').textContent") == "62 %"
    tab.until("Number(document.getElementById('rate').textContent) > 20")
    tab.until("document.querySelector('.line').getAttribute('d').startsWith('M')")
    assert "highest" in tab.until("document.getElementById('peak').textContent")
    tab.press("Escape", 27)
    tab.until("document.getElementById('running').textContent === '0'")


def test_text_of_an_answer_is_never_taken_for_html(open_page: Open, server: StandIn) -> None:
    evil = "<img src=x onerror=alert(1)> [a](javascript:alert(1)) [b](https://example.org/) <script>alert(2)</script>"
    server.says(evil)
    tab = open_page()
    say(tab, "<b>bold</b>")
    assert answer(tab) == evil.replace("[b](https://example.org/)", "b")
    assert tab.value("document.querySelector('.you').textContent") == "<b>bold</b>"
    assert tab.value("document.querySelectorAll('.answer img, .answer script').length") == 0
    links = tab.value("[...document.querySelectorAll('.answer a')].map(a => [a.href, a.rel])")
    assert links == [["https://example.org/", "noreferrer noopener"]]


def test_the_usual_marks_are_shown(open_page: Open, server: StandIn) -> None:
    server.says(ANSWER + "\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n# Head\n- x\n- y\n\n> said\n\n---\n\n```\nopen")
    tab = open_page()
    say(tab, "Show")
    answer(tab)
    counts = tab.value(
        "Object.fromEntries(['strong','em','ol li','ul li','pre','code','td','th','h3','blockquote','hr']"
        ".map(s => [s, document.querySelectorAll('.answer ' + s).length]))"
    )
    assert counts == {
        **{"strong": 2, "em": 1, "ol li": 3, "ul li": 2, "pre": 2, "code": 3, "td": 2, "th": 2},
        **{"h3": 1, "blockquote": 1, "hr": 1},
    }
    code = tab.value("document.querySelector('.answer pre').textContent")
    assert code == "def scattering(wavelength_nm: float) -> float:\n    return (400 / wavelength_nm) ** 4"


def test_an_answer_can_be_copied_as_it_came(open_page: Open, server: StandIn) -> None:
    server.says("**bold** and `code`")
    tab = open_page()
    tab.value("navigator.clipboard.writeText = async text => { window.copied = text }")
    say(tab, "Copy")
    answer(tab)
    tab.click(".copy")
    assert tab.until("window.copied") == "**bold** and `code`"
    assert tab.value("document.querySelector('.copy span').textContent") == "Copied"


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_follow_the_system_until_switched(open_page: Open, dark: bool) -> None:
    tab = open_page(dark=dark)
    shade = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 128"
    assert tab.value(shade) is dark
    tab.click("#theme")
    assert tab.value(shade) is not dark
    tab.reload()
    tab.until("document.readyState === 'complete' && document.getElementById('model').value === 'stand-in-7b'")
    assert tab.value(shade) is not dark, "kept"


def test_a_phone_has_room_for_all_of_it(open_page: Open, server: StandIn) -> None:
    server.says(ANSWER + "\n\n" + "x" * 300)
    tab = open_page(PHONE, mobile=True)
    assert tab.value("document.getElementById('panel').hidden")
    say(tab, "Long " + "y" * 200)
    answer(tab)
    assert tab.value("document.documentElement.scrollWidth") == 375
    assert tab.value("document.getElementById('log').scrollWidth <= 375")
    tab.click("#open-panel")
    tab.until("document.getElementById('panel').getBoundingClientRect().right <= 375")
    tab.press("Escape", 27)
    assert tab.value("document.getElementById('panel').hidden")
    assert tab.value("document.activeElement.id") == "open-panel"


def test_all_of_it_can_be_done_by_keyboard(open_page: Open) -> None:
    tab = open_page()
    wanted = {"model", "fresh", "theme", "open-panel", "log", "text", "system", "p-temperature", "p-seed"}
    seen: set[str] = set()
    for _ in range(40):
        tab.press("Tab", 9)
        seen.add(tab.value("document.activeElement.id"))
    assert wanted <= seen
    # And whoever listens to the page instead of seeing it is told what each of them is.
    nameless = [
        node["role"]["value"]
        for node in tab.call("Accessibility.getFullAXTree")["nodes"]
        if node.get("role", {}).get("value") in ("button", "slider", "textbox", "combobox", "spinbutton", "link")
        and not node.get("name", {}).get("value")
    ]
    assert nameless == []


@pytest.mark.parametrize(
    "name, size, options",
    [
        ("desktop-light", DESKTOP, {}),
        ("desktop-dark", DESKTOP, {"dark": True}),
        ("phone", PHONE, {"mobile": True}),
    ],
)
def test_pictures_of_it_can_be_taken(
    open_page: Open, server: StandIn, tmp_path: Path, name: str, size: tuple[int, int], options: dict[str, Any]
) -> None:
    """To be looked at: they are written to $QUIRE_SCREENSHOTS, if that is set."""
    server.card["has_chat_template"] = not options.get("dark", False)
    server.says(STORY if options.get("dark") else ANSWER)
    tab = open_page(size, **options)
    say(tab, "Once upon a time" if options.get("dark") else "Why is the sky blue?")
    tab.until("!running && document.querySelector('.facts')?.textContent")
    picture = Path(os.environ.get("QUIRE_SCREENSHOTS", tmp_path)) / f"page-{name}.png"
    tab.screenshot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000


# With the server itself.


@pytest.fixture(scope="module")
def storyteller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The built-in model, which has no chat format; with a key."""
    folder = tmp_path_factory.mktemp("storyteller")
    with running_server(folder, "--kv-cache-memory-bytes", "32M", "--api-key", "sesame") as running:
        yield running


@pytest.fixture
def real_page(browser: Browser, storyteller: ServerProcess) -> Iterator[Tab]:
    """The page as a user sees it whose browser has asked for the key."""
    tab = browser.tab(*DESKTOP)
    tab.open(storyteller.url.replace("//", "//anybody:sesame@") + "/")
    tab.until("document.getElementById('model').value === 'storyteller'")
    yield tab
    assert tab.console_errors() == []
    tab.close()


def test_the_built_in_model_writes_a_story(real_page: Tab) -> None:
    real_page.until("document.body.dataset.mode === 'story'")
    for _ in range(3):
        say(real_page, "Once upon a time")
        real_page.until("!running")
    story = real_page.value("storyText()")
    assert story.startswith("Once upon a time ") and len(story) > 100
    assert re.fullmatch(
        r"[\d,]+ tokens · [\d,.]+ tokens/s · first after \d+ ms( · cut at max tokens)?", facts(real_page)
    )
    real_page.until("document.getElementById('rate').textContent !== '–'")


def test_the_server_s_own_requests_end_with_stop(real_page: Tab) -> None:
    for _ in range(20):  # some stories are over too soon
        say(real_page, "Once upon a time")
        real_page.until("storyText().length > 40 || !running")
        real_page.press("Escape", 27)
        real_page.until("!running")
        if facts(real_page).endswith("stopped"):
            break
        real_page.click("#fresh")
    assert facts(real_page).endswith("stopped")
    real_page.until("document.getElementById('running').textContent === '0'")
    real_page.until("document.getElementById('blocks').textContent === '0 of 512'")


def test_the_real_server_sends_the_page_as_it_wants_to_be_sent(storyteller: ServerProcess) -> None:
    key = {"Authorization": "Bearer sesame"}
    status, headers, body = storyteller.request("GET", "/", headers=key)
    assert (status, body) == (200, page()[0])
    assert {name: headers[name.lower()] for name in page()[1]} == page()[1]
    assert storyteller.request("GET", "/")[0] == 401
