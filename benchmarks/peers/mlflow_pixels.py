"""LeNet's `from_pixels` for `mlflow models serve`: the same SavedModel, the same pixels in JSON."""

import mlflow
import numpy as np


class Pixels(mlflow.pyfunc.PythonModel):
    """An exported image classifier that takes pixels."""

    def load_context(self, context):
        import tensorflow as tf

        self.loaded = tf.saved_model.load(f"{context.artifacts['export']}/1")

    def predict(self, context, model_input, params=None):
        import tensorflow as tf

        pixels = tf.constant(np.asarray(model_input), tf.uint8)
        answer = self.loaded.signatures["from_pixels"](pixels=pixels)
        answer = {name: tensor.numpy() for name, tensor in answer.items()}
        return answer | {"label": answer["label"].astype(str)}


mlflow.models.set_model(Pixels())
