"""Triton's config.pbtxt for one model and one target, written from its card.

Text only: nothing is loaded. The facts behind each line stand in docs/models.md. Start at `config`.
"""

from __future__ import annotations

from pathlib import Path

from services.inference.card import INPUT, MODEL_FILE, OUTPUT, Card

TARGETS = ("cpu", "jetson-onnxruntime", "jetson-tensorrt")

_CPU = """\
backend: "python"
instance_group [{ kind: KIND_CPU, count: 1 }]
"""

_ONNXRUNTIME = """\
platform: "onnxruntime_onnx"
default_model_filename: "FILE"
instance_group [{ kind: KIND_GPU, count: 1 }]
optimization {
  execution_accelerators {
    gpu_execution_accelerator [{
      name: "tensorrt"
      parameters { key: "precision_mode" value: "PRECISION" }
      parameters { key: "max_workspace_size_bytes" value: "268435456" }
      parameters { key: "trt_engine_cache_enable" value: "1" }
      parameters { key: "trt_engine_cache_path" value: "/var/cache/genre-edge/tensorrt" }
    }]
  }
}
"""

_TENSORRT = """\
platform: "tensorrt_plan"
default_model_filename: "model.plan"
instance_group [{ kind: KIND_GPU, count: 1 }]
"""

_WARMUP = """\
model_warmup [{
  name: "zeros"
  batch_size: 1
  inputs { key: "INPUT" value { data_type: TYPE_FP32, dims: [FRAMES, BANDS], zero_data: true } }
}]
"""


def config(card: Card, target: str = "cpu", file: str = MODEL_FILE) -> str:
    """Return config.pbtxt.

    Args:
        card: name, shapes and batch come from it.
        target: "cpu" is the Python backend of the nvidia-pytriton wheel; the others are Triton on a Jetson.
        file: the ONNX file that a GPU takes.
    """
    frames, bands = card.recipe.shape
    body = {"cpu": _CPU, "jetson-onnxruntime": _ONNXRUNTIME, "jetson-tensorrt": _TENSORRT}[target]
    lines = [
        f'name: "{card.name}"',
        f"max_batch_size: {card.max_batch}",
        f'input [{{ name: "{INPUT}", data_type: TYPE_FP32, dims: [{frames}, {bands}] }}]',
        f'output [{{ name: "{OUTPUT}", data_type: TYPE_FP32, dims: [{len(card.labels)}] }}]',
        body.replace("PRECISION", card.gpu_precision.upper()).replace("FILE", Path(file).name).rstrip(),
        # A delay of 500 us would cost one stream 0.6 ms a window: batches form by themselves under load.
        "dynamic_batching { max_queue_delay_microseconds: 0 }",
        "version_policy { latest { num_versions: 1 } }",
    ]
    if target != "cpu":
        # The first inference of TensorRT builds or loads an engine: not while a stream waits.
        lines.append(
            _WARMUP.replace("INPUT", INPUT).replace("FRAMES", str(frames)).replace("BANDS", str(bands)).rstrip()
        )
    return "\n".join(lines) + "\n"


def trtexec(card: Card, file: str = MODEL_FILE) -> str:
    """Return the command that builds model.plan on the device itself; a plan fits one GPU and one TensorRT only."""
    frames, bands = card.recipe.shape
    shapes = [f"{INPUT}:{n}x{frames}x{bands}" for n in (1, min(8, card.max_batch), card.max_batch)]
    half = " --fp16" if card.gpu_precision == "fp16" else ""
    return (
        f"trtexec --onnx={file} --saveEngine=1/model.plan --minShapes={shapes[0]} --optShapes={shapes[1]} "
        f"--maxShapes={shapes[2]}{half}"
    )
