"""What versions that came and went leave behind."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import psutil
import pytest

from dlkit.serving.loader import Loader
from dlkit.serving.servables import Servables
from dlkit.serving.service import Service
from dlkit.serving.settings import Settings
from dlkit.serving.watch import Plan


@pytest.mark.slow
def test_versions_that_went_leave_nothing_behind(pictures: Path) -> None:
    service = Service(Servables())
    loader = Loader(service, Settings())
    loader.start(Plan({"pic": {1: pictures / "1"}}))
    objects, threads, gone = [], [], []
    for version in range(2, 8):
        assert not loader.apply(Plan({"pic": {version: pictures / "1"}}))
        model = service.servables.find("pic")
        assert model.version == version
        answer = service.submit(model, "from_pixels", {"pixels": np.zeros((1, 2, 2, 1), np.uint8)})
        assert answer.result()["label"].tolist() == [b"dark"]
        gone.append(weakref.ref(model))
        del model, answer
        gc.collect()
        objects.append(len(gc.get_objects()))
        threads.append(psutil.Process().num_threads())
    service.batcher.close()
    assert [model() is not None for model in gone] == [False] * 5 + [True]
    # A version's state is kept, one small object; its graph alone is thousands.
    assert objects[-1] - objects[1] < 200, objects
    assert threads[-1] == threads[1], threads
