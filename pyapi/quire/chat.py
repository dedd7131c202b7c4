"""Conversations written as prompts, by the jinja2 templates that models bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def choose_template(templates: Mapping[str, str], wanted: str | None, with_tools: bool = False) -> str:
    """The template to use.

    Args:
        templates: the model's, by name.
        wanted: a name among them, or a template's text; None for the usual one.
        with_tools: prefer the one called tool_use.

    Raises: ValueError if there is none.
    """
    if wanted is not None:
        return templates.get(wanted, wanted)
    names = ["tool_use", "default"] if with_tools else ["default"]
    for name in names:
        if name in templates:
            return templates[name]
    if templates:
        raise ValueError(f"The model has no default chat template; pass chat_template= one of {sorted(templates)}.")
    raise ValueError(
        "The model has no chat template: neither tokenizer_config.json nor chat_template.jinja has one. "
        "Pass chat_template= (jinja2 text), or use generate() with a prompt of your own."
    )


def render(template: str, conversation: Sequence[dict[str, Any]], variables: Mapping[str, Any]) -> str:
    """Write a conversation with a template, as transformers does.

    The template comes with the model and is not trusted: it runs in jinja2's sandbox, for at most two seconds and
    with bounded texts (see quire.chat_sandbox).

    Raises: ValueError for what is no list of messages, and if the template fails, refuses them or takes too much.
    """
    if not isinstance(conversation, (list, tuple)) or not all(isinstance(message, dict) for message in conversation):
        raise ValueError("A conversation must be a list of messages, each a dict with 'role' and 'content'.")
    for index, message in enumerate(conversation):
        if not isinstance(message.get("role"), str):
            raise ValueError(f"messages[{index}] must have a 'role' that is a string, got {message.get('role')!r}.")
    from quire.chat_sandbox import render_bounded

    return render_bounded(template, {**variables, "messages": list(conversation)})
