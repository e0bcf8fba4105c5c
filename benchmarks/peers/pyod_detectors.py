"""PyOD's deep detectors with their defaults on given splits; runs in PyOD's own environment.

Usage: python pyod_detectors.py NAME SPLITS.npz. The file holds `SPLIT/train`, `SPLIT/test` and
`SPLIT/y` for each split. Prints one line of JSON: scores of the test rows' ranking, and seconds.
"""

# torch and pyod live in the peer's environment alone.
# pyright: reportMissingImports=false

import json
import sys
import time

import numpy as np
import torch
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.deep_svdd import DeepSVDD
from pyod.models.vae import VAE
from sklearn.metrics import roc_auc_score

name, path = sys.argv[1:]
found = []
with np.load(path) as file:
    splits = sorted({key.split("/")[0] for key in file.files}, key=int)
    for split in splits:
        train, test, y = (file[f"{split}/{part}"] for part in ("train", "test", "y"))
        seed = int(split)
        torch.manual_seed(seed)
        np.random.seed(seed)
        makers = {
            "autoencoder": lambda s=seed: AutoEncoder(random_state=s, verbose=0),
            "vae": lambda s=seed: VAE(random_state=s, verbose=0),
            "deep-svdd": lambda s=seed, d=train.shape[1]: DeepSVDD(d, random_state=s, verbose=0),
        }
        began = time.monotonic()
        detector = makers[name]().fit(train)
        scores = np.nan_to_num(detector.decision_function(test))
        found.append(
            {"auroc": float(roc_auc_score(y, scores)), "seconds": time.monotonic() - began}
        )
print(json.dumps(found))
