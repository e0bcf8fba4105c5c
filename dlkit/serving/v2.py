"""The Open Inference Protocol V2 over HTTP: its paths, codes and error bodies.

By KServe's `required_api.md` ("HTTP/REST") and, for the index of the repository, Triton's
`extension_model_repository.md`. Departures from Triton: unknown models are 404, as in KServe's own
server, and health answers have a body, as in the Open Inference Protocol's later text.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

import dlkit
from dlkit.errors import nearest, one_of
from dlkit.serving import bodies, v2_infer
from dlkit.serving.codes import CODES
from dlkit.serving.documents import parse_document
from dlkit.serving.model import ServedModel, Signature
from dlkit.serving.rest import DEFAULT_SIGNATURE
from dlkit.serving.service import Service
from dlkit.serving.tensors import QUOTED, RequestError, quoted

MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([0-9]+))?(?:/(infer|ready))?")
LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ["binary_tensor_data", "parameters", "model_repository"]
# By engine, as "Platforms" of required_api.md lists them. LiteRT is not listed: its name is made as
# those are, of a project and a format.
PLATFORMS = {
    "tensorflow": "tensorflow_savedmodel",
    "onnx": "onnx_onnxv1",
    "litert": "litert_tflite",
}
AT_ONCE = 2**16  # bytes that are handled on the event loop: a hop to a thread would take longer
# Of servables.State, as Triton names them.
STATES = {"START": "LOADING", "AVAILABLE": "READY", "END": "UNAVAILABLE"}


class RestV2:
    """Answers every request under /v2."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def __call__(self, request: Request) -> Response:
        """Answer a request.

        Raises:
            RequestError: for the app to write.
        """
        path = request.scope["path"].rstrip("/")
        model = MODEL.fullmatch(path)
        if model and model[3] == "infer":
            _allow(request, "POST")
            return await self.infer(request, model[1], _number(model[2]))
        if path == "/v2/repository/index":
            _allow(request, "POST")
            return _json(self.index(await bodies.read(request, self.service.limits)))
        if model:
            _allow(request, "GET", "HEAD")
            if model[3] == "ready":
                self.find(model[1], _number(model[2]))
                return _json({"name": model[1], "ready": True})
            signature = request.query_params.get("signature_name", "")
            return _json(self.metadata(model[1], _number(model[2]), signature))
        if path in ("/v2", "/v2/health/live", "/v2/health/ready"):
            _allow(request, "GET", "HEAD")
            if path == "/v2":
                about = {"name": "dlkit", "version": dlkit.__version__}
                return _json(about | {"extensions": EXTENSIONS})
            if path.endswith("live"):
                return _json({"live": True})
            ready = not self.service.draining and self.service.servables.ready()
            return _json({"ready": ready}, 200 if ready else 400)  # "a 4xx status indicates false"
        raise RequestError(f"Not found: {quoted(request.scope['path'])}", 404)

    async def infer(self, request: Request, name: str, version: int | None) -> Response:
        """Answer an inference request."""
        began = time.perf_counter()
        model, code = None, "INTERNAL"
        try:
            model = self.find(name, version)
            body = await bodies.read(request, self.service.limits)
            document, binary = await _aside(
                len(body), v2_infer.split, body, request.headers.get(LENGTH)
            )
            if document is None:
                options = v2_infer.Options(binary=True)
            else:
                options = v2_infer.read_options(document)
            signature = find_signature(model, options.signature)
            wanted = v2_infer.wanted_outputs(options, signature.outputs)
            if document is None:
                arrays = v2_infer.decode_raw(binary, signature.inputs)
            else:
                arrays = await _aside(
                    len(body), v2_infer.decode_inputs, document, binary, signature.inputs
                )
            outputs = await self.service.answer(
                model, options.signature, arrays, options.timeout, request.scope
            )
            answer = {"model_name": name, "model_version": str(model.version)}
            if options.id:
                answer["id"] = options.id
            large = sum(array.nbytes for array in outputs.values())
            body, length = await _aside(large, v2_infer.encode_answer, answer, outputs, wanted)
            body, headers = await _aside(len(body), bodies.zipped, request, body)
            code = "OK"
        except RequestError as error:
            code = CODES.get(error.status, "UNKNOWN")
            raise
        finally:
            if model is not None:
                seconds = time.perf_counter() - began
                self.service.metrics.request(name, "infer", "REST", code, seconds)
        if length is None:
            return Response(body, headers=headers, media_type="application/json")
        headers[LENGTH] = str(length)
        return Response(body, headers=headers, media_type="application/octet-stream")

    def metadata(self, name: str, version: int | None, signature_name: str) -> dict[str, Any]:
        """Return what a signature takes and gives; `serving_default` unless named."""
        model = self.find(name, version)
        signature = find_signature(model, signature_name or DEFAULT_SIGNATURE)
        return {
            "name": name,
            "versions": [str(m.version) for m in reversed(self.service.servables.versions(name))],
            "platform": PLATFORMS[model.engine.partition("-")[0]],
            "inputs": v2_infer.describe(signature.inputs),
            "outputs": v2_infer.describe(signature.outputs),
        }

    def index(self, body: bytes) -> list[dict[str, str]]:
        """Return where each version of each model stands."""
        ready = parse_document(body).get("ready", False) if body else False
        if not isinstance(ready, bool):
            raise RequestError("'ready' must be true or false")
        return [
            {
                "name": name,
                "version": str(state.version),
                "state": STATES.get(state.state, state.state),
                "reason": state.error,
            }
            for name in self.service.servables.names()
            for state in self.service.servables.states(name)
            if state.state == "AVAILABLE" or not ready
        ]

    def find(self, name: str, version: int | None) -> ServedModel:
        """Return the version that answers: the newest unless one is named.

        Raises:
            RequestError: 404, in the words of Triton's model_repository_manager.cc.
        """
        try:
            return self.service.servables.find(name, version)
        except RequestError as error:
            wanted = quoted(name) + ("" if version is None else f" version {version}")
            hint = nearest(name[:QUOTED], self.service.servables.names())
            text = f"Request for unknown model: {wanted} is not found{hint}"
            raise RequestError(text, error.status) from None


def find_signature(model: ServedModel, name: str) -> Signature:
    """Return a signature that takes tensors.

    Raises:
        RequestError: 400 if the model has none of that name.
    """
    signature = model.signatures.get(name)
    if signature is None or not signature.inputs:
        known = [key for key, each in model.signatures.items() if each.inputs]
        hint = nearest(name[:QUOTED], known)
        raise RequestError(
            f"Model '{model.name}' has no signature {quoted(name)}{hint}; parameter "
            f"'signature_name' may be {one_of(known)}"
        )
    return signature


async def _aside(size: int, function: Callable[..., Any], *args: Any) -> Any:
    if size > AT_ONCE:
        return await asyncio.to_thread(function, *args)
    return function(*args)


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise RequestError("Method Not Allowed", 405)


def _number(version: str | None) -> int | None:
    if version is not None and (len(version) > 19 or int(version) >= 2**63):
        raise RequestError(f"Version {version[:QUOTED]} is no 64-bit number")
    return None if version is None else int(version)


def error_response(message: str, status: int) -> Response:
    """Return the protocol's error body; a message may quote what no UTF-8 can hold."""
    return Response(json.dumps({"error": message}), status, media_type="application/json")


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
