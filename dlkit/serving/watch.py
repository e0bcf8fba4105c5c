"""What is to be served now: version folders on disk, runs and aliases in MLflow's registry.

Knows names and files alone, no TensorFlow: the process that supervises workers looks for them all.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlkit.errors import DlkitError
from dlkit.export import MANIFEST, read_manifest

logger = logging.getLogger("dlkit.serving")

# Name, size and time of change of each file: what a copy that is under way changes.
Print = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Source:
    """Where the versions of a model come from.

    Attributes:
        ref: a run, `latest` or a registry name, as the user wrote it.
        directory: that holds version folders, `1/` and so on; of a followed reference, at first.
        followed: whether `ref` may come to mean another run: `latest` and registry names.
    """

    ref: str
    directory: Path
    followed: bool = False


@dataclass(frozen=True)
class Plan:
    """What is to be served: by model, the folder of each version, and the version of each label."""

    versions: dict[str, dict[int, Path]]
    labels: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A version that could not be loaded."""

    name: str
    version: int
    path: Path


@dataclass(frozen=True)
class Found:
    """A run that a reference meant, the version it is served as, and the folder of its model."""

    run: str
    version: int
    path: Path


class Finder:
    """Looks where the models come from and says what is to be served.

    A directory's newest versions are served, as TensorFlow Serving does by default with one, and
    those that have a label. A version counts once it is complete: its manifest checks out or, for
    a foreign one, nothing in it has changed between two looks. One that could not be loaded counts
    again when something in it changes.

    Args:
        sources: by model name.
        versions: how many of a directory's newest are served.
        labels: by model, the version of each label. A registered model's aliases come on top.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        versions: int = 1,
        labels: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        self.sources, self.count = dict(sources), versions
        self.labels = {name: dict(each) for name, each in (labels or {}).items()}
        self._lock = threading.Lock()
        self._complete: set[Path] = set()
        self._seen: dict[Path, Print] = {}
        self._refused: dict[Path, Print] = {}
        self._runs: dict[str, list[Found]] = {}
        self._refused_runs: set[tuple[str, str, int]] = set()
        self._plan: Plan | None = None
        self._told: dict[str, str] = {}

    def look(self) -> Plan:
        """Return what is to be served.

        The first look takes every version on disk for complete. Later ones keep what was served
        where a directory or the registry cannot be read, and log why.

        Raises:
            Exception: at the first look, whatever keeps a source from being read.
        """
        with self._lock:
            versions, labels = {}, {}
            for name, source in self.sources.items():
                try:
                    versions[name], aliases = self._look_at(name, source)
                    self._told.pop(name, None)
                except Exception as error:  # a store behind HTTP may raise anything
                    if self._plan is None:
                        raise
                    if self._told.get(name) != str(error):
                        logger.warning("%s: cannot look for versions: %s", name, error)
                    self._told[name] = str(error)
                    versions[name] = self._plan.versions[name]
                    aliases = self._plan.labels[name]
                labels[name] = aliases | self.labels.get(name, {})
            self._plan = Plan(versions, labels)
            return self._plan

    def refuse(self, refusal: Refusal) -> None:
        """Leave out a version until something in it changes, or its reference means another run."""
        with self._lock:
            history = self._runs.get(refusal.name, [])
            for found in [f for f in history[1:] if f.path == refusal.path]:
                history.remove(found)
                self._refused_runs.add((refusal.name, found.run, found.version))
            self._refused[refusal.path] = fingerprint(refusal.path)
            self._complete.discard(refusal.path)

    def _look_at(self, name: str, source: Source) -> tuple[dict[int, Path], dict[str, int]]:
        if source.followed:
            return self._follow(name, source)
        folders = version_folders(source.directory)
        for path in {p for p in self._complete if p.parent == source.directory}:
            if path not in folders.values():
                self._complete.discard(path)
        ready = {n: path for n, path in folders.items() if self._is_complete(path)}
        newest = sorted(ready, reverse=True)[: self.count]
        labelled = set(self.labels.get(name, {}).values()) & ready.keys()
        return {n: ready[n] for n in sorted({*newest, *labelled})}, {}

    def _is_complete(self, path: Path) -> bool:
        if path in self._complete:
            return True
        found = fingerprint(path)
        if self._refused.get(path) == found:
            return False
        unchanged = self._seen.get(path) == found or self._plan is None
        if not unchanged and (path / MANIFEST).exists():
            try:
                read_manifest(path)
                unchanged = True
            except DlkitError:
                pass  # still being copied; if it stays so, loading it says what is wrong
        self._seen[path] = found
        if unchanged and found:
            self._complete.add(path)
            self._seen.pop(path)
            self._refused.pop(path, None)
        return path in self._complete

    def _follow(self, name: str, source: Source) -> tuple[dict[int, Path], dict[str, int]]:
        """Ask which run a reference means now.

        A registered version keeps its number; `latest` counts up from 1.
        """
        from dlkit import tracking

        run = tracking.find_run(source.ref).info.run_id
        history = self._runs.setdefault(name, [])
        labels: dict[str, int] = {}
        if source.ref.startswith("models:/"):
            number, labels = tracking.registered(source.ref)
        elif history and history[-1].run == run:
            number = history[-1].version
        else:
            number = history[-1].version + 1 if history else 1
        if not history or (history[-1].run, history[-1].version) != (run, number):
            if (name, run, number) not in self._refused_runs:
                path = source.directory if not history else tracking.export_directory(source.ref)[0]
                history.append(Found(run, number, newest_folder(path)))
        return {history[-1].version: history[-1].path}, labels


class Watcher(threading.Thread):
    """Looks again every few seconds and hands on what changed.

    Args:
        finder: has had its first look.
        plan: of that look.
        seconds: between looks.
        changed: brings what is served to the plan; returns what could not be loaded.
    """

    def __init__(
        self,
        finder: Finder,
        plan: Plan,
        seconds: float,
        changed: Callable[[Plan], Iterable[Refusal]],
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self.finder, self.plan, self.seconds, self.changed = finder, plan, seconds, changed

    def run(self) -> None:
        """Look until the process ends."""
        pause = threading.Event()
        while not pause.wait(self.seconds):
            try:
                self.look()
            except Exception:  # whatever it is, what is served goes on being served
                logger.exception("looking for versions failed")

    def look(self) -> None:
        """Look once, and again for as long as something cannot be loaded."""
        refused: list[Refusal] = []
        while True:
            plan = self.finder.look()
            if plan == self.plan and not refused:
                return
            refused = list(self.changed(plan))
            self.plan = plan
            for refusal in refused:
                self.finder.refuse(refusal)
            if not refused:
                return


def version_folders(directory: Path) -> dict[int, Path]:
    """Return the version folders of a directory by number."""
    found: dict[int, Path] = {}
    for path in sorted(directory.iterdir()):
        if re.fullmatch("[0-9]{1,18}", path.name) and path.is_dir():
            found.setdefault(int(path.name), path)
    return found


def newest_folder(directory: Path) -> Path:
    """Return the version folder of the highest number."""
    folders = version_folders(directory)
    return folders[max(folders)]


def fingerprint(path: Path) -> Print:
    """Return the name, size and time of change of each file in a folder."""
    found: list[tuple[str, int, int]] = []
    for file in sorted(path.rglob("*")):
        try:
            status: Any = file.stat()
        except OSError:  # gone since
            continue
        if file.is_file():
            found.append((str(file.relative_to(path)), status.st_size, status.st_mtime_ns))
    return tuple(found)
