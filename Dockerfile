# Serves an exported model:  docker run -p 8501:8501 -v ./model:/model:ro dlkit
# the same, with options:    docker run -p 8501:8501 -p 8500:8500 -v ./model:/model:ro dlkit \
#                                serve flowers=/model --host 0.0.0.0 --grpc-port 8500 --workers 2
# Trains, or anything else:  docker run -v ./work:/work dlkit image-classification train
#
# It was never built where it was written, for want of a Docker daemon: read it before you trust it.

FROM python:3.11-slim AS build
WORKDIR /source
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
# Dependencies first: they change less often than the code.
COPY constraints.txt pyproject.toml README.md ./
COPY dlkit/__init__.py dlkit/__init__.py
COPY pipelines/__init__.py pipelines/__init__.py
RUN pip install --no-cache-dir -c constraints.txt '.[onnx,litert]'
COPY dlkit dlkit
COPY pipelines pipelines
RUN pip install --no-cache-dir --no-deps --force-reinstall -c constraints.txt .

FROM python:3.11-slim
RUN useradd --create-home --uid 1000 dlkit && install -d -o dlkit -g dlkit /work /model
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
USER dlkit
WORKDIR /work
EXPOSE 8500 8501
# The port refuses connections until the models are loaded and warm, and /healthz says 503 from
# SIGTERM on. After it, accepted requests have 25 seconds: docker stop --time 30.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["dlkit"]
CMD ["serve", "/model", "--host", "0.0.0.0", "--port", "8501", "--log-format", "json"]
