"""`genre train export`: fitted heads on their networks become models/<name>/, or a model there gets an evaluation.

What is written where stands in training/folder.py. Start at `export`.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from services.errors import GenreError, UsageError
from services.inference.card import Card, Evaluation, load_card
from training import folder
from training.data.gtzan import GENRES
from training.given import UNREADABLE, takes_folder

DEFAULT = folder.BASE


@click.command()
@click.option("--name", help="Name and folder of the model; own genres need one.  [default: genre-sounds]")
@click.option("--heads", type=click.Path(path_type=Path), help="Fitted heads (from 'genre train fit').")
@click.option(
    "--networks", type=click.Path(path_type=Path),
    help="What the heads heard through, from 'genre train networks' or 'distil'  [default: the shipped model's].",
)  # fmt: skip
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--version", "model_version", default="1", show_default=True, help="Version written into the card.")
@click.option("--evaluation", type=click.Path(path_type=Path), help="Add a report of 'genre train evaluate --json'.")
@click.option("--protocol", default="", help="Which clips that report is about, and how they were kept apart.")
def export(
    name: str | None,
    heads: Path | None,
    networks: Path | None,
    models: Path,
    model_version: str,
    evaluation: Path | None,
    protocol: str,
) -> None:
    """Write models/NAME/ from fitted heads, or, without --heads, add an evaluation to its card.

    \b
    Example: genre train export --heads own-heads.npz --name own
    Example: genre train export --heads results/heads.npz --networks networks.onnx --name my-sounds
    Example: genre train export --name my-sounds --evaluation report.json --protocol "106 clips of the validation list"
    """
    if bool(evaluation) != bool(protocol) or (evaluation and heads):
        raise UsageError("train export", "--evaluation needs --protocol and no --heads", "add it to a finished model")
    if heads is None and networks is not None:
        raise UsageError("train export", "--networks needs --heads", "give both, or --evaluation alone")
    chosen = DEFAULT if name is None else name
    if heads is None:
        card = load_card(models, chosen)
        added = [_evaluation(card, evaluation, protocol)] if evaluation else []
        card = folder.rewrite(card, evaluations=[*card.evaluations, *added])
    else:
        from training.hearing import export as hearing
        from training.hearing.heads import load

        fitted = load(heads)
        if name is None and fitted.labels != GENRES:
            what = f"the genres are {', '.join(fitted.labels)}, not those of {DEFAULT}"
            raise UsageError("train export", what, "name the new model with --name")
        folder.refuse_name(chosen, model_version)
        takes_folder("--models", models)
        card = hearing.write(models, chosen, model_version, fitted, networks or folder.shipped())
    click.echo(f"wrote {card.folder} ({sum(file.bytes for file in card.files) / 1e6:.1f} MB)")


def _evaluation(card: Card, report: Path, protocol: str) -> Evaluation:
    """Turn a report of `genre train evaluate --json` into an entry of the card.

    Raises:
        GenreError: for a file that is no such report, or one of another model.
    """
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
        if (found["model"], found["model_version"]) != (card.name, card.version):
            raise ValueError(f"it is about {found['model']} {found['model_version']}")
        numbers = {key: value for key, value in found.items() if key in Evaluation.model_fields}
        told = {
            "protocol": protocol,
            "command": found["command"],
            "precision": found["deployed_form"],
        }
        return Evaluation.model_validate({**numbers, **told})
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:300]
        remedy = "make it with 'genre train evaluate --json'"
        raise GenreError(str(report), f"is no report of {card.name} ({reason})", remedy) from error
