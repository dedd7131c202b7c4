"""The chat formats that families' authors publish outside of their folders: text for text, and what ends an answer."""

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from quire import LLM, SamplingParams
from quire.chat_defaults import CHAT_DEFAULTS
from quire.tokenizer import Tokenizer

TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes"},
    {"role": "user", "content": "Bye"},
]
SYSTEM = {"role": "system", "content": "Be brief."}
CHATML = ["<|im_start|>", "<|im_end|>"]
CHATML_TURNS = (
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\n"
)
CHATGLM = ["[gMASK]", "sop", "<|user|>", "<|observation|>"]
AQUILA = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)

# family -> fields of config.json, tokens of the vocabulary, and the text of TURNS
FORMATS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "qwen": (
        {"model_type": "qwen"},
        CHATML,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + CHATML_TURNS,
    ),
    "baichuan": (
        {"model_type": "baichuan"},
        [],
        "{195}Hi{196}Yes{195}Bye{196}",
    ),
    "glm4": (
        {"model_type": "chatglm"},
        ["[gMASK]", "<sop>", "<|user|>"],
        "[gMASK]<sop><|user|>\nHi<|assistant|>\nYes<|user|>\nBye<|assistant|>",
    ),
    "chatglm3": (
        {"model_type": "chatglm", "_name_or_path": "THUDM/chatglm3-6b"},
        CHATGLM,
        "[gMASK]sop<|user|>\n Hi<|assistant|>\n Yes<|user|>\n Bye<|assistant|>",
    ),
    "chatglm2": (
        {"model_type": "chatglm"},
        CHATGLM,
        "[gMASK]sop[Round 1]\n\n问：Hi\n\n答：Yes\n\n[Round 2]\n\n问：Bye\n\n答：",
    ),
    "internlm": (
        {"model_type": "internlm"},
        [],
        "<s><|User|>:Hi<eoh>\n<|Bot|>:Yes<eoa>\n<|User|>:Bye<eoh>\n<|Bot|>:",
    ),
    "internlm2": ({"model_type": "internlm2"}, CHATML, "<s>" + CHATML_TURNS),
    "xverse": (
        {"model_type": "xverse"},
        [],
        "Human: Hi\n\nAssistant: Yes</s>Human: Bye\n\nAssistant: ",
    ),
    "orion": (
        {"model_type": "orion"},
        [],
        "<s>Human: Hi\n\nAssistant: </s>Yes</s>Human: Bye\n\nAssistant: </s>",
    ),
    "aquila": (
        {"model_type": "aquila", "architectures": ["AquilaModel"]},
        [],
        AQUILA + "###Human: Hi###Assistant: Yes###Human: Bye###Assistant:",
    ),
    "aquila2": (
        {"model_type": "aquila", "architectures": ["AquilaForCausalLM"]},
        ["<|startofpiece|>", "<|endofpiece|>"],
        "<|startofpiece|>Hi<|endofpiece|>Yes</s><|startofpiece|>Bye<|endofpiece|>",
    ),
    "falcon": (
        {"model_type": "falcon"},
        [],
        "User: Hi\nFalcon: Yes\nUser: Bye\nFalcon:",
    ),
    "phi2": (
        {"model_type": "phi", "hidden_size": 2560},
        [],
        "Instruct: Hi\nOutput: Yes\nInstruct: Bye\nOutput:",
    ),
    "starchat": (
        {"model_type": "gpt_bigcode"},
        ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        "<|system|>\n<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nYes<|end|>\n<|user|>\nBye<|end|>\n<|assistant|>",
    ),
    "mpt": (
        {"model_type": "mpt"},
        CHATML,
        "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. The assistant gives helpful "
        "and honest answers.<|im_end|>\n" + CHATML_TURNS,
    ),
    "deci": (
        {"model_type": "deci"},
        [],
        "### System:\nYou are an AI assistant that follows instructions extremely well. Help as much as you can.\n"
        "### User:\nHi\n### Assistant:\nYes\n### User:\nBye\n### Assistant:\n",
    ),
}


def chat_folder(folder: Path, config: dict[str, Any], tokens: list[str], template: str | None = None) -> Path:
    """A tokenizer with these tokens, beside a config.json with these fields."""
    size = tiny.write_tokenizer(folder, template)
    content = json.loads((folder / "tokenizer.json").read_text())
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] += [{"id": size + index, "content": token, **flags} for index, token in enumerate(tokens)]
    tiny.write_json(folder / "tokenizer.json", content)
    tiny.write_json(folder / "config.json", config)
    return folder


def open_tokenizer(folder: Path, family: str, template: str | None = None) -> Tokenizer:
    config, tokens, _ = FORMATS[family]
    return Tokenizer.from_folder(chat_folder(folder, config, tokens, template))


@pytest.mark.parametrize("family", FORMATS)
def test_conversations_are_written_as_the_authors_do(tmp_path: Path, family: str) -> None:
    tokenizer = open_tokenizer(tmp_path, family)
    expected = FORMATS[family][2]
    for token_id in (195, 196):
        expected = expected.replace(f"{{{token_id}}}", tokenizer.convert_ids_to_tokens(token_id))
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) == expected
    assert isinstance(tokenizer.chat_template, str)


def test_every_default_is_tested() -> None:
    assert len(FORMATS) == len(CHAT_DEFAULTS)


@pytest.mark.parametrize("family", FORMATS)
def test_system_messages_are_written_or_refused_in_one_line(tmp_path: Path, family: str) -> None:
    tokenizer = open_tokenizer(tmp_path, family)
    if family in ("chatglm2", "xverse", "orion", "phi2"):
        with pytest.raises(ValueError, match="knows the roles user and assistant only, got system"):
            tokenizer.apply_chat_template([SYSTEM, *TURNS])
        return
    text = tokenizer.apply_chat_template([SYSTEM, *TURNS], tokenize=False)
    assert text.count("Be brief.") == 1 and text.index("Be brief.") < text.index("Hi")
    assert "helpful" not in text  # it stands instead of the format's own


