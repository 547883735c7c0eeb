"""Writes a distilled student as models/<name>/: front, taught layers and genre head in one ONNX file, and its card.

Start at `write`.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.errors import GenreError
from services.inference.card import MODEL_FILE, Card
from training import cost, folder, musicnn
from training.distil_front import Front
from training.export import INGREDIENTS, UNSURE_BELOW
from training.gtzan import GENRES
from training.heads import Head
from training.onnx_graph import OPSET, Graph
from training.stationary import append_doubt

if TYPE_CHECKING:
    import keras

PROTOCOL = (
    "{n_clips} pieces (most 2 to 3 s) of GTZAN's fault-filtered training list, 2-fold by artist: each half is judged "
    "by a student and a head that were taught with the other half's artists only (and with unlabelled music); the same "
    "windows give the teacher {teacher_clips:.1%} of clips and {teacher_windows:.1%} of windows"
)
COLUMNS = ("name", "licence", "source")


def ingredients(path: Path | None) -> list[dict[str, str]]:
    """Return what the card says of the music: the rows of a CSV file with the columns name, licence, source.

    Raises:
        GenreError: for a file that is no such table.
    """
    if path is None:
        return [{"name": "unlabelled music", "licence": "not stated", "source": "given by --music"}]
    remedy = f"its first line must name {', '.join(COLUMNS)}"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GenreError(str(path), f"can't be read ({error})", "give a CSV file in UTF-8") from error
    if not rows or any(not row.get(column) for row in rows for column in COLUMNS):
        raise GenreError(str(path), f"has no rows with {', '.join(COLUMNS)}", remedy)
    return [{column: row[column] for column in COLUMNS} for row in rows]


def network(front: Front, student: keras.Model, head: Head) -> Any:
    """Return the whole network as an ONNX model: features [batch, 187, 96] to scores [batch, 10]."""
    from training.distil_student import append  # Loads Keras, which takes seconds.

    graph = Graph()
    tags = append(graph, student, front.append(graph, "features"))
    head.append(graph, tags, "certain")
    append_doubt(graph, "features", "certain", musicnn.FRAMES, musicnn.BANDS, len(GENRES), "scores")
    return graph.model({"features": [musicnn.FRAMES, musicnn.BANDS]}, {"scores": [len(GENRES)]})


def write(
    models: Path, name: str, version: str, teacher: Card, front: Front, student: keras.Model, head: Head,
    about: dict[str, Any], music: list[dict[str, str]],
) -> Card:  # fmt: skip
    """Write models/<name>/ whole or not at all; return its card.

    Args:
        about: what `genre train distil` found: training (for the card), compared (student, teacher, gaps), faults.
        music: what the card says of the unlabelled music.
    """
    content = network(front, student, head).SerializeToString()
    cpu_ms, mib = cost.of(content, teacher.recipe.shape)
    found = about["compared"]
    student_found = {key: value for key, value in found["student"].items() if key != "confusion"}
    told = {
        "n_clips": student_found["n_clips"],
        "teacher_clips": found["teacher"]["clip_accuracy"],
        "teacher_windows": found["teacher"]["window_accuracy"],
    }
    values = {
        "name": name,
        "version": version,
        "summary": "Fast: musicnn at half of the frames and half of the bands, the layers behind its filters "
        "taught by musicnn itself.",
        "labels": GENRES,
        "recipe": teacher.recipe,
        "recipe_digest": teacher.recipe_digest,
        "precision": "fp32",
        "parameters": front.parameters + student.count_params() + head.classifier.parameters,
        "opset": OPSET,
        "temperature": head.temperature,
        "unsure_below": UNSURE_BELOW,
        "window_correlation": head.correlation,
        "training": about["training"],
        "evaluations": [
            {"protocol": PROTOCOL.format(**told), "command": "genre train distil", "precision": "fp32", **student_found}
        ],
        "costs": [
            {
                "form": "ONNX Runtime fp32",
                "machine": cost.machine(),
                "cpu_ms": cpu_ms,
                "memory_mib": mib,
                "command": "genre train distil",
            }
        ],
        "ingredients": [*INGREDIENTS, *music],
        "faults": about["faults"],
    }
    return folder.write(models, values, {MODEL_FILE: (content, "answers in the service", "fp32")})
