"""Chat templates: rendered as transformers renders them, and stopped when they take too much."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

import tiny
from quire import chat_budget
from quire.chat import choose_template, render
from quire.tokenizer import Tokenizer

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "4 <é&>"},
]


def rendered(template: str, messages: list[dict[str, Any]] | None = None, **variables: Any) -> str:
    return render(template, MESSAGES if messages is None else messages, variables)


@pytest.mark.parametrize("name", ["llama_tok", "gpt2_tok"])
def test_golden_conversations_are_written_exactly(shared: Path, name: str) -> None:
    folder = shared / "golden" / name
    tokenizer = Tokenizer.from_folder(folder, mode="slow")
    for chat in json.loads((folder / "golden_tokenizer.json").read_text())["chat"]:
        messages = chat["messages"]
        assert tokenizer.apply_chat_template(messages, tokenize=False) == chat["rendered"]
        assert tokenizer.apply_chat_template(messages) == chat["ids"]
        without_prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        assert without_prompt == chat["rendered_no_prompt"]


def test_blocks_leave_no_white_space_as_in_transformers() -> None:
    template = (
        "{% for m in messages %}\n    {% if m.role == 'user' %}\n[{{ m.content }}]\n    {% endif %}\n{% endfor %}"
    )
    assert rendered(template) == "[What is 2+2?]\n"


def test_loops_can_be_left_and_continued() -> None:
    template = (
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }} "
        "{% if m.role == 'user' %}{% break %}{% endif %}{% endfor %}"
    )
    assert rendered(template) == "user "


def test_json_is_written_for_people_and_not_for_html() -> None:
    assert rendered("{{ messages[2] | tojson }}") == '{"role": "assistant", "content": "4 <é&>"}'
    assert rendered("{{ {'b': 1, 'a': [1]} | tojson(indent=1, sort_keys=true) }}") == '{\n "a": [\n  1\n ],\n "b": 1\n}'


def test_generation_marks_show_their_inside() -> None:
    assert rendered("{% generation %}\n{{ messages[2].content }}{% endgeneration %}!") == "4 <é&>!"


def test_dates_variables_macros_and_filters_work() -> None:
    assert rendered("{{ strftime_now('%Y') }}") == time.strftime("%Y")
    assert rendered("{{ bos_token }}{{ tools is none }}", bos_token="<s>", tools=None) == "<s>True"
    assert rendered("{% macro m(x, y=[1, 2]) %}{{ x ~ y[0] ~ '-' }}{% endmacro %}{{ m('a') + m(x='b') }}") == "a1-b1-"
    template = "{% set ns = namespace(s='') %}{% for m in messages %}{% set ns.s = ns.s ~ m.role[0] %}{% endfor %}"
    assert rendered(template + "{{ ns.s }}") == "sua"
    assert rendered("{{ messages | map(attribute='role') | join(', ') | upper }}") == "SYSTEM, USER, ASSISTANT"
    assert rendered("{{ '%03d|%s' % (7, 'a') }} {{ '{{{}}} {:>4}'.format(1, 'b') }}") == "007|a {1}    b"
    assert (
        rendered("{{ (messages | selectattr('role', 'equalto', 'user') | list)[0].content.split(' ')[-1] }}") == "2+2?"
    )
    assert rendered("{% for a, b in {'x': 1}.items() %}{{ a }}{{ b * 3 }}{{ 'ab' * 2 }}{% endfor %}") == "x3abab"


def test_template_can_refuse_a_conversation() -> None:
    with pytest.raises(ValueError, match="roles must alternate"):
        rendered("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", "wrong in line 1"),
        ("a\n{% for %}", "wrong in line 2"),
        ("{{ messages.append(1) }}", "failed"),
        ("{{ ''.__class__.__mro__ }}", "failed.*unsafe"),
        ("{{ nothing.attribute }}", "'nothing' is undefined"),
        ("{% include 'x' %}", "failed"),
        ("{{ 1 // 0 }}", "failed"),
        ("{{ 'a' | no_such_filter }}", "no_such_filter"),
        ("{{ ''.join([1]) }}", "failed"),
        ("x" * (1 << 19), "too long"),
    ],
)
def test_errors_of_a_template_are_value_errors(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rendered(template)


def doubling(start: str, step: str) -> str:
    return "{% set n = namespace(s=START) %}{% for i in range(99) %}{% set STEP %}{% endfor %}".replace(
        "START", start
    ).replace("STEP", step)


HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "long output": "{% for a in range(99999) %}{% for b in range(999) %}" + "x" * 999 + "{% endfor %}{% endfor %}",
    "macro calling itself twice": "{% macro m(n) %}{{ m(n - 1) if n }}{{ m(n - 1) if n }}{% endmacro %}{{ m(50) }}",
    "macro calling itself for ever": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "blocks that double": "{% block b60 %}{% endblock %}"
    + "".join(
        f"{{% block b{i} %}}{{{{ self.b{i + 1}() * 2 if self.b{i + 1}() else 1 }}}}{{% endblock %}}" for i in range(60)
    ),
    "repeated text": "{{ 'a' * 10 ** 10 }}",
    "repeated text at compile time": "{{ ('a' * 10000) * 10000000 }}",
    "repeated list": "{{ [1] * 10 ** 10 }}",
    "power": "{{ 10 ** 99999 }}",
    "growing number": "{% set ns = namespace(n=3) %}{% for i in range(999) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "doubling with +": doubling("'aa'", "n.s = n.s + n.s"),
    "doubling with ~": doubling("'aa'", "n.s = n.s ~ n.s"),
    "doubling in a block": doubling("'aa'", "n.s %}{{ n.s }}{{ n.s }}{% endset"),
    "doubling lists": doubling("[1]", "n.s = [n.s, n.s]") + "{{ n.s == n.s }}",
    "doubling tuples as keys": doubling("(1,)", "n.s = (n.s, n.s)") + "{{ {n.s: 1} }}",
    "list of one long text": "{{ ['a' * 1000000] * 100000 }}",
    "join of one long text": "{{ (['a' * 1000000] * 100000) | join }}",
    "mapped to one long text": "{{ range(99999) | map(attribute='x', default='a' * 1000000) | list | length }}",
    "wide format": "{{ '%9999999999d' % 1 }}",
    "wide format from a variable": "{{ '%*d' % (9999999999, 1) }}",
    "wide format filter": "{{ '%9999999999d' | format(1) }}",
    "wide str.format": "{{ '{:>9999999999}'.format(1) }}",
    "nested str.format": "{{ '{:{}}'.format(1, 9999999999) }}",
    "wide str.format through an item": "{{ 'x{:>9999999999}'['format'](1) }}",
    "padding": "{{ 'a'.ljust(10 ** 10) }}",
    "centered": "{{ 'a' | center(10 ** 10) }}",
    "tabs": "{{ ('\\t' * 1000000).expandtabs(1000000) }}",
    "replace": "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "replace filter": "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
    "join method": "{{ ('a' * 1000000).join('b' * 1000000) }}",
    "indent": "{{ ('\\n' * 1000000) | indent(1000000) }}",
    "indented json": "{{ (['a'] * 1000000) | tojson(indent=1000000) }}",
    "batches": "{{ [1] | batch(10 ** 10, 'x') | list }}",
    "slices": "{{ [1] | slice(10 ** 10) | list }}",
    "deep expression": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "long expression": "{{ " + "+".join(["1"] * 50000) + " }}",
    "deep lists": "{% set n = namespace(s=[]) %}{% for i in range(9999) %}{% set n.s = [n.s] %}{% endfor %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_budget, "MAX_SECONDS", 0.3)
    start = time.thread_time()
    with pytest.raises(ValueError, match="chat template (was stopped|failed)"):
        rendered(HOSTILE[name])
    assert time.thread_time() - start < 4.0  # the time that it is given, and one operation


def test_long_conversations_are_no_reason_to_stop() -> None:
    messages = [{"role": "user" if index % 2 else "system", "content": "word " * 2000} for index in range(400)]
    template = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content.split(' ')|length %}"
        "{% if messages[0].get('content') and messages[loop.index0:] | selectattr('role', 'equalto', 'user') | list %}"
        "<{{ m.role }}>{{ m['content'] | trim }}{% endif %}{% endfor %}"
    )
    assert len(rendered(template, messages)) == 4_002_400


@pytest.mark.parametrize("messages", [None, "Hello", ["Hello"], {"role": "user"}, [{"content": "x"}], [{"role": 1}]])
def test_what_is_no_conversation_is_refused(messages: Any) -> None:
    with pytest.raises(ValueError, match=r"conversation must be a list of messages|messages\[0\] must have a 'role'"):
        render("x", messages, {})


def test_model_without_a_template_says_what_to_do(tmp_path: Path) -> None:
    tiny.write_tokenizer(tmp_path, chat_template=None)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.chat_template is None
    with pytest.raises(ValueError, match="no chat template.*chat_template="):
        tokenizer.apply_chat_template(MESSAGES)
    assert tokenizer.apply_chat_template(MESSAGES, chat_template="{{ bos_token }}!", tokenize=False) == "<s>!"


NAMED = [{"name": "default", "template": "list"}, {"name": "tool_use", "template": "tools"}]
# Every place where a template can stand, each saying where it stood.
PLACES: dict[str, dict[str, str]] = {
    "config": {"tokenizer_config.json": json.dumps({"chat_template": "config"})},
    "list": {"tokenizer_config.json": json.dumps({"chat_template": NAMED})},
    "json": {"chat_template.json": json.dumps({"chat_template": "json"})},
    "jinja": {
        "tokenizer_config.json": json.dumps({"chat_template": "config"}),
        "chat_template.jinja": "jinja",
    },
}


@pytest.mark.parametrize("expected", PLACES)
def test_template_is_found_wherever_it_stands(tmp_path: Path, expected: str) -> None:
    tiny.write_tokenizer(tmp_path, chat_template=None)
    for name, content in PLACES[expected].items():
        (tmp_path / name).write_text(content)
    assert Tokenizer.from_folder(tmp_path).apply_chat_template(MESSAGES, tokenize=False) == expected


def test_named_templates_are_chosen_by_name_or_by_tools() -> None:
    templates = {"default": "D", "tool_use": "T"}
    assert choose_template(templates, None) == "D"
    assert choose_template(templates, None, with_tools=True) == "T"
    assert choose_template(templates, "tool_use") == "T"
    assert choose_template(templates, "{{ text }}") == "{{ text }}"
    with pytest.raises(ValueError, match=r"no default chat template.*\['tool_use'\]"):
        choose_template({"tool_use": "T"}, None)


def test_model_tokens_cannot_be_overwritten_by_accident(tmp_path: Path) -> None:
    tiny.write_tokenizer(tmp_path)
    text = Tokenizer.from_folder(tmp_path).apply_chat_template(MESSAGES[:1], tokenize=False, enable_thinking=False)
    assert text == "<s>[system] Be brief.\n[assistant] "
