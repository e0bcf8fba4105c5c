"""What a serving process is told when it starts: plain values, which can be sent to a worker."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from dlkit.serving.batching import Batching
from dlkit.serving.service import Limits


@dataclass(frozen=True)
class Settings:
    """How a process serves.

    Attributes:
        host: address to listen on.
        grpc_port: port of the gRPC interface; None opens none.
        workers: processes that share the port.
        threads: of one model's operations; as many requests or batches run at once.
        runtime: see `load_version`'s `engine`.
        batching: see `Batching`.
        limits: see `Limits`.
        keys: API keys, one of which each request must carry; none lets everybody in.
        require_manifest: whether a model without a manifest is refused.
        log_format: `text` or `json`.
    """

    host: str = "127.0.0.1"
    grpc_port: int | None = None
    workers: int = 1
    threads: int = 1
    runtime: str = "tensorflow"
    batching: Batching = field(default_factory=Batching)
    limits: Limits = field(default_factory=Limits)
    keys: tuple[str, ...] = ()
    require_manifest: bool = False
    log_format: str = "text"

    def limit_threads(self) -> None:
        """Bound the threads of this process's TensorFlow; has no effect once it is loaded."""
        # TensorFlow reads them when its context is made, which `load_tensorflow` does at once.
        os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = str(
            self.threads
        )


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
