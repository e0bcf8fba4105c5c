"""Applied deep learning on Keras 3 and TensorFlow: data in, a tracked, exported, served model out."""

__version__ = "0.1.0"
