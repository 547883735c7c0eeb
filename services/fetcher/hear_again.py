"""`genre hear-again`: a stream that was heard to its end is heard once more, from its beginning.

Removes its cursor; a fetcher that runs notices within a second. Start at `hear_again`.
"""

from __future__ import annotations

from pathlib import Path

import click

from services.errors import GenreError, UsageError
from services.fetcher.delivery.checkpoint import Checkpoints
from services.settings import loading


@click.command("hear-again")
@click.argument("name")
@click.option("--config", type=click.Path(path_type=Path), help="TOML configuration file, for paths.state_dir.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="State folder; of 'genre up --folder F': F/state.")
def hear_again(name: str, config: Path | None, state_dir: Path | None) -> None:
    """Hear the stream NAME, which has ended, from its beginning, as a new timeline with new ids.

    \b
    Example: genre hear-again concert --config genre.toml
    """
    folder = state_dir or loading.load(config).paths.state_dir
    if not folder.is_dir():
        raise UsageError(str(folder), "is no state folder", "give --state-dir, or the --config that the fetcher has")
    checkpoints = Checkpoints(folder)
    saved = checkpoints.read(name)
    if saved is None:
        raise UsageError(f"stream {name}", f"was never heard with the state in {folder}", "check the name")
    if not saved.ledger.ended:
        raise UsageError(f"stream {name}", "has not ended: it goes on where it was", "remove it and add it again")
    try:
        checkpoints.forget(name)
    except OSError as error:
        raise GenreError(str(folder), f"can't be written ({error.strerror})", "let this user write there") from error
    click.echo(f"{name} is heard again from its beginning: at once by a fetcher that runs, else when one starts")
