"""The HTTP server: TensorFlow Serving's REST over exported SavedModels."""