@pytest.mark.parametrize("family", [name for name, (_, tokens, _) in FORMATS.items() if tokens])
def test_a_model_without_the_formats_tokens_has_no_default(tmp_path: Path, family: str) -> None:
    tokenizer = Tokenizer.from_folder(chat_folder(tmp_path, FORMATS[family][0], []))
    assert tokenizer.chat_template is None
    with pytest.raises(ValueError, match="no chat template.*chat_template="):
        tokenizer.apply_chat_template(TURNS)


@pytest.mark.parametrize("config", [{}, {"model_type": "llama"}, {"model_type": 7}, {"model_type": "phi"}])
def test_a_family_without_a_published_format_has_no_default(tmp_path: Path, config: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_folder(chat_folder(tmp_path, config, CHATML))
    assert tokenizer.chat_template is None
    assert tokenizer.chat_ends() == ([], [])


def test_the_folders_own_template_counts_before_the_default(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quire")
    tokenizer = open_tokenizer(tmp_path, "qwen", template="own")
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) == tokenizer.chat_template == "own"
    assert tokenizer.apply_chat_template(TURNS, chat_template="given", tokenize=False) == "given"
    assert not caplog.records


def test_use_of_the_default_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quire")
    tokenizer = open_tokenizer(tmp_path, "qwen")
    for _ in range(3):
        tokenizer.apply_chat_template(TURNS)
    (record,) = caplog.records
    assert record.getMessage().endswith("has no chat template; its authors' published default is used: Qwen's ChatML")


def test_answers_end_at_tokens_and_where_the_format_is_the_default_at_texts_too(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(tmp_path, "qwen")
    im_end, im_start = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|im_start|>"))
    assert tokenizer.chat_ends() == ([im_end, im_start], ["<|im_end|>", "<|im_start|>"])
    assert open_tokenizer(tmp_path, "baichuan").chat_ends()[0] == [195]
    assert open_tokenizer(tmp_path, "falcon").chat_ends() == ([], ["\nUser:"])
    assert open_tokenizer(tmp_path, "falcon", template="own").chat_ends() == ([], [])
    assert open_tokenizer(tmp_path, "qwen", template="own").chat_ends()[0] == [im_end, im_start]


@pytest.fixture(scope="module")
def falcon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that calls itself a Falcon to the tokenizer, so that its answers end where a Falcon's do."""
    model = tiny.make(tmp_path_factory.mktemp("model"), chat_template=None)
    (model / "falcon").mkdir()
    chat_folder(model / "falcon", {"model_type": "falcon"}, [])
    return model


def test_baichuan_encodes_every_message_by_itself(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    names = {195: "<reserved_106>", 196: "<reserved_107>"}
    symbols = [names.get(token_id, f"<unused_{token_id}>") for token_id in range(3, 200)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the dog and the cat look on", "and so on"]),
        model_writer=model,
        model_type="bpe",
        vocab_size=230,
        user_defined_symbols=symbols,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tiny.write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BaichuanTokenizer"})
    tiny.write_json(tmp_path / "config.json", {"model_type": "baichuan"})
    tokenizer = Tokenizer.from_folder(tmp_path)
    messages = [{"role": "user", "content": "the dog"}]
    assert tokenizer.apply_chat_template(messages) == [195, *tokenizer.encode("the dog"), 196]
    assert tokenizer.apply_chat_template([{"role": "system", "content": "on"}, *messages]) == [
        *tokenizer.encode("on"), 195, *tokenizer.encode("the dog"), 196,
    ]  # fmt: skip


def test_chat_ends_answers_and_leaves_the_callers_parameters_alone(
    falcon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLM(str(falcon), tokenizer=str(falcon / "falcon"), kv_cache_memory_bytes=1 << 20) as llm:
        params = SamplingParams(temperature=0, max_tokens=40)
        whole = llm.chat(TURNS, params, use_tqdm=False)[0].outputs[0].text
        end = whole[len(whole) // 2 :][:3]
        tokenizer = llm.get_tokenizer()
        token_id = llm.chat(TURNS, params, use_tqdm=False)[0].outputs[0].token_ids[2]
        for ends in (([], [end]), ([token_id], [])):
            monkeypatch.setattr(tokenizer, "chat_ends", lambda ends=ends: ends)
            first = llm.chat(TURNS, params, use_tqdm=False)[0].outputs[0]
            assert first.finish_reason == "stop" and len(first.text) < len(whole)
            with llm.stream_chat(TURNS, params) as outputs:
                assert "".join(output.outputs[0].text for output in outputs) == first.text
            assert (params.stop, params.stop_token_ids) == ([], [])
            # Whoever gives the format or wants no end gets neither.
            assert llm.chat(TURNS, params, use_tqdm=False, chat_template=tokenizer.chat_template)[0].outputs[0].text
            endless = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
            assert llm.chat(TURNS, endless, use_tqdm=False)[0].outputs[0].text == whole
        with pytest.raises(ValueError, match="must be a SamplingParams, got 'x'"):
            llm.chat(TURNS, ["x"], use_tqdm=False)


def test_the_command_line_talks_in_the_default_format(falcon: Path, run_quire: Callable[..., Any]) -> None:
    words = ["chat", "--model", str(falcon), "--tokenizer", str(falcon / "falcon"), "--max-tokens", "3"]
    result = run_quire(*words, "--system", "Be brief.", input="Hello\n")
    assert result.returncode == 0, result.stderr
