"""The server answers the golden cases as TensorFlow Serving does, and no wrong server does.

The cases, with the rule that each rests on, are in `golden/`; its README says how to read them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from golden_cases import CASES, Client, wrong
from starlette.responses import Response

from dlkit.serving import app, bodies, classify, documents, rest, tensors, v1
from dlkit.serving.metrics import Metrics
from dlkit.serving.model import Signature
from dlkit.serving.servables import Servables
from dlkit.serving.tensors import RequestError

Outputs = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(tmp_path_factory.mktemp("golden"))
    yield client
    client.close()


@pytest.mark.parametrize("name", CASES)
def test_golden(client: Client, name: str) -> None:
    assert wrong(CASES[name], client.send(CASES[name]["request"])) == ""


def test_every_case_says_what_it_rests_on() -> None:
    assert len(CASES) >= 60
    for case in CASES.values():
        assert case["rule"]
        assert case["basis"] in ("run", "test", "documentation", "reading")


def rotated(outputs: Outputs) -> Outputs:
    """Give each output the next one's array."""
    arrays = list(outputs.values())
    return dict(zip(outputs, arrays[1:] + arrays[:1], strict=True))


def backwards(outputs: Outputs) -> Outputs:
    """Give the rows from last to first."""
    return {name: array[::-1] if array.ndim else array for name, array in outputs.items()}


def truncated(array: np.ndarray) -> np.ndarray:
    """Make whole numbers of finite decimal numbers."""
    whole = array.dtype.kind == "f" and np.isfinite(array).all()
    return array.astype(np.int64) if whole else array


def wrapped(right: Any) -> Any:
    """Let integers wrap around."""

    def scalars(items: Any, dtype: str) -> np.ndarray:
        kinds = {type(item) for item in items}
        return (
            np.array(items).astype(dtype)
            if kinds == {int} and dtype == "int32"
            else right(items, dtype)
        )

    return scalars


def known_inputs_only(right: Any) -> Any:
    """Refuse a name that the signature lacks."""

    def columns(given: Any, specs: Any) -> Any:
        if isinstance(given, dict) and not given.keys() <= specs.keys() | {"b64"}:
            raise RequestError("no such input")
        return right(given, specs)

    return columns


def model_first(right: Any) -> Any:
    """Look for the model before the body is parsed."""

    async def predict(self: Any, body: bytes, find: Any, *rest: Any) -> bytes:
        find()
        return await right(self, body, find, *rest)

    return predict


def by_method(right: Any) -> Any:
    """Look at the name of the signature's method."""

    def check(verb: str, name: str, signature: Signature | None) -> Signature:
        found = right(verb, name, signature)
        if not found.method.endswith(verb):
            raise RequestError("another method")
        return found

    return check


def taking(kind: str, *types: type) -> tuple[Any, str, Any]:
    """Let the types of a kind take other JSON."""
    return tensors, "TAKEN", lambda right: right | {kind: set(types)}


