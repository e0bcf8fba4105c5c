"""Answer requests with an exported model, in a process that has TensorFlow and nothing of dlkit.

Usage: python -I reload.py EXPORT/1 REQUESTS.npz ANSWERS.npz. Arrays are named `endpoint/tensor`.
"""

import sys

import numpy as np
import tensorflow as tf

target, requests, answers = sys.argv[1:]
loaded = tf.saved_model.load(target)
rows: dict[str, dict[str, tf.Tensor]] = {}
# The gate wrote this file a moment ago; strings travel as object arrays.
with np.load(requests, allow_pickle=True) as file:
    for key in file.files:
        endpoint, name = key.split("/")
        value = file[key]
        rows.setdefault(endpoint, {})[name] = tf.constant(
            value.tolist() if value.dtype == object else value
        )
given = {}
for endpoint, inputs in rows.items():
    for name, tensor in loaded.signatures[endpoint](**inputs).items():
        value = tensor.numpy()
        if value.dtype == object:
            value = np.char.decode(value.astype(np.bytes_), "utf-8")
        given[f"{endpoint}/{name}"] = value
np.savez(answers, allow_pickle=False, **given)
assert not {"dlkit", "pipelines"} & set(sys.modules), "the export needs dlkit to load"
