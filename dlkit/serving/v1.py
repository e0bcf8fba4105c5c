"""TensorFlow Serving's REST interface: its paths, codes and error bodies.

By `http_rest_api_handler.cc` and `http_rest_api_util.cc` of TensorFlow Serving. Departures: HEAD is
answered as GET; a version beyond int64 is told (Serving answers it without a body); the status of
a label is that of its version, as Serving's page says (its source lists all versions); answers to
predict, classify and regress hold no white space.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from dlkit.serving import bodies, classify, rest
from dlkit.serving.codes import CODES
from dlkit.serving.model import ServedModel, Signature
from dlkit.serving.service import Service
from dlkit.serving.tensors import QUOTED, RequestError

INFER = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?:(classify|regress|predict)",
    re.IGNORECASE,
)
DESCRIBE = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:/versions/([0-9]+)|/labels/([^/:]+))?(?:/(metadata))?",
    re.IGNORECASE,
)
VERBS = ("predict", "classify", "regress")
Find = Callable[[], ServedModel]
Work = Callable[..., Awaitable[Any]]  # calls a function of the arguments after it
# Bytes of a body that is parsed on the event loop: a hop to a thread would take longer.
AT_ONCE = 2**16


class RestV1:
    """Answers every request under /v1/models."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def __call__(self, request: Request) -> Response:
        """Answer a request.

        Raises:
            RequestError: for the app to write.
        """
        # Names are decoded after the path is taken apart: they may hold any letter.
        path = request.scope.get("raw_path", b"").decode("latin-1") or request.scope["path"]
        infer = INFER.fullmatch(path) if request.method == "POST" else None
        describe = DESCRIBE.fullmatch(path) if request.method in ("GET", "HEAD") else None
        if infer and infer[4] in VERBS:
            name, version, label, verb = infer.groups()
            return await self.infer(request, unquote(name), *_version(version, label), verb)
        if describe:
            name, version, label, metadata = describe.groups()
            if not name:
                raise RequestError("Missing model name in request.")
            write = self.metadata if metadata == "metadata" else self.status
            text = write(unquote(name), *_version(version, label))
            return Response(text, media_type="application/json")
        raise RequestError(f"Malformed request: {request.method} {path[:QUOTED]}")

    async def infer(
        self, request: Request, name: str, version: int | None, label: str | None, verb: str
    ) -> Response:
        """Answer a request to predict, classify or regress."""
        began, code = time.perf_counter(), "INTERNAL"
        known: list[ServedModel] = []

        def find() -> ServedModel:
            known.append(self.service.servables.find(name, version, label))
            return known[0]

        try:
            body = await bodies.read(request, self.service.limits)
            work = _here if len(body) <= AT_ONCE else asyncio.to_thread
            if verb == "predict":
                answer = await self._predict(body, find, work, request.scope)
            else:
                answer = await self._classify(body, find, work, request.scope, verb)
            code = "OK"
        except RequestError as error:
            code = CODES.get(error.status, "UNKNOWN")
            raise
        finally:
            if known:
                seconds = time.perf_counter() - began
                self.service.metrics.request(name, verb, "REST", code, seconds)
        answer, headers = bodies.zipped(request, answer)
        return Response(answer, headers=headers, media_type="application/json")

    # In Serving's order, a malformed body is told before an unknown model.

    async def _predict(self, body: bytes, find: Find, work: Work, scope: Scope) -> bytes:
        document = await work(rest.parse_predict, body)
        name = rest.signature_name(document)
        model = find()
        signature = _signature(model, name)
        arrays, by_row = await work(rest.decode_inputs, document, signature.inputs)
        endpoint = name or rest.DEFAULT_SIGNATURE
        outputs = await self.service.answer(model, endpoint, arrays, scope=scope)
        return rest.encode_outputs(outputs, row_format=by_row)

    async def _classify(
        self, body: bytes, find: Find, work: Work, scope: Scope, verb: str
    ) -> bytes:
        asked = await work(classify.read, body)
        name = asked.signature or rest.DEFAULT_SIGNATURE
        model = find()
        classify.check_signature(verb, name, model.signatures.get(name))
        arrays = {classify.INPUT: await work(classify.serialized, asked)}
        outputs = await self.service.answer(model, name, arrays, scope=scope)
        encode = classify.classes if verb == "classify" else classify.values
        return encode(outputs, len(asked.examples))

    def status(self, name: str, version: int | None, label: str | None) -> str:
        """Write where each version of a model stands, as a GetModelStatusResponse."""
        if label is not None:
            version = self.service.servables.find(name, label=label).version
        states = [
            {
                "version": str(state.version),
                "state": state.state,
                "status": {"error_code": state.code, "error_message": state.error},
            }
            for state in self.service.servables.states(name, version)
        ]
        return _indented({"model_version_status": states})

    def metadata(self, name: str, version: int | None, label: str | None) -> str:
        """Write the signatures of a version: a ModelSpec and a SignatureDefMap put together."""
        model = self.service.servables.find(name, version, label)
        spec = {"name": name, "signature_name": "", "version": str(model.version)}
        return (
            f'{{\n"model_spec":{_indented(spec)},\n'
            f'"metadata": {{"signature_def": {_indented(model.metadata)}}}\n}}\n'
        )


async def _here(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _signature(model: ServedModel, wanted: str) -> Signature:
    name = wanted or rest.DEFAULT_SIGNATURE
    if name not in model.metadata["signature_def"]:
        raise RequestError(f'Serving signature name: "{name[:QUOTED]}" not found in signature def')
    signature = model.signatures.get(name)
    if signature is None or not signature.inputs:
        raise RequestError(f"Failed to get input map for signature: {wanted or 'DEFAULT'}")
    return signature


def _version(version: str | None, label: str | None) -> tuple[int | None, str | None]:
    if version is None:
        return None, None if label is None else unquote(label)
    digits = version.lstrip("0") or "0"
    if len(digits) > 19 or int(digits) >= 2**63:
        raise RequestError(f"Failed to convert version: {version[:QUOTED]} to numeric.")
    return int(digits), None


def _indented(content: dict[str, Any]) -> str:
    """Write JSON as protobuf's printer does, which ends a document with a line feed."""
    return json.dumps(content, indent=1) + "\n"


def json_response(content: dict[str, Any], status: int = 200) -> Response:
    """Return an answer as TensorFlow Serving indents its errors."""
    body = json.dumps(content, indent=4).encode()
    return Response(body, status, media_type="application/json")
