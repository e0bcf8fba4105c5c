"""`dlkit ui`: MLflow's own pages over the same store."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import click

from dlkit.errors import ServeError


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(port: int) -> None:
    """Browse the runs in MLflow's own pages, on this machine's loopback address."""
    from dlkit import tracking

    uri = tracking.store_uri()
    if uri.startswith(("http://", "https://")):
        click.echo(f"the tracking store has pages of its own: {uri}")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise ServeError(
                f"port {port} on 127.0.0.1 is in use; choose another with --port"
            ) from None
    tracking.client()  # makes or migrates the database under a lock
    click.echo(f"MLflow on http://127.0.0.1:{port}  (Ctrl-C ends it)", nl=True)
    sys.stdout.flush()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    done = subprocess.run(
        command, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}, check=False
    )
    if done.returncode not in (0, 130, -2):
        raise ServeError(f"MLflow's server ended with status {done.returncode}")
