"""The chat counterpart of a base model, by the naming rules of the families people use."""

import re

from icm.errors import ConfigError

# Base name → chat name; the first rule that matches counts. Chat models are their own counterpart.
_RULES = (
    (r"embedded(:smollm2-135m-instruct)?", r"\g<0>"),
    (r".*[-_](Instruct|Chat|chat|it|chat-hf)([-_].*)?", r"\g<0>"),
    (r"(meta-llama/Llama-2-\d+b)-hf", r"\1-chat-hf"),
    (r"(meta-llama/(Meta-)?Llama-3[\w.-]*-\d+B)", r"\1-Instruct"),
    (r"(meta-llama/Llama-4-[\w.-]+)", r"\1-Instruct"),
    (r"(Qwen/Qwen3[\w.-]*)-Base", r"\1"),
    (r"(Qwen/Qwen(2|2\.5)-[\d.]+B)", r"\1-Instruct"),
    (r"(google/gemma-[23]-\w+)-pt", r"\1-it"),
    (r"(google/gemma-[23]n?-\w+)", r"\1-it"),
    (r"(mistralai/Mi[sx]tral-\w+)-(v[\d.]+)", r"\1-Instruct-\2"),
    (r"(HuggingFaceTB/SmolLM[23]?-[\d.]+[MB])", r"\1-Instruct"),
    (r"HuggingFaceTB/SmolLM3-3B-Base", "HuggingFaceTB/SmolLM3-3B"),
    (r"(allenai/OLMo-2-\d+-\d+B)", r"\1-Instruct"),
    (r"(tiiuae/[Ff]alcon3?-[\w.]+)-Base", r"\1-Instruct"),
    (r"(microsoft/[Pp]hi-4)", r"\1"),
)


def chat_counterpart(model: str) -> str:
    """The chat model that was made from the base model `model` ("meta-llama/Llama-3.1-8B" → "…-8B-Instruct").

    Raises:
        ConfigError: the family is not known; the chat model has to be named.
    """
    for pattern, chat in _RULES:
        match = re.fullmatch(pattern, model)
        if match:
            return match.expand(chat)
    raise ConfigError(f"no chat counterpart of {model!r} is known; name one with the condition's `model`")
