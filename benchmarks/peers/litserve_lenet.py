"""LeNet behind LitServe, computed by ONNX Runtime. python litserve_lenet.py MODEL.onnx PORT WORKERS"""

# litserve lives in an environment of its own.
# pyright: reportMissingImports=false

import sys

import litserve
import numpy as np
import onnxruntime


class LeNet(litserve.LitAPI):
    """An exported image classifier that takes pixels."""

    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options)
        self.outputs = [output.name for output in self.session.get_outputs()]

    def decode_request(self, request):
        return np.array(request["instances"], np.uint8)

    def predict(self, pixels):
        return self.session.run(self.outputs, {"pixels": pixels})

    def encode_response(self, output):
        return {name: array.tolist() for name, array in zip(self.outputs, output, strict=True)}


if __name__ == "__main__":
    server = litserve.LitServer(LeNet(), accelerator="cpu", workers_per_device=int(sys.argv[3]))
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error"
    )
