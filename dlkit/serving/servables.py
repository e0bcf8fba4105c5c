"""What is served: versions of models by name, their labels and their states.

A request keeps the version that it found: one that is retired answers what it has accepted and is
freed when the last of its answers is written, since nothing holds it any longer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from dlkit.serving.model import ServedModel
from dlkit.serving.tensors import RequestError

# As in get_model_status.proto.
State = Literal["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]


@dataclass(frozen=True)
class VersionState:
    """Where a version stands. `error` is empty unless it could not be loaded, `code` "OK" then."""

    version: int
    state: State
    error: str = ""
    code: str = "OK"


class Servables:
    """The models that are served. Reading takes no lock: a change puts new tables in place.

    Args:
        models: loaded and warm, as by `put`.
    """

    def __init__(self, models: Iterable[ServedModel] = ()) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, dict[int, ServedModel]] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._states: dict[str, dict[int, VersionState]] = {}
        for model in models:
            self.put(model)

    def names(self) -> list[str]:
        """Return the names of all models, also of those of which no version is ready."""
        return sorted(self._states)

    def put(self, model: ServedModel) -> None:
        """Let a loaded and warm version answer from now on."""
        with self._lock:
            versions = self._models.get(model.name, {}) | {model.version: model}
            self._models = self._models | {model.name: versions}
        self.mark(model.name, model.version, "AVAILABLE")

    def retire(self, name: str, version: int) -> None:
        """Let a version answer nothing new."""
        with self._lock:
            versions = {v: m for v, m in self._models.get(name, {}).items() if v != version}
            labels = {k: v for k, v in self._labels.get(name, {}).items() if v != version}
            self._models = self._models | {name: versions}
            self._labels = self._labels | {name: labels}
        self.mark(name, version, "END")

    def mark(
        self, name: str, version: int, state: State, error: str = "", code: str = "OK"
    ) -> None:
        """Note where a version stands; see `VersionState`."""
        noted = VersionState(version, state, error, code)
        with self._lock:
            known = self._states.get(name, {}) | {version: noted}
            self._states = self._states | {name: known}

    def label(self, name: str, labels: Mapping[str, int]) -> None:
        """Set the labels of a model, such as `{"stable": 3}`, in place of those before."""
        with self._lock:
            self._labels = self._labels | {name: dict(labels)}

    def labels(self, name: str) -> dict[str, int]:
        """Return the versions of a model by label."""
        return dict(self._labels.get(name, {}))

    def versions(self, name: str) -> list[ServedModel]:
        """Return the versions of a model that answer, the newest first."""
        return sorted(self._models.get(name, {}).values(), key=lambda m: m.version, reverse=True)

    def find(self, name: str, version: int | None = None, label: str | None = None) -> ServedModel:
        """Return the version that answers a request: the newest unless one is named.

        Raises:
            RequestError: 404 if nothing of that name, version or label answers; with the words of
                TensorFlow Serving's `server_core.cc` and `manager.h`.
        """
        versions = self._models.get(name)
        if label is not None:
            found = self._labels.get(name, {}).get(label)
            if found is None:
                raise RequestError(f"Unrecognized servable version label: {label[:80]}", 400)
            version = found
        if versions and version is None:
            return versions[max(versions)]
        if versions and version in versions:
            return versions[version]
        wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise RequestError(f"Servable not found for request: {wanted}", 404)

    def states(self, name: str, version: int | None = None) -> list[VersionState]:
        """Return where the versions of a model stand, the newest first.

        Raises:
            RequestError: 404 if there is no such model or version.
        """
        known = self._states.get(name, {})
        if version is not None:
            known = {v: s for v, s in known.items() if v == version}
        if not known:
            wanted = "any versions" if version is None else f"version {version}"
            raise RequestError(f"Could not find {wanted} of model {name}", 404)
        return sorted(known.values(), key=lambda s: s.version, reverse=True)

    def ready(self) -> bool:
        """Say whether every model has a version that answers."""
        return bool(self._states) and all(self._models.get(name) for name in self._states)
