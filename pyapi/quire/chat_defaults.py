"""Chat formats that authors publish in code or on a model card, for families whose folders carry no template.

A folder's own template always counts before these. A row is chosen by the folder's config.json and by the tokens of
its vocabulary; a family that has none here, or a model of a family that lacks the tokens, has no default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class ChatDefault:
    """How a family writes conversations, and what ends its answers."""

    name: str
    model_types: tuple[str, ...]
    template: str
    ends: tuple[str, ...] = ()
    """What ends an answer besides the model's end-of-text token: tokens, names in `token_ids`, or other texts."""
    needs: tuple[str, ...] = ()
    """Tokens without which the model was not trained on this format."""
    token_ids: Mapping[str, int] = field(default_factory=dict)
    """Variables of the template that stand for the tokens with these ids."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of config.json that tell this member from others of its family."""
    named: str = ""
    """What the model's name has in it, where no field tells."""


_NO_SYSTEM = "{{ raise_exception('This model knows the roles user and assistant only, got ' ~ message.role ~ '.') }}"


def _chatml(before: str = "", system: str = "") -> str:
    """OpenAI's markup; `system` stands in front of a conversation that begins without a system message."""
    default = "{% if not messages or messages[0].role != 'system' %}<|im_start|>system\n" + system + "<|im_end|>\n"
    return (
        before
        + (default + "{% endif %}" if system else "")
        + "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def _turns(user: str, assistant: str, answer: str, system: str = _NO_SYSTEM, before: str = "") -> str:
    """A loop over the messages with one form for each role; `answer` begins an answer."""
    return (
        before
        + "{% for message in messages %}{% if message.role == 'user' %}" + user
        + "{% elif message.role == 'assistant' %}" + assistant
        + "{% else %}" + system
        + "{% endif %}{% endfor %}{% if add_generation_prompt %}" + answer + "{% endif %}"
    )  # fmt: skip


_AQUILA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_DECI_SYSTEM = "You are an AI assistant that follows instructions extremely well. Help as much as you can."
_MPT_SYSTEM = (
    "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
)

# The first row that fits counts. A line break must not stand right behind a block tag, where jinja2 drops it.
CHAT_DEFAULTS = (
    # Source: Qwen/Qwen-7B-Chat:qwen_generation_utils.py.
    ChatDefault(
        name="Qwen's ChatML",
        model_types=("qwen",),
        template=_chatml(system="You are a helpful assistant."),
        ends=("<|im_end|>", "<|im_start|>"),
        needs=("<|im_start|>", "<|im_end|>"),
    ),
    # Baichuan 1 and 2 give these ids to tokens of different names.
    # Source: baichuan-inc/Baichuan2-7B-Chat:generation_utils.py.
    ChatDefault(
        name="Baichuan's chat format",
        model_types=("baichuan",),
        template=_turns(
            user="{{ user_token + message.content }}",
            assistant="{{ assistant_token + message.content }}",
            answer="{{ assistant_token }}",
            system="{{ message.content }}",
        ),
        ends=("user_token",),
        token_ids={"user_token": 195, "assistant_token": 196},
    ),
    # Source: THUDM/glm-4-9b-chat:tokenization_chatglm.py.
    ChatDefault(
        name="GLM-4's chat format",
        model_types=("chatglm",),
        template="[gMASK]<sop>{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ends=("<|user|>", "<|observation|>"),
        needs=("<sop>", "<|user|>"),
    ),
    # Source: THUDM/chatglm3-6b:tokenization_chatglm.py, build_chat_input.
    ChatDefault(
        name="ChatGLM3's chat format",
        model_types=("chatglm",),
        template="[gMASK]sop{% for message in messages %}<|{{ message.role }}|>\n {{ message.content }}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ends=("<|user|>", "<|observation|>"),
        needs=("[gMASK]", "<|user|>"),
        named="chatglm3",
    ),
    # Source: THUDM/chatglm2-6b:tokenization_chatglm.py, build_prompt.
    ChatDefault(
        name="ChatGLM2's rounds",
        model_types=("chatglm",),
        template="[gMASK]sop{% set ns = namespace(round=0) %}"
        + _turns(
            user="{% set ns.round = ns.round + 1 %}[Round {{ ns.round }}]\n\n问：{{ message.content }}\n\n答：",
            assistant="{{ message.content }}\n\n",
            answer="",
        ),
        needs=("[gMASK]",),
    ),
    # Source: internlm/internlm-chat-7b:modeling_internlm.py, build_inputs.
    ChatDefault(
        name="InternLM's chat format",
        model_types=("internlm",),
        template=_turns(
            before="{{ bos_token }}",
            user="<|User|>:{{ message.content }}<eoh>\n",
            assistant="<|Bot|>:{{ message.content }}<eoa>\n",
            answer="<|Bot|>:",
            system="<|System|>:{{ message.content }}\n",
        ),
        ends=("<eoa>",),
    ),
    # Source: internlm/internlm2-chat-7b:modeling_internlm2.py, build_inputs.
    ChatDefault(
        name="InternLM2's ChatML",
        model_types=("internlm2",),
        template=_chatml(before="{{ bos_token }}"),
        ends=("<|im_end|>",),
        needs=("<|im_start|>", "<|im_end|>"),
    ),
    # Source: xverse/XVERSE-13B-Chat:modeling_xverse.py, _build_chat_input.
    ChatDefault(
        name="XVERSE's chat format",
        model_types=("xverse",),
        template=_turns(
            user="Human: {{ message.content }}\n\n",
            assistant="Assistant: {{ message.content }}{{ eos_token }}",
            answer="Assistant: ",
        ),
    ),
    # Source: OrionStarAI/Orion-14B-Chat:generation_utils.py.
    ChatDefault(
        name="Orion's chat format",
        model_types=("orion",),
        template=_turns(
            before="{{ bos_token }}",
            user="Human: {{ message.content }}\n\nAssistant: {{ eos_token }}",
            assistant="{{ message.content }}{{ eos_token }}",
            answer="",
        ),
    ),
    # Source: BAAI/AquilaChat-7B:cyg_conversation.py; the second one BAAI/AquilaChat2-7B:predict.py, aquila-v1.
    ChatDefault(
        name="AquilaChat's format",
        model_types=("aquila",),
        template=_turns(
            before="{% if not messages or messages[0].role != 'system' %}" + _AQUILA_SYSTEM + "###{% endif %}",
            user="Human: {{ message.content }}###",
            assistant="Assistant: {{ message.content }}###",
            answer="Assistant:",
            system="{{ message.content }}###",
        ),
        ends=("###", "</s>"),
        config={"architectures": ["AquilaModel"]},
    ),
    ChatDefault(
        name="AquilaChat2's format",
        model_types=("aquila",),
        template=_turns(
            user="<|startofpiece|>{{ message.content }}",
            assistant="<|endofpiece|>{{ message.content }}</s>",
            answer="<|endofpiece|>",
            system="{{ message.content }}",
        ),
        ends=("</s>", "<|endoftext|>"),
        needs=("<|startofpiece|>", "<|endofpiece|>"),
    ),
    # Source: the model card of tiiuae/falcon-180B-chat.
    ChatDefault(
        name="Falcon's chat format",
        model_types=("falcon", "RefinedWeb", "RefinedWebModel"),
        template=_turns(
            user="User: {{ message.content }}\n",
            assistant="Falcon: {{ message.content }}\n",
            answer="Falcon:",
            system="System: {{ message.content }}\n",
        ),
        ends=("\nUser:",),
    ),
    # Source: the model card of microsoft/phi-2.
    ChatDefault(
        name="Phi-2's question and answer format",
        model_types=("phi",),
        template=_turns(
            user="Instruct: {{ message.content }}\n",
            assistant="Output: {{ message.content }}\n",
            answer="Output:",
        ),
        ends=("\nInstruct:",),
        config={"hidden_size": 2560},
    ),
    # Source: the model card of HuggingFaceH4/starchat-beta.
    ChatDefault(
        name="StarChat's format",
        model_types=("gpt_bigcode",),
        template="{% if not messages or messages[0].role != 'system' %}<|system|>\n<|end|>\n{% endif %}"
        "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ends=("<|end|>",),
        needs=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    ),
    # Source: the model card of mosaicml/mpt-30b-chat.
    ChatDefault(
        name="MPT's ChatML",
        model_types=("mpt",),
        template=_chatml(system=_MPT_SYSTEM),
        ends=("<|im_end|>",),
        needs=("<|im_start|>", "<|im_end|>"),
    ),
    # Source: the model card of Deci/DeciLM-7B-instruct.
    ChatDefault(
        name="DeciLM's instruction format",
        model_types=("deci",),
        template=_turns(
            before="{% if not messages or messages[0].role != 'system' %}### System:\n"
            + _DECI_SYSTEM
            + "\n{% endif %}",
            user="### User:\n{{ message.content }}\n",
            assistant="### Assistant:\n{{ message.content }}\n",
            answer="### Assistant:\n",
            system="### System:\n{{ message.content }}\n",
        ),
        ends=("### User:",),
    ),
)


class _Tokens(Protocol):
    def id_of(self, token: str) -> int | None: ...
    def token_of(self, token_id: int) -> str | None: ...


def find_chat_default(config: Mapping[str, Any], names: str, tokens: _Tokens) -> ChatDefault | None:
    """The default of a model, if its family has one.

    Args:
        config: config.json.
        names: all names that the model's files and its folder give it.
    """
    for row in CHAT_DEFAULTS:
        if (
            config.get("model_type") in row.model_types
            and all(config.get(name) == value for name, value in row.config.items())
            and row.named in names.lower()
            and all(tokens.id_of(token) is not None for token in row.needs)
            and all(tokens.token_of(token_id) is not None for token_id in row.token_ids.values())
        ):
            return row
    return None
