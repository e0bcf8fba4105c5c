"""Requests to a server, drawn at random: right ones, and such as are broken somewhere."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import struct
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np


class Request(NamedTuple):
    """One HTTP request."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


class Generator:
    """Draws requests; the same seed draws the same ones.

    Args:
        seed: of the draws.
        images: right ones, encoded.
        shape: of the image classifier's pixels.
        endpoints: of the text generator, as its manifest has them.
    """

    def __init__(
        self, seed: int, images: list[bytes], shape: tuple[int, ...], endpoints: dict[str, Any]
    ) -> None:
        self.random, self.images, self.shape = random.Random(seed), images, shape
        self.endpoints = endpoints
        self.kinds: list[tuple[Callable[[], Request], int]] = [
            (self.v1, 40),
            (self.v2, 30),
            (self.completion, 10),
            (self.path, 20),
        ]

    def draw(self) -> Request:
        """Draw a request."""
        kinds, weights = zip(*self.kinds, strict=True)
        return self.random.choices(kinds, weights)[0]()

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def text(self) -> str:
        letters = "aZ0 ._-/%:'\"\\\n\r\x00\u00e9\u2028\u20ac\U0001f600\ud83d\udfff"
        return "".join(self.random.choices(letters, k=self.random.randrange(12)))

    def number(self) -> Any:
        edges = [0, -1, 255, 256, 2**31, 2**53, 2**63, 2**64, 10**400, -0.0, 0.1, 1e39, 5e-324]
        edges += [float("nan"), float("inf"), float("-inf")]
        drawn = (self.random.randrange(-(10**6), 10**6), self.random.gauss(0, 100))
        return self.random.choice([*edges, *drawn])

    def anything(self, depth: int = 3) -> Any:
        """Draw any JSON."""
        kind = self.random.randrange(9 if depth else 6)
        if kind < 3:
            return self.number()
        if kind == 3:
            return self.text()
        if kind == 4:
            return self.random.choice([None, True, False, "", [], {}])
        if kind == 5:
            return {"b64": self.random.choice([self.text(), "QUJD", "QQ", None, 1])}
        count = self.random.randrange(4)
        if kind < 8:
            return [self.anything(depth - 1) for _ in range(count)]
        return {self.name(): self.anything(depth - 1) for _ in range(count)}

    def name(self) -> str:
        names = ["instances", "inputs", "image", "pixels", "prompt", "max_tokens", "name", "b64"]
        return self.random.choice([*names, self.text()])

    def changed(self, value: Any) -> Any:
        """Put something else somewhere into a document."""
        if isinstance(value, dict) and value and self.chance(0.8):
            key = self.random.choice(list(value))
            more = dict(value)
            if self.chance(0.15):
                del more[key]
            else:
                more[key] = self.changed(more[key])
            return more
        if isinstance(value, list) and value and self.chance(0.8):
            at = self.random.randrange(len(value))
            return [*value[:at], self.changed(value[at]), *value[at + 1 :]]
        return self.anything()

    def image(self) -> bytes:
        """Draw an encoded image, often one that is broken."""
        image = self.random.choice(self.images)
        if self.chance(0.8):
            return image
        if self.chance(0.3):
            return image[: self.random.randrange(len(image))]
        changed = bytearray(image)
        for _ in range(self.random.randrange(1, 8)):
            changed[self.random.randrange(len(changed))] = self.random.randrange(256)
        return bytes(changed)

    def pixels(self, rows: int) -> list[Any]:
        values = np.array(self.random.choices(range(256), k=rows * int(np.prod(self.shape))))
        return values.reshape(rows, *self.shape).tolist()

    def v1(self) -> Request:
        """Draw a request to V1."""
        rows = self.random.randrange(1, 4)
        model = self.random.choice(["image", "image", "text"])
        if model == "image" and self.chance(0.5):
            document: Any = {"signature_name": "from_pixels", "instances": self.pixels(rows)}
        elif model == "image":
            encoded = [base64.b64encode(self.image()).decode() for _ in range(rows)]
            document = {"instances": [{"b64": each} for each in encoded]}
        elif self.chance(0.5):
            row = {"prompt": "The ", "max_tokens": 2, "top_k": 5, "seed": 1}
            row |= {"temperature": 1.0, "top_p": 0.9}
            row[self.random.choice(list(row))] = self.number() if self.chance(0.3) else 1
            document = {"instances": [row] * rows}
        else:
            document = self.any_endpoint(rows)
        verb = "predict" if self.chance(0.9) else self.random.choice(["classify", "regress", "x"])
        version = self.random.choice([*[""] * 5, "/versions/1", "/versions/2", "/labels/stable"])
        return self.packed("POST", f"/v1/models/{model}{version}:{verb}", document)

    def any_endpoint(self, rows: int) -> Any:
        """Draw a request of the right types and shapes to any endpoint of the text generator."""
        name = self.random.choice(list(self.endpoints))
        inputs = {}
        for key, tensor in self.endpoints[name]["inputs"].items():
            shape = [rows if i == 0 else 3 if n < 0 else n for i, n in enumerate(tensor["shape"])]
            count = int(np.prod(shape))
            if tensor["dtype"] == "string":
                values: list[Any] = [self.text() for _ in range(count)]
            elif key == "max_tokens":
                values = [self.random.choice([0, 1, 3, -1, 2**31 - 1])] * count
            elif tensor["dtype"] == "int32":
                edges = [0, 1, 2, 3, 5, 50, -1, 2**31 - 1, -(2**31)]
                values = self.random.choices(edges, [9] * 5 + [1] * 4, k=count)
            else:
                values = self.random.choices([0.0, 1.0, -1.0, 0.5, 3e38], [9] * 4 + [1], k=count)
            inputs[key] = np.array(values, object).reshape(shape).tolist()
        return {"signature_name": name, "inputs": inputs}

    def v2(self) -> Request:
        """Draw a request to V2, its tensors in JSON or in binary."""
        rows, binary = self.random.randrange(1, 4), b""
        if self.chance(0.5):
            shape = [rows, *self.shape]
            tensor: Any = {"name": "pixels", "datatype": "UINT8", "shape": shape}
            data: Any = self.pixels(rows)
            raw = np.array(data, np.uint8).tobytes()
            options: Any = {"signature_name": "from_pixels"}
        else:
            tensor = {"name": "image", "datatype": "BYTES", "shape": [rows]}
            images = [self.image() for _ in range(rows)]
            raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
            data, options = [image.decode("latin-1") for image in images], {}
        headers = {}
        if self.chance(0.6):
            tensor["parameters"] = {"binary_data_size": len(raw)}
            binary = raw
        else:
            tensor["data"] = data if self.chance(0.5) else np.ravel(data).tolist()
        if self.chance(0.5):
            options = {**options, "binary_data_output": self.chance(0.5)}
        document: Any = {"inputs": [tensor], "parameters": options}
        if self.chance(0.3):
            document |= {"id": self.text(), "outputs": [{"name": "probabilities"}]}
        if self.chance(0.5):
            document = self.changed(document)
        head = json.dumps(document).encode()
        if binary or self.chance(0.1):
            length = len(head) if self.chance(0.9) else self.random.randrange(-5, 400)
            headers["Inference-Header-Content-Length"] = str(length)
            binary = binary if self.chance(0.9) else binary[: self.random.randrange(99)]
        return Request("POST", "/v2/models/image/infer", head + binary, headers)

    def completion(self) -> Request:
        """Draw a request for completions."""
        fields: dict[str, Any] = {
            "prompt": self.random.choice(["The ", "", ["a", "b"], self.text()]),
            "max_tokens": self.random.randrange(4),
            "temperature": self.random.choice([0, 0.5, 2]),
            "top_p": self.random.choice([0, 0.5, 1]),
            "top_k": self.random.randrange(9),
            "n": self.random.randrange(1, 3),
            "seed": self.random.randrange(2**31),
            "stop": self.random.choice([None, "e", ["a", "\n"]]),
            "stream": self.chance(0.4),
            "echo": self.chance(0.3),
            "logprobs": self.random.choice([None, 0, 3]),
        }
        kept = {name: value for name, value in fields.items() if self.chance(0.4)}
        kept.setdefault("max_tokens", 2)
        return self.packed("POST", "/v1/completions", {"model": "text", **kept})

    def path(self) -> Request:
        """Draw a request of any method to any path."""
        parts = ["v1", "v2", "models", "image", "text", "versions", "labels", "1", "metadata"]
        parts += ["health", "ready", "live", "repository", "index", "image:predict", "infer", ".."]
        parts += ["healthz", "metrics", "docs", "openapi.json", "page", "monitoring", "", "9" * 30]
        chosen = [
            self.random.choice(parts) if self.chance(0.85) else self.text()
            for _ in range(self.random.randrange(6))
        ]
        path = "/" + "/".join(quote(part, ":", errors="surrogatepass") for part in chosen)
        path += f"?{quote(self.text(), errors='surrogatepass')}" if self.chance(0.1) else ""
        methods = ["GET"] * 4 + ["POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"]
        body = json.dumps(self.anything()).encode() if self.chance(0.3) else b""
        return Request(self.random.choice(methods), path, body, {})

    def packed(self, method: str, path: str, document: Any) -> Request:
        """Write a document as a body, whole, changed or broken."""
        headers: dict[str, str] = {}
        if self.chance(0.4):
            document = self.changed(document)
        body = json.dumps(document).encode()
        if self.chance(0.1):
            at = self.random.randrange(len(body) + 1)
            more = self.random.randbytes(self.random.randrange(4))
            body = body[:at] + more + body[at + self.random.randrange(20) :]
        if self.chance(0.05):
            body = b"[" * self.random.randrange(1, 50_000) + body
        if self.chance(0.15):
            headers["Content-Encoding"] = self.random.choice(["gzip", "deflate", "br", "identity"])
            body = gzip.compress(body, 1) if self.chance(0.7) else body
        if self.chance(0.3):
            headers["Accept-Encoding"] = self.random.choice(["gzip", "deflate", "*;q=0", "x"])
        return Request(method, path, body, headers)


def images_for(shape: tuple[int, ...]) -> list[bytes]:
    """Encode noise in every format that is taken."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (*shape[:2], 3), np.uint8)
    encoded = []
    for ending in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        file = io.BytesIO()
        Image.fromarray(noise).save(file, ending)
        encoded.append(file.getvalue())
    return encoded
