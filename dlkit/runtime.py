"""Loading TensorFlow: late, with the right Keras backend and without its start-up chatter."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from dlkit.errors import OptionError


def load_tensorflow(keras: bool = False) -> Any:
    """Import TensorFlow, and Keras where asked for, and return the `tensorflow` module.

    Raises:
        OptionError: `KERAS_BACKEND` names another backend; dlkit trains with TensorFlow.
    """
    if keras:
        backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        if backend != "tensorflow":
            raise OptionError(
                f"KERAS_BACKEND is '{backend}'; dlkit trains with 'tensorflow': unset the variable"
            )
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with silent_stderr():
            import tensorflow as tf

            # The first look at the devices prints one more CUDA complaint on machines without one.
            tf.config.list_logical_devices()
    if keras and "keras" not in sys.modules:
        with silent_stderr():
            importlib.import_module("keras")
    import tensorflow as tf

    return tf


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Hold back file descriptor 2, where C++ writes before any log level applies.

    What was held back is shown if the body raises: then it may say why.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        saved = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
