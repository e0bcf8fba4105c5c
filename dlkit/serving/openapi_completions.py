"""The part of the OpenAPI document that tells of `/v1/completions`."""

from __future__ import annotations

from typing import Any

from dlkit.serving.completion_request import (
    INT32,
    MOST_LOGPROBS,
    MOST_STOPS,
    MOST_TEXTS,
    MOST_TOKENS,
    ONLY,
)
from dlkit.serving.openapi_parts import REFUSALS, Part, json_of, ref

STRINGS: Part = {"type": "array", "items": {"type": "string"}}
COUNT: Part = {"type": "integer", "minimum": 0}


def _within(kind: str, low: float, high: float, default: Any = None) -> Part:
    told = {} if default is None else {"default": default}
    return {"type": [kind, "null"], "minimum": low, "maximum": high, **told}


def schemas(names: list[str]) -> Part:
    """Return the components; `names` are those of the text generators that are served."""
    model: Part = {"type": "string"} | ({"enum": names} if names else {})
    text: Part = {"oneOf": [{"type": ["string", "null"]}, {**STRINGS, "minItems": 1}]}
    stop: Part = {
        "oneOf": [
            {"type": ["string", "null"], "minLength": 1},
            {**STRINGS, "items": {"type": "string", "minLength": 1}, "maxItems": MOST_STOPS},
        ]
    }
    request: Part = {
        "model": model,
        "prompt": {**text, "description": "Of a long one the last part counts."},
        "max_tokens": _within("integer", 0, MOST_TOKENS, 16),
        "temperature": _within("number", 0, 2, 1),
        "top_p": _within("number", 0, 1, 1),
        "top_k": {**_within("integer", 0, INT32, 0), "description": "Not OpenAI's; 0 for all."},
        "min_p": {**_within("number", 0, 1, 0), "description": "Not OpenAI's."},
        "n": {
            **_within("integer", 1, MOST_TEXTS, 1),
            "description": "Texts of seeds one after another.",
        },
        "best_of": {"type": ["integer", "null"], "description": "1 or the value of `n`."},
        "seed": {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
        "stop": stop,
        "stream": {"type": ["boolean", "null"], "default": False},
        "stream_options": {
            "type": ["object", "null"],
            "description": "With `stream` alone.",
            "properties": {"include_usage": {"type": "boolean"}},
            "additionalProperties": False,
        },
        "echo": {"type": ["boolean", "null"], "default": False},
        "logprobs": {**_within("integer", 0, MOST_LOGPROBS), "description": "Not beside `echo`."},
        "user": {"description": "Ignored."},
        **{
            name: {"enum": [*values, None], "description": "Accepted where it changes nothing."}
            for name, values in ONLY.items()
        },
    }
    logprobs: Part = {
        "type": ["object", "null"],
        "properties": {
            "tokens": STRINGS,
            "token_logprobs": {"type": "array", "items": {"type": "number"}},
            "top_logprobs": {"type": "array", "items": {"type": "object"}},
            "text_offset": {"type": "array", "items": COUNT},
        },
    }
    choice: Part = {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "index": COUNT,
            "finish_reason": {"enum": ["stop", "length", None]},
            "logprobs": logprobs,
        },
        "required": ["text", "index", "finish_reason", "logprobs"],
    }
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    answer: Part = {
        "id": {"type": "string"},
        "object": {"const": "text_completion"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": choice},
        "usage": {"type": "object", "properties": dict.fromkeys(counts, COUNT)},
    }
    told = {"message": "string", "type": "string", "param": ["string", "null"]}
    error: Part = {name: {"type": kind} for name, kind in told.items()}
    error["code"] = {"type": ["string", "null"]}
    return {
        "CompletionRequest": {
            "type": "object",
            "properties": request,
            "required": ["model"],
            "additionalProperties": False,
        },
        "Completion": {"type": "object", "properties": answer, "required": list(answer)},
        "CompletionError": {
            "type": "object",
            "properties": {"error": {"type": "object", "properties": error}},
            "required": ["error"],
        },
    }


def paths() -> Part:
    """Return the path."""
    refused = {
        str(status): {"description": REFUSALS[status], "content": json_of(ref("CompletionError"))}
        for status in (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)
    }
    events: Part = {"text/event-stream": {}}  # OpenAPI 3.1 has no words for what an event holds
    whole = json_of(ref("Completion"))
    example = {"model": "text", "prompt": "Once", "max_tokens": 50, "temperature": 0.8, "seed": 0}
    body = {"required": True, "content": json_of(ref("CompletionRequest"), example=example)}
    answered = {
        "description": "The texts, or with `stream` events `data: {...}` up to `data: [DONE]`.",
        "content": whole | events,
    }
    return {
        "/v1/completions": {
            "post": {
                "tags": ["completions"],
                "summary": "Go on with a prompt.",
                "requestBody": body,
                "responses": {"200": answered, **refused},
            }
        }
    }
