"""Triton's model repository, made from the cards: config.pbtxt, the model in the form that a device's backend takes.

`genre up` and the tests link to the models of a machine without a GPU; deploy/triton/repository.py writes what a device
needs. models/ itself knows nothing of Triton. Start at `lay_out`; DEVICES lists what there is.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from services.errors import GenreError
from services.inference.answer import outputs_of
from services.inference.card import CARD_FILE, MODEL_FILE, Card

MAX_BATCH = 8
CACHE = "/var/lib/genre-edge/triton/engines"

_PYTHON_MODEL = Path(__file__).with_name("triton_model.py")


@dataclass(frozen=True)
class Device:
    """A kind of device.

    Attributes:
        platform: Triton's word for the backend.
        opset: newest ONNX operator set that its ONNX Runtime or TensorRT reads.
    """

    platform: str
    opset: int
    about: str


DEVICES = {
    "tx2": Device("onnxruntime_onnx", 15, "JetPack 4.6, Triton 2.19: ONNX Runtime 1.10 with TensorRT 8.2"),
    "jetpack5": Device("tensorrt_plan", 17, "JetPack 5, Triton 2.23 to 2.35: TensorRT 8.4 or 8.5 plan"),
    "jetpack6": Device("onnxruntime_onnx", 20, "JetPack 6, Triton 2.49 (igpu): ONNX Runtime with TensorRT"),
    "jetpack7": Device("onnxruntime_onnx", 22, "JetPack 7, Triton's arm64 image: ONNX Runtime with TensorRT"),
    "cpu": Device("python", 22, "no GPU: the Python backend, triton_model.py"),
}


def configuration(card: Card, device: Device) -> str:
    """Return config.pbtxt: batching without delay, the card's precision on the GPU, a warm-up as the first is slow."""
    shapes = {name: f"[{frames}, {bands}]" for name, (frames, bands) in card.recipe.shapes.items()}
    inputs = [f'{{ name: "{name}", data_type: TYPE_FP32, dims: {shape} }}' for name, shape in shapes.items()]
    outputs = [f'{{ name: "{name}", data_type: TYPE_FP32, dims: [{n}] }}' for name, n in outputs_of(card).items()]
    lines = [
        f'name: "{card.name}"',
        f'platform: "{device.platform}"' if device.platform != "python" else 'backend: "python"',
        f"max_batch_size: {MAX_BATCH}",
        f"input [{', '.join(inputs)}]",
        f"output [{', '.join(outputs)}]",
        f"instance_group [{{ kind: {'KIND_CPU' if device.platform == 'python' else 'KIND_GPU'}, count: 1 }}]",
        "dynamic_batching { max_queue_delay_microseconds: 0 }",
        "version_policy { latest { num_versions: 1 } }",
    ]
    if device.platform == "onnxruntime_onnx":
        precision = card.gpu_precision.upper()
        parameters = {"precision_mode": precision, "trt_engine_cache_enable": "true", "trt_engine_cache_path": CACHE}
        inner = " ".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in parameters.items())
        accelerator = f'gpu_execution_accelerator: [{{ name: "tensorrt" {inner} }}]'
        lines.append(f"optimization {{ execution_accelerators {{ {accelerator} }} }}")
    zeros = "value { data_type: TYPE_FP32 dims: SHAPE zero_data: true }"
    keys = [f'inputs {{ key: "{name}" {zeros.replace("SHAPE", shape)} }}' for name, shape in shapes.items()]
    lines.append(f'model_warmup [{{ name: "zeros" batch_size: 1 {" ".join(keys)} }}]')
    return "\n".join([*lines, ""])


def trtexec(card: Card, model: Path, plan: Path) -> list[str]:
    """Return the command that builds a TensorRT plan; it must run on the device itself."""
    shapes = card.recipe.shapes
    sizes = [
        f"--{name}Shapes=" + ",".join(f"{view}:{n}x{frames}x{bands}" for view, (frames, bands) in shapes.items())
        for name, n in (("min", 1), ("opt", 4), ("max", MAX_BATCH))
    ]
    half = ["--fp16"] if card.gpu_precision == "fp16" else []
    return ["trtexec", f"--onnx={model}", f"--saveEngine={plan}", *half, *sizes]


def check_age(card: Card, device: Device) -> None:
    """Refuse a model that the device's engine is too old for.

    Raises:
        GenreError: naming its operator set, and the newest that is read there.
    """
    if card.opset > device.opset:
        reason = f"is ONNX opset {card.opset}; this device reads up to opset {device.opset}"
        raise GenreError(card.name, reason, "export it again with an older operator set")


def lay_out(card: Card, repository: Path, device: Device, *, link: bool = False) -> Path | None:
    """Write a model's folder in a repository; return it, or None where the device takes a form that is not here.

    A GPU is given the float form: TensorRT takes no int8 with a zero point or without a sign, as CPUs have it.

    Args:
        link: to the model instead of a copy, so that Triton finds its next version without this being done again.

    Raises:
        GenreError: the model is too new, or trtexec is missing or fails.
    """
    on_cpu = device.platform == "python"
    model = card.path() if on_cpu else card.float_path()
    if model is None:
        return None
    check_age(card, device)
    folder = repository / card.name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    place = shutil.copyfile if not link else _link
    if on_cpu:
        place(card.path(MODEL_FILE), folder / MODEL_FILE)
        place(card.path(CARD_FILE), folder / CARD_FILE)
        shutil.copyfile(_PYTHON_MODEL, folder / "1" / "model.py")
    elif device.platform == "tensorrt_plan":
        _build_plan(card, model, folder / "1" / "model.plan")
    else:
        place(model, folder / MODEL_FILE)
    (folder / "config.pbtxt").write_text(configuration(card, device), encoding="utf-8")
    return folder


def _link(target: Path, link: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())


def _build_plan(card: Card, model: Path, plan: Path) -> None:
    program = shutil.which("trtexec", path="/usr/src/tensorrt/bin:/usr/local/bin:/usr/bin")
    if program is None:
        raise GenreError("trtexec", "is not on this machine", "run this on the device; apt install libnvinfer-bin")
    command = [program, *trtexec(card, model, plan)[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise GenreError(card.name, f"trtexec failed ({' '.join(last)})", f"run it yourself: {' '.join(command)}")
