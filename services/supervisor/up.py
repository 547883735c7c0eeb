"""`genre up`: the whole main job on this machine, from broker to live table. This file reads its options.

What is started and when it is over is in `run.py`. Start at `up`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import click

from services.errors import GenreError, UsageError
from services.process import logs
from services.settings import loading, schema
from services.supervisor import children, lock, triton_server
from services.supervisor.children import Plan
from services.supervisor.config_file import ConfigFile
from services.supervisor.run import Run


def _pairs(option: str, values: tuple[str, ...]) -> dict[str, str]:
    """Split NAME=VALUE options."""
    pairs: dict[str, str] = {}
    for value in values:
        name, sign, rest = value.partition("=")
        if not sign or not name or not rest:
            raise UsageError(f"{option} {value}", "is not NAME=VALUE", f"write {option} name=value")
        if name in pairs:
            raise UsageError(f"{option} {value}", f"{name} is given twice", "give each name once")
        pairs[name] = rest
    return pairs


def _counts(option: str, values: tuple[str, ...], allowed: tuple[str, ...], most: int) -> dict[str, int]:
    """Split NAME=NUMBER options whose names are known."""
    counts: dict[str, int] = {}
    for name, text in _pairs(option, values).items():
        if name not in allowed:
            raise UsageError(
                f"{option} {name}={text}", f"{name!r} is not one of {', '.join(allowed)}", "use one of those"
            )
        if not text.isdigit() or not 1 <= int(text) <= most:
            raise UsageError(
                f"{option} {name}={text}", f"{text!r} is not a number from 1 to {most}", "give such a number"
            )
        counts[name] = int(text)
    return counts


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@click.command()
@click.option("--stream", "streams", multiple=True, metavar="NAME=URL", help="Listen to this HLS stream (repeatable).")
@click.option(
    "--music", type=click.Path(path_type=Path), help="Serve the music in this folder as HLS and listen to it."
)
@click.option("--model", help="Folder under models/ that answers.  [default: from the configuration]")
@click.option("--backend", type=click.Choice(["triton", "onnx"]), help="Engine.  [default: triton where it can run]")
@click.option("--replicas", multiple=True, metavar="SERVICE=N", help="Run N featurizer or inference processes.")
@click.option("--until-end", is_flag=True, help="Exit when every stream has ended: 0 if the ledger adds up, else 1.")
@click.option("--json", "json_lines", is_flag=True, help="Print one JSON object a line: results, then the ledger.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML configuration file.")
@click.option("--port", "ports", multiple=True, metavar="PART=N", help="Use this port (broker, origin, triton, ...).")
@click.option(
    "--dashboard/--no-dashboard", "page", default=None, help="Serve the web page.  [default: unless --until-end]"
)
@click.option("--folder", type=click.Path(path_type=Path), help="Keep logs and state here.  [default: a temporary one]")
def up(
    streams: tuple[str, ...],
    music: Path | None,
    model: str | None,
    backend: str | None,
    replicas: tuple[str, ...],
    until_end: bool,
    json_lines: bool,
    config: Path | None,
    ports: tuple[str, ...],
    page: bool | None,
    folder: Path | None,
) -> None:
    """Run broker, origin, Triton and every service on this machine.

    \b
    Example: genre up --music ~/Music
             genre up --stream radio1=https://example.org/live.m3u8 --json
    """
    logs.set_up(schema.Log(level="warning"), "genre up")
    config = config or (Path(os.environ["GENRE_CONFIG"]) if os.environ.get("GENRE_CONFIG") else None)
    loaded = loading.load(config)
    merged = _merged(loaded, streams, model, backend, until_end)
    if not merged.streams and music is None:
        raise UsageError("streams", "there is nothing to listen to", "give --stream NAME=URL or --music DIR")
    counts = _counts("--replicas", replicas, children.REPLICATED, 64)
    given = _counts("--port", ports, children.PORT_NAMES, 65_535)
    keep = folder is not None
    try:
        folder = folder or Path(tempfile.mkdtemp(prefix="genre-up-"))
        alone = ExitStack()
        alone.enter_context(lock.hold(folder))
        plan = Plan(folder, given)
    except OSError as error:
        raise GenreError(str(folder), f"can't be written ({error.strerror})", "name another --folder") from error
    except lock.TakenError as error:
        remedy = "end that one first, or give this one another --folder"
        raise GenreError(str(folder), f"another 'genre up' runs in it ({error})", remedy) from error
    merged = merged.model_copy(update={"paths": schema.Paths(state_dir=folder / "state")})
    run = Run(
        merged,
        plan,
        counts,
        ConfigFile(config, loaded),
        json_lines=json_lines,
        explicit_backend=backend is not None,
        page=not until_end if page is None else page,
    )
    before = signal.signal(signal.SIGTERM, _interrupt)
    code, clean = 1, False
    try:
        run.start(music, until_end)
        code = run.watch(until_end)
        clean = code == 0
        if not clean:
            click.echo(f"genre up: logs are in {folder / 'logs'}", err=True)
    except KeyboardInterrupt:
        code, clean = (130 if until_end else 0), True
    except GenreError as error:
        clean = str(folder) not in str(error)  # logs are kept where the error sends the reader to them
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        run.end()
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        alone.close()
        if clean and not keep:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code)


def _merged(
    loaded: schema.Settings, streams: tuple[str, ...], model: str | None, backend: str | None, until_end: bool
) -> schema.Settings:
    """Return the configuration with the options on top.

    Raises:
        UsageError: naming the option and what is allowed.
    """
    values = loaded.model_dump(mode="json", exclude_none=True)
    values["streams"] += [{"name": name, "url": url} for name, url in _pairs("--stream", streams).items()]
    for key, value in (("model", model), ("backend", backend)):
        if value is not None:
            values["inference"][key] = value
    if until_end:
        values["fetcher"]["retry_failed_s"] = 0
        values["hls"]["ended_reload_s"] = 0
    if not triton_server.can_run_here() and backend is None:
        values["inference"]["backend"] = "onnx"
    merged = loading.checked(values, "options")
    # The services run elsewhere: a folder beside this one would be another there.
    inference = merged.inference.model_copy(update={"models_dir": merged.inference.models_path})
    return merged.model_copy(update={"inference": inference})
