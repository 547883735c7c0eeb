"""The model repository for Triton on a device: the same models and cards, in the form that its backends take.

    python deploy/triton/repository.py --device tx2 --models models --out /var/lib/genre-edge/triton/models

tx2 and jetpack6, jetpack7: ONNX Runtime with TensorRT, engines cached; FP16 where the card allows it. jetpack5: there
Triton's ONNX Runtime has no TensorRT, so a plan is built on the device with trtexec. cpu: the Python backend as in
models/. Start at DEVICES.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from services.errors import GenreError
from services.inference.card import Card, load_card, model_names
from services.inference.onnx_shapes import read_versions

MAX_BATCH = 8
CACHE = "/var/lib/genre-edge/triton/engines"


@dataclass(frozen=True)
class Device:
    """A kind of device.

    Attributes:
        platform: Triton's word for the backend.
        opset, ir: newest ONNX operator set and file format that its ONNX Runtime or TensorRT reads.
    """

    platform: str
    opset: int
    ir: int
    about: str


DEVICES = {
    "tx2": Device("onnxruntime_onnx", 15, 8, "JetPack 4.6, Triton 2.19: ONNX Runtime 1.10 with TensorRT 8.2"),
    "jetpack5": Device("tensorrt_plan", 17, 8, "JetPack 5, Triton 2.23 to 2.35: TensorRT 8.4 or 8.5 plan"),
    "jetpack6": Device("onnxruntime_onnx", 20, 10, "JetPack 6, Triton 2.49 (igpu): ONNX Runtime with TensorRT"),
    "jetpack7": Device("onnxruntime_onnx", 22, 10, "JetPack 7, Triton's arm64 image: ONNX Runtime with TensorRT"),
    "cpu": Device("python", 22, 10, "no GPU: the Python backend, as in models/"),
}


def configuration(card: Card, device: Device) -> str:
    """Return config.pbtxt: batching without delay, the card's precision on the GPU, a warm-up as the first is slow."""
    frames, bands = card.recipe.shape
    shape = f"[{frames}, {bands}]"
    lines = [
        f'name: "{card.name}"',
        f'platform: "{device.platform}"' if device.platform != "python" else 'backend: "python"',
        f"max_batch_size: {MAX_BATCH}",
        f'input [{{ name: "features", data_type: TYPE_FP32, dims: {shape} }}]',
        f'output [{{ name: "scores", data_type: TYPE_FP32, dims: [{len(card.labels)}] }}]',
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
    value = f"value {{ data_type: TYPE_FP32 dims: {shape} zero_data: true }}"
    lines.append(f'model_warmup [{{ name: "zeros" batch_size: 1 inputs {{ key: "features" {value} }} }}]')
    return "\n".join([*lines, ""])


def trtexec(card: Card, model: Path, plan: Path) -> list[str]:
    """Return the command that builds a TensorRT plan; it must run on the device itself."""
    shape = "x".join(str(n) for n in card.recipe.shape)
    sizes = [f"--{name}Shapes=features:{n}x{shape}" for name, n in (("min", 1), ("opt", 4), ("max", MAX_BATCH))]
    half = ["--fp16"] if card.gpu_precision == "fp16" else []
    return ["trtexec", f"--onnx={model}", f"--saveEngine={plan}", *half, *sizes]


def check_age(model: Path, device: Device) -> None:
    """Refuse a model that the device's engine is too old for.

    Raises:
        GenreError: naming its operator set or format, and the newest that is read there.
    """
    opset, ir = read_versions(model)
    if opset > device.opset or ir > device.ir:
        reason = f"is ONNX opset {opset}, IR {ir}; this device reads up to opset {device.opset}, IR {device.ir}"
        raise GenreError(str(model), reason, "export it again with an older operator set")


def write(models: Path, out: Path, device: Device) -> list[Path]:
    """Write one folder a model; return what was written.

    A GPU is given the float form: TensorRT takes no int8 with a zero point or without a sign, as CPUs have it. A model
    without a float form is named and left out.

    Raises:
        GenreError: a model is too new, its card is wrong, or trtexec is missing or fails.
    """
    written = []
    for name in model_names(models):
        card = load_card(models, name)
        model = card.path() if device.platform == "python" else card.float_path()
        if model is None:
            print(f"repository: {name} left out: it is {card.precision} and has no float form here", file=sys.stderr)
            continue
        check_age(model, device)
        folder = out / name
        (folder / "1").mkdir(parents=True, exist_ok=True)
        if device.platform == "python":
            shutil.copytree(models / name, folder, dirs_exist_ok=True)
        elif device.platform == "tensorrt_plan":
            _build_plan(card, model, folder / "1" / "model.plan")
        else:
            shutil.copyfile(model, folder / "1" / "model.onnx")
        (folder / "config.pbtxt").write_text(configuration(card, device), encoding="utf-8")
        written.append(folder)
    return written


def _build_plan(card: Card, model: Path, plan: Path) -> None:
    program = shutil.which("trtexec", path="/usr/src/tensorrt/bin:/usr/local/bin:/usr/bin")
    if program is None:
        raise GenreError("trtexec", "is not on this machine", "run this on the device; apt install libnvinfer-bin")
    command = [program, *trtexec(card, model, plan)[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise GenreError(card.name, f"trtexec failed ({' '.join(last)})", f"run it yourself: {' '.join(command)}")


def main() -> int:
    """Read the options and write the repository."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(DEVICES), required=True)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        for folder in write(options.models, options.out, DEVICES[options.device]):
            print(folder)
    except GenreError as error:
        print(f"repository: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
