"""The code that MLflow keeps beside an export: its `serving_default`, for `mlflow models serve`.

Needs TensorFlow alone. Encoded images may be bytes, or text that holds their base64.
"""

import base64

import mlflow
import numpy as np


class Exported(mlflow.pyfunc.PythonModel):
    """An exported SavedModel."""

    def load_context(self, context):
        """Load the SavedModel that was logged with this file."""
        import tensorflow as tf

        self.loaded = tf.saved_model.load(f"{context.artifacts['export']}/1")

    def predict(self, context, model_input, params=None):
        """Answer rows given as a dict, a DataFrame or one array."""
        import tensorflow as tf

        endpoint = self.loaded.signatures["serving_default"]
        specs = endpoint.structured_input_signature[1]
        if isinstance(model_input, np.ndarray):
            model_input = {next(iter(specs)): model_input}
        inputs = {}
        for name, spec in specs.items():
            value = np.asarray(model_input[name])
            if spec.dtype == tf.string:
                value = [_contents(v) for v in value.ravel().tolist()]
            inputs[name] = tf.constant(value, spec.dtype)
        answers = {name: tensor.numpy() for name, tensor in endpoint(**inputs).items()}
        return {
            name: np.char.decode(v.astype(np.bytes_), "utf-8") if v.dtype == object else v
            for name, v in answers.items()
        }


def _contents(value):
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        return value.encode()


mlflow.models.set_model(Exported())
