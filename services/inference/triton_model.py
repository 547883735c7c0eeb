"""Serves ../1/model.onnx in Triton's Python backend, window by window, checked against ../card.json.

The same file for every model; services/inference/triton_repository.py copies it into Triton's repository. It runs in
Triton's own Python, so it imports nothing of the project: numpy below 2, onnxruntime, and what Triton provides.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


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
        recipe = card["recipe"]
        views = recipe.get("views") or [{"name": "features", **recipe}]
        self._inputs = [view["name"] for view in views]
        sizes = {"scores": card["labels"], "kinds": card.get("kinds"), "sounds": card.get("sounds")}
        self._outputs = [name for name, values in sizes.items() if values]
        found = {each.name: list(each.shape[1:]) for each in self._session.get_inputs() + self._session.get_outputs()}
        wanted = {view["name"]: [view["frames"], view["bands"]] for view in views}
        wanted.update({name: [len(sizes[name])] for name in self._outputs})
        if found != wanted:
            raise pb_utils.TritonModelException(f"model.onnx has shapes {found}, card.json says {wanted}")

    def _answer(self, views: dict[str, Any]) -> list[Any]:
        """Return each output for some windows, [windows, numbers]."""
        # Window by window: the same numbers to the bit in any batch, and no slower on a CPU.
        rows = [
            self._session.run(self._outputs, {name: view[i : i + 1] for name, view in views.items()})
            for i in range(len(views[self._inputs[0]]))
        ]
        return [np.concatenate([row[place] for row in rows]) for place in range(len(self._outputs))]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests; one that gives no finite numbers fails alone."""
        responses = []
        for request in requests:
            views = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            answer = self._answer(views)
            if all(np.isfinite(values).all() for values in answer):
                tensors = [pb_utils.Tensor(name, values) for name, values in zip(self._outputs, answer, strict=True)]
                responses.append(pb_utils.InferenceResponse(tensors))
            else:
                error = pb_utils.TritonError("its answer is not finite", pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=error))
        return responses
