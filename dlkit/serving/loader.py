"""Brings what a process serves to what is planned: load and warm, let it answer, retire the old."""

from __future__ import annotations

import gc
import logging

from dlkit.errors import DlkitError
from dlkit.serving.codes import of_failure
from dlkit.serving.model import load_version
from dlkit.serving.service import Service
from dlkit.serving.settings import Settings
from dlkit.serving.watch import Plan, Refusal

logger = logging.getLogger("dlkit.serving")


class Loader:
    """Loads versions into a service.

    Args:
        service: answers while versions come and go.
        settings: of the runtime, its threads and batches.
    """

    def __init__(self, service: Service, settings: Settings) -> None:
        self.service, self.settings = service, settings

    def start(self, plan: Plan) -> None:
        """Load all that is planned, before anything is answered.

        Raises:
            DlkitError: a version cannot be loaded.
        """
        for name, folders in plan.versions.items():
            for version in sorted(folders):
                self.load(plan, name, version)
            self.label(plan, name)

    def apply(self, plan: Plan) -> list[Refusal]:
        """Load what is new, then let what is no longer planned answer nothing more.

        While a new version of a model cannot be loaded, its old ones go on.

        Returns:
            What could not be loaded; its error is in the model's status.
        """
        refused: list[Refusal] = []
        servables = self.service.servables
        for name, folders in plan.versions.items():
            served = {model.version for model in servables.versions(name)}
            failed = False
            for version in sorted(folders.keys() - served, reverse=True):
                servables.mark(name, version, "LOADING")
                try:
                    self.load(plan, name, version)
                except Exception as error:
                    failed = True
                    told = str(error) if isinstance(error, DlkitError) else type(error).__name__
                    logger.error("%s: version %d is not served: %s", name, version, told)
                    servables.mark(name, version, "END", told, of_failure(error))
                    refused.append(Refusal(name, version, folders[version]))
            self.label(plan, name)
            if not failed:
                for version in served - folders.keys():
                    servables.retire(name, version)
                    logger.info("%s: version %d is retired", name, version)
        # A loaded model is full of reference cycles: its memory waits for the collector.
        gc.collect()
        return refused

    def load(self, plan: Plan, name: str, version: int) -> None:
        """Load and warm one version and let it answer."""
        settings = self.settings
        model = load_version(
            name,
            plan.versions[name][version],
            version,
            engine=settings.runtime,
            threads=settings.threads,
            batch=settings.batching.max_batch,
            require_manifest=settings.require_manifest,
        )
        self.service.servables.put(model)
        logger.info("%s: version %d is ready", name, version)

    def label(self, plan: Plan, name: str) -> None:
        """Set the labels of those versions that answer."""
        served = {model.version for model in self.service.servables.versions(name)}
        labels = plan.labels.get(name, {})
        known = {label: version for label, version in labels.items() if version in served}
        self.service.servables.label(name, known)
