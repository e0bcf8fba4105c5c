"""TensorFlow Serving's REST interface: its paths, codes and error bodies."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dlkit.serving import bodies, rest
from dlkit.serving.servables import CODES
from dlkit.serving.service import Service
from dlkit.serving.tensors import QUOTED, RequestError

# As in http_rest_api_util.cc.
PREDICT = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?:(classify|regress|predict)",
    re.IGNORECASE,
)
STATUS = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:/versions/([0-9]+)|/labels/([^/:]+))?(?:/(metadata))?",
    re.IGNORECASE,
)
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
        path = request.scope["path"]
        predict = PREDICT.fullmatch(path) if request.method == "POST" else None
        status = STATUS.fullmatch(path) if request.method in ("GET", "HEAD") else None
        if predict:
            name, version, label, verb = predict.groups()
            return await self.predict(request, name, _number(version), label, verb.lower())
        if status:
            name, version, label, metadata = status.groups()
            if not name:
                raise RequestError("Missing model name in request.")
            describe = self.metadata if metadata else self.status
            return json_response(describe(name, _number(version), label))
        raise RequestError(f"Malformed request: {request.method} {path[:QUOTED]}")

    async def predict(
        self, request: Request, name: str, version: int | None, label: str | None, verb: str
    ) -> Response:
        """Answer `instances` or `inputs`."""
        began, known = time.perf_counter(), False
        code = "OK"
        try:
            if verb != "predict":
                raise RequestError(f"{verb} is not served here: use predict")
            body = await bodies.read(request, self.service.limits)
            # In Serving's order: a malformed body is told before an unknown model.
            if len(body) > AT_ONCE:
                document = await asyncio.to_thread(rest.parse_document, body)
            else:
                document = rest.parse_document(body)
            wanted = rest.signature_name(document)
            model = self.service.servables.find(name, version, label)
            known = True
            signature = _signature(model, wanted)
            if len(body) > AT_ONCE:
                arrays, by_row = await asyncio.to_thread(
                    rest.decode_inputs, document, signature.inputs
                )
            else:
                arrays, by_row = rest.decode_inputs(document, signature.inputs)
            outputs = await self.service.answer(model, wanted, arrays)
            answer = rest.encode_outputs(outputs, row_format=by_row)
        except RequestError as error:
            code = CODES.get(error.status, "UNKNOWN")
            raise
        finally:
            if known:
                seconds = time.perf_counter() - began
                self.service.metrics.request(name, verb, "REST", code, seconds)
        answer, headers = bodies.zipped(request, answer)
        return Response(answer, headers=headers, media_type="application/json")

    def status(self, name: str, version: int | None, label: str | None) -> dict[str, Any]:
        """Return where each version of a model stands."""
        if label is not None:
            version = self.service.servables.find(name, label=label).version
        return {
            "model_version_status": [
                {
                    "version": str(state.version),
                    "state": state.state,
                    "status": {
                        "error_code": "UNKNOWN" if state.error else "OK",
                        "error_message": state.error,
                    },
                }
                for state in self.service.servables.states(name, version)
            ]
        }

    def metadata(self, name: str, version: int | None, label: str | None) -> dict[str, Any]:
        """Return the signatures of a version."""
        model = self.service.servables.find(name, version, label)
        spec = {"name": name, "signature_name": "", "version": str(model.version)}
        return {"model_spec": spec, "metadata": {"signature_def": model.metadata}}


def _signature(model: Any, wanted: str) -> Any:
    if wanted not in model.metadata["signature_def"]:
        quoted = f'"{wanted[:QUOTED]}"'
        raise RequestError(f"Serving signature name: {quoted} not found in signature def")
    signature = model.signatures.get(wanted)
    if signature is None or not signature.inputs:
        raise RequestError(f"Failed to get input map for signature: {wanted}")
    return signature


def _number(version: str | None) -> int | None:
    if version is None:
        return None
    if len(version) > 19 or int(version) >= 2**63:
        raise RequestError(f"Failed to convert version: {version[:QUOTED]} to numeric.")
    return int(version)


def json_response(content: dict[str, Any], status: int = 200) -> Response:
    """Return an answer as TensorFlow Serving indents it."""
    body = json.dumps(content, indent=1).encode()
    return Response(body, status, media_type="application/json")