# What is wrong -> the file of cases that must see it, where, and the wrong thing made of the right.
WRONG: dict[str, tuple[str, Any, str, Callable[[Any], Any]]] = {
    "400 for what is not found": (
        "predict_errors",
        RequestError,
        "__init__",
        lambda right: lambda self, text, status=400: right(self, text, status - status % 10),
    ),
    "404 for an unknown label": (
        "predict_errors",
        RequestError,
        "__init__",
        lambda right: lambda self, t, status=400: right(self, t, 404 if "label" in t else status),
    ),
    "swapped outputs": (
        "predict",
        rest,
        "encode_outputs",
        lambda right: lambda outputs, **form: right(rotated(outputs), **form),
    ),
    "lost batch order": (
        "predict",
        rest,
        "encode_outputs",
        lambda right: lambda outputs, **form: right(backwards(outputs), **form),
    ),
    "columns for rows": (
        "predict",
        rest,
        "encode_outputs",
        lambda right: lambda outputs, row_format: right(outputs, row_format=False),
    ),
    "dropped base64": (
        "predict",
        tensors,
        "from_base64",
        lambda right: lambda v: v["b64"].encode(),
    ),
    "bytes as text": ("predict", tensors, "to_base64", lambda right: lambda value: value.decode()),
    "all strings as base64": (
        "predict",
        rest,
        "to_json",
        lambda right: lambda name, array, **form: right(f"{name}_bytes", array, **form),
    ),
    "an ignored signature_name": (
        "predict",
        rest,
        "signature_name",
        lambda right: lambda document: "",
    ),
    "NaN as null": (
        "predict",
        rest,
        "to_json",
        lambda right: (
            lambda name, array, by_row, finite: right(name, array, by_row=by_row, finite=True)
        ),
    ),
    "NaN as text": ("predict", tensors, "_bare", lambda right: str),
    "NaN refused": ("predict", documents, "_parse_leniently", lambda right: lambda body: None),
    "booleans as integers": ("predict_errors", *taking("i", int, bool)),
    "decimals as integers": ("predict_errors", *taking("i", int, float)),
    "booleans as pixels": ("predict_errors", *taking("u", int, bool)),
    "booleans as floats": ("predict_errors", *taking("f", int, float, bool)),
    "integers as booleans": ("predict_errors", *taking("b", int, bool)),
    "no whole number as float": ("predict", *taking("f", float)),
    "integers that wrap around": ("predict_errors", tensors, "scalars", wrapped),
    "floats cut to integers": (
        "predict",
        rest,
        "to_json",
        lambda right: lambda name, array, **form: right(name, truncated(array), **form),
    ),
    "a single output by its name": (
        "predict",
        rest,
        "_dump",
        lambda right: (
            lambda *outputs, **form: right(*outputs, **form).replace(b":[", b':{"y":[', 1) + b"}"
        ),
    ),
    "unknown inputs refused": ("predict", rest, "_from_columns", known_inputs_only),
    "the version ignored": (
        "predict",
        Servables,
        "find",
        lambda right: lambda self, name, version=None, label=None: right(self, name, None, label),
    ),
    "the label ignored": (
        "predict",
        Servables,
        "find",
        lambda right: lambda self, name, version=None, label=None: right(self, name, version),
    ),
    "a row's error without its row": (
        "predict_errors",
        rest,
        "_row_by_row",
        lambda right: lambda rows, specs, named: rest._from_columns(rows, specs),
    ),
    "another name of the code": (
        "predict_errors",
        rest,
        "STATUS_NAMES",
        lambda right: {400: "", 501: ""},
    ),
    "another offset": (
        "predict_errors",
        documents,
        "_reason",
        lambda right: lambda error: (right(error)[0], right(error)[1] + 1),
    ),
    "Python's words": ("predict_errors", documents, "REASONS", lambda right: {}),
    "the model before the body": ("predict_errors", v1.RestV1, "_predict", model_first),
    "the oldest status first": (
        "status_metadata",
        Servables,
        "states",
        lambda right: lambda *asked: right(*asked)[::-1],
    ),
    "ended versions left out": (
        "status_metadata",
        Servables,
        "states",
        lambda right: lambda *asked: [s for s in right(*asked) if s.state != "END" or s.error],
    ),
    "a failed version OK": (
        "status_metadata",
        v1,
        "_indented",
        lambda right: lambda content: right(content).replace('"OUT_OF_RANGE"', '"OK"'),
    ),
    "versions as numbers": (
        "status_metadata",
        v1,
        "_indented",
        lambda right: lambda content: right(content).replace('"123"', "123"),
    ),
    "metadata without what is empty": (
        "status_metadata",
        v1,
        "_indented",
        lambda right: lambda content: re.sub(r',\s+"defaults": {}', "", right(content)),
    ),
    "another indentation": (
        "status_metadata",
        v1,
        "_indented",
        lambda right: lambda content: json.dumps(content, indent=2) + "\n",
    ),
    "errors on one line": (
        "status_metadata",
        app,
        "json_response",
        lambda right: lambda content, status: Response(json.dumps(content), status),
    ),
    "errors under another key": (
        "paths",
        app,
        "json_response",
        lambda right: lambda content, status: right({"message": content["error"]}, status),
    ),
    "capitals refused": ("paths", v1, "INFER", lambda right: re.compile(right.pattern)),
    "label for labels": (
        "paths",
        v1,
        "INFER",
        lambda right: re.compile(right.pattern.replace("labels", "labels?"), re.IGNORECASE),
    ),
    "verbs in capitals": ("paths", v1, "VERBS", lambda right: (*right, "PREDICT")),
    "names not decoded": ("paths", v1, "unquote", lambda right: str),
    "examples in another order": (
        "classify_regress",
        classify,
        "classes",
        lambda right: lambda outputs, count: right(backwards(outputs), count),
    ),
    "classes in another order": (
        "classify_regress",
        classify,
        "classes",
        lambda right: lambda outputs, n: right({k: a[:, ::-1] for k, a in outputs.items()}, n),
    ),
    "labels lost": (
        "classify_regress",
        classify,
        "classes",
        lambda right: lambda outputs, n: right({"scores": outputs["scores"]}, n),
    ),
    "the context lost": (
        "classify_regress",
        classify,
        "read",
        lambda right: lambda body: right(body)._replace(context={}),
    ),
    "the method's name looked at": ("classify_regress", classify, "check_signature", by_method),
    "values in lists": (
        "classify_regress",
        classify,
        "values",
        lambda right: lambda *outputs: right(*outputs).replace(b"[", b"[[").replace(b"]", b"]]"),
    ),
    "gzip not undone": ("http", bodies, "unzipped", lambda right: lambda body, *asked: body),
    "gzip not told": (
        "http",
        bodies,
        "zipped",
        lambda right: lambda *asked: (right(*asked)[0], {}),
    ),
    "nothing zipped": ("http", bodies, "zipped", lambda right: lambda request, body: (body, {})),
    "requests not counted": ("http", Metrics, "text", lambda right: lambda self: b""),
    "another name of the counter": (
        "http",
        Metrics,
        "text",
        lambda right: lambda self: right(self).replace(b"request_count", b"request_count_total"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_server_fails(client: Client, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    file, owner, attribute, change = WRONG[name]
    monkeypatch.setattr(owner, attribute, change(getattr(owner, attribute)))
    cases = [case for key, case in CASES.items() if key.startswith(f"v1_{file}: ")]
    assert any(wrong(case, client.send(case["request"])) for case in cases)
