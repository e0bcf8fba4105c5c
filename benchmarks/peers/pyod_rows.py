"""PyOD's AutoEncoder scoring many rows; runs in PyOD's own environment.

Usage: python pyod_rows.py TRAIN.csv ROWS.csv. Prints one line of JSON: seconds to read the table, to
score it by `decision_function`, and the process's peak memory.
"""

# torch and pyod live in the peer's environment alone.
# pyright: reportMissingImports=false

import json
import resource
import sys
import time

import numpy as np
import torch
from pyod.models.auto_encoder import AutoEncoder

torch.manual_seed(0)
train, path = np.loadtxt(sys.argv[1], delimiter=",", skiprows=1), sys.argv[2]
mean, deviation = train.mean(0), train.std(0)
detector = AutoEncoder(random_state=0, verbose=0).fit((train - mean) / deviation)
began = time.monotonic()
rows = (np.loadtxt(path, delimiter=",", skiprows=1) - mean) / deviation
read = time.monotonic() - began
began = time.monotonic()
scores = detector.decision_function(rows)
seconds = time.monotonic() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
print(json.dumps({"rows": len(scores), "read_seconds": round(read, 2), "seconds": round(seconds, 2),
                  "rows_per_second": round(len(scores) / seconds), "peak_mb": round(peak, 1)}))  # fmt: skip
