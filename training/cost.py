"""`genre train cost`: what a model's ONNX files cost, CPU milliseconds a window and memory.

One protocol for every card: a process of its own, one thread, one window a call, the median of `RUNS` calls after a
first one. Features are not counted. Start at `measure`.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from services.errors import GenreError
from services.inference.card import MODEL_FILE, load_card
from services.settings import schema
from training import folder

RUNS = 30
"""Calls of which the median is told."""
_PROBE = """
import json, sys, time
import numpy as np, onnxruntime, psutil
path, shapes, runs = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
own = psutil.Process()
before = own.memory_info().rss
from pathlib import Path
from services.inference.onnx_backend import session
model = session(Path(path))
random = np.random.default_rng(0)
x = {name: random.random((1, *shape), np.float32) for name, shape in shapes.items()}
model.run(None, x)
times = []
for _ in range(runs):
    start = time.process_time()
    model.run(None, x)
    times.append(time.process_time() - start)
mib = (own.memory_info().rss - before) / 2**20
print(json.dumps([sorted(times)[len(times) // 2] * 1000, mib]))
"""


@click.command()
@click.option("--model", help="Model to measure.  [default: the one that services use]")
@click.option("--models", type=click.Path(path_type=Path), help="Folder of models.  [default: models]")
@click.option("--write", is_flag=True, help="Put the figures into the model's card, in place of those of these forms.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def cost(model: str | None, models: Path | None, write: bool, as_json: bool) -> None:
    """Measure what each form of a model costs on this machine: CPU-ms a window and memory, one thread.

    \b
    Example: genre train cost --model vgg16
    """
    defaults = schema.Inference()
    name = defaults.model if model is None else model
    card = load_card(models or folder.models_folder(defaults.models_dir, name), name)
    forms = {next(file.precision for file in card.files if file.path == MODEL_FILE): card.path()}
    if (reference := card.float_path()) is not None:
        forms.setdefault("fp32", reference)
    found = [of(form, path, card.recipe.shapes, name) for form, path in forms.items()]
    if write:
        known = {line.form: line for line in card.costs}
        for line in found:
            if (old := known.get(line["form"])) is not None:
                line |= {"agreement": old.agreement, "agreement_windows": old.agreement_windows}
        measured = {line["form"] for line in found}
        folder.rewrite(card, costs=[*found, *(line for line in card.costs if line.form not in measured)])
    if as_json:
        click.echo(json.dumps({"model": card.name, "model_version": card.version, "costs": found}))
        return
    for line in found:
        click.echo(
            f"{card.name} {card.version}, {line['form']}: {line['cpu_ms']:.2f} CPU-ms a window, "
            f"{line['memory_mib']:.1f} MiB ({line['machine']})"
        )


def of(form: str, model: Path | bytes, shapes: Mapping[str, tuple[int, int]], name: str) -> dict[str, Any]:
    """Return what a model's card says of one of its forms.

    Args:
        form: its precision, e.g. "int8".
        model: the ONNX file, or its content where it is not on disk yet.
        name: of the model, for the command that measures again.
    """
    if isinstance(model, bytes):
        with tempfile.NamedTemporaryFile(suffix=".onnx") as scratch:
            scratch.write(model)
            scratch.flush()
            cpu_ms, mib = measure(Path(scratch.name), shapes)
    else:
        cpu_ms, mib = measure(model, shapes)
    about = {"form": f"ONNX Runtime {form}", "machine": machine(), "cpu_ms": cpu_ms, "memory_mib": mib}
    return {**about, "command": folder.command("cost", "--model", name)}


def measure(path: Path, shapes: Mapping[str, tuple[int, int]], runs: int = RUNS) -> tuple[float, float]:
    """Return (median CPU milliseconds a window with one thread, MiB of resident memory added).

    Args:
        shapes: frames and bands of each input, by its name.

    Raises:
        GenreError: for a file that does not run.
    """
    command = [sys.executable, "-c", _PROBE, str(path), json.dumps(dict(shapes)), str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
        raise GenreError(str(path), f"can't be measured ({last[:300]})", "make the model again with its export")
    cpu_ms, mib = json.loads(done.stdout)
    return max(0.001, round(float(cpu_ms), 3)), max(0.1, round(float(mib), 1))


def machine() -> str:
    """Name the processor the costs were measured on, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        name = ""
    return f"{name or platform.processor() or platform.machine()}, one thread"
