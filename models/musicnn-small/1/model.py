"""Serves ../1/model.onnx in Triton's Python backend, window by window, checked against ../card.json.

The same file for every model; 'genre train export' copies it to models/<name>/1/model.py. It runs in Triton's own
Python, so it imports nothing of the project: numpy below 2, onnxruntime, and what Triton provides.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

INPUT, OUTPUT = "features", "scores"


class TritonPythonModel:
    """What Triton calls; one object a process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model and refuse one that is not what its card says."""
        if int(np.__version__.split(".")[0]) >= 2:
            # Triton 24.10 would send empty responses without any error.
            raise pb_utils.TritonModelException(f"numpy {np.__version__} here, Triton needs numpy below 2")
        version = Path(args["model_repository"]) / args["model_version"]
        card = json.loads((version.parent / "card.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(version / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        found = [list(self._session.get_inputs()[0].shape[1:]), list(self._session.get_outputs()[0].shape[1:])]
        wanted = [[card["recipe"]["frames"], card["recipe"]["bands"]], [len(card["labels"])]]
        if found != wanted:
            raise pb_utils.TritonModelException(f"model.onnx has shapes {found}, card.json says {wanted}")

    def _one(self, features: Any) -> Any:
        """Return the scores of one window, [1, labels]."""
        return self._session.run([OUTPUT], {INPUT: features})[0]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests; one that gives no finite scores fails alone."""
        responses = []
        for request in requests:
            features = pb_utils.get_input_tensor_by_name(request, INPUT).as_numpy()
            # Window by window: the same numbers to the bit in any batch, and no slower on a CPU.
            scores = np.concatenate([self._one(features[i : i + 1]) for i in range(len(features))])
            if np.isfinite(scores).all():
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(OUTPUT, scores)]))
            else:
                error = pb_utils.TritonError("scores are not finite", pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=error))
        return responses
