"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

from quire import checks
from quire.server.chat import read_messages
from quire.server.errors import bad_request
from quire.server.protocol import DetokenizeRequest, TokenizeRequest, read_request
from quire.server.service import Service


async def tokenize(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    """Token ids of a prompt or a conversation, as a completion would use them. Raises: ApiError."""
    request = read_request(TokenizeRequest, body)
    service.require_model(request.model)
    if (request.prompt is None) == (request.messages is None):
        raise bad_request("Either prompt or messages must be given.", "prompt")
    if request.prompt is not None:
        text, param, with_special = request.prompt, "prompt", request.add_special_tokens is not False
    else:
        messages = read_messages(request.messages)
        text = await service.render_chat(messages, add_generation_prompt=request.add_generation_prompt is not False)
        param, with_special = "messages", bool(request.add_special_tokens)
    tokens = (await service.encode([text], with_special, param))[0]
    result = {"count": len(tokens), "max_model_len": service.max_model_len, "tokens": tokens}
    if request.return_token_strs:
        result["token_strs"] = service.llm.tokenizer.convert_ids_to_tokens(tokens)
    return result


async def detokenize(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    """The text of token ids. Raises: ApiError."""
    request = read_request(DetokenizeRequest, body)
    service.require_model(request.model)
    try:
        ids = checks.as_token_ids("tokens", request.tokens)
    except ValueError as error:
        raise bad_request(str(error)[:300], "tokens") from None
    size = service.llm.core.description.model.vocab_size
    if ids and max(ids) >= size:
        raise bad_request(f"tokens has the id {max(ids)}, but the vocabulary has {size} tokens.", "tokens")
    return {"prompt": service.llm.tokenizer.decode(ids)}
