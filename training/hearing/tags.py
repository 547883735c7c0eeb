"""`genre train tags`: the taggrams of labelled audio, for `fit --tags` and `evaluate --tags`, here or elsewhere.

They say what musicnn heard, window by window, and no sound can be made of them again. Start at `tags`.
"""

from __future__ import annotations

from pathlib import Path

import click

from services.errors import GenreError
from training import folder
from training.data import taggrams
from training.data.data_set import read_data_set, told
from training.data.gtzan import NO_GENRE
from training.given import takes_file
from training.hearing.listen import audio_option, hear, networks_option
from training.hearing.networks import Networks


@click.command()
@networks_option
@audio_option
@click.option(
    "--index", type=click.Path(path_type=Path), help="CSV: file, genre, artist.  [default: one folder a genre]"
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/tags.npz"), show_default=True)
def tags(networks: Path | None, audio: Path, index: Path | None, out: Path) -> None:
    """Write musicnn's 50 tags of each window of music that has a genre: X, Y, IDS and ARTISTS.

    \b
    Example: genre train tags --audio music --out tags.npz
    """
    data = read_data_set(audio, index)
    takes_file("--out", out)
    for line in told(data.skipped):
        click.echo(line, err=True)
    clips = [clip for clip in data.clips if clip.genre not in NO_GENRE]
    if not clips:
        raise GenreError(str(audio), "holds no music that has a genre", "name genres in folders or in an index")
    heard = hear(Networks(networks or folder.shipped()), clips, None)
    taggrams.save(out, heard.tags, heard.clip_of, heard.clips)
    click.echo(f"wrote {out}: {len(heard.tags)} windows of {len(heard.clips)} clips")
