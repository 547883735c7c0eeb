"""`genre train fit`: a genre head on tag activations, chosen and calibrated by artist-grouped cross-validation.

The network below the head is not trained here (it is musicnn's). Start at `fit`; the heads are in training/heads.py.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from training import fitted, heads, taggrams


@click.command()
@click.option(
    "--tags", type=click.Path(path_type=Path), required=True, help="Taggrams to learn from (.npz: X, Y, IDS)."
)
@click.option(
    "--artists", type=click.Path(path_type=Path), required=True, help="CSV file with the columns clip, artist."
)
@click.option("--head", type=click.Choice(sorted(heads.FITTERS)), default="gaussians", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/head.npz"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def fit(tags: Path, artists: Path, head: str, out: Path, as_json: bool) -> None:
    """Fit a genre head and say what artist-grouped cross-validation makes of it.

    \b
    Example: genre train fit --tags train.npz --artists artists.csv --out results/head.npz
    """
    data = taggrams.load(tags, artists)
    begun = time.process_time()
    made, found = heads.fit(heads.FITTERS[head], data.tags, data.clip_of, data.clips)
    about = {
        "head": head,
        "protocol": "5-fold cross-validation by artist on the training clips, 3 repetitions",
        "command": f"genre train fit --head {head}",
        "cpu_s": round(time.process_time() - begun, 1),
        "clip_accuracy_mean": found.clip_accuracy,
        "window_accuracy_mean": found.window_accuracy,
        **found.measured.as_dict(),
    }
    fitted.save(out, made, about)
    if as_json:
        click.echo(json.dumps({**about, "temperature": made.temperature, "correlation": made.correlation}))
        return
    click.echo(f"{about['protocol']} ({found.measured.n_clips} clips, {found.measured.n_windows} windows):")
    click.echo(f"  clips {found.clip_accuracy:.1%}, windows {found.window_accuracy:.1%}, ECE {found.measured.ece:.3f}")
    click.echo(f"wrote {out}")
