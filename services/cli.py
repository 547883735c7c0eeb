"""The `genre` command: names and where each lives; nothing else is imported until a command is chosen.

A command is a click command that stands beside the part it belongs to. To add one, add a line to COMMANDS.
"""

from __future__ import annotations

import codecs
import importlib
import io
import os
import sys

import click

from services.errors import MOST_TEXT, GenreError
from services.text import clean

PRINTED_AS = "genre-printed"

COMMANDS = {
    "up": ("services.supervisor.up:up", "everything on this machine under one supervisor"),
    "fetcher": ("services.fetcher.service:fetcher", "the fetcher service: HLS in, PCM chunks out"),
    "featurizer": ("services.featurizer.service:featurizer", "the featurizer service: PCM in, mel tensors out"),
    "inference": ("services.inference.service:inference", "the inference service: mel tensors in, genres out"),
    "dashboard": ("services.dashboard.service:dashboard", "the dashboard service: a web page of what plays where"),
    "watch": ("services.monitor.watch:watch", "a live table of what is playing, in the terminal"),
    "classify": ("services.classify.command:classify", "name the genre of audio files, no broker needed"),
    "history": ("services.dashboard.history.command:history", "export and copy what the dashboard has kept"),
    "retained": ("services.dashboard.retained_command:retained", "what a broker keeps of streams that are gone"),
    "streams": ("services.settings.stream_editor:streams", "list, add, pause and remove streams in a configuration"),
    "hear-again": ("services.fetcher.hear_again:hear_again", "hear a stream that has ended once more"),
    "doctor": ("services.doctor.command:doctor", "staged check of everything, and what to do"),
    "support-bundle": ("services.doctor.bundle:support_bundle", "what a maintainer needs, secrets removed"),
    "scale": ("services.process.scale:scale", "how many replicas an installed system runs"),
    "broker": ("broker.command:broker", "users, passwords and certificates of the MQTT broker"),
    "package": ("services.origin.packager:package", "music files -> HLS"),
    "record": ("services.fetcher.record:record", "write what the fetcher hears, print its ledger"),
    "check-config": ("services.settings.check:check_config", "validate a configuration"),
    "bench": ("benchmarks.cli:bench", "scale and cost benchmarks"),
    "train": ("training.cli:train", "reproduce | fit | evaluate | export | figures"),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is run or asked for its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="genre-edge", prog_name="genre")
def genre() -> None:
    """Name the genre of HTTP Live Streams, every 1.5 seconds, on MQTT.

    \b
    Example: genre up --stream radio1=https://example.org/live.m3u8
    """


def main() -> None:
    """Run `genre`; a GenreError ends as one line on stderr and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PRINTED_AS)
    try:
        genre(prog_name="genre", standalone_mode=False)
        sys.stdout.flush()
    except GenreError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as help_wanted:
        click.echo(help_wanted.format_message())
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        _say(f"{error.format_message().rstrip('.')}; see 'genre {_path(error)}--help'")
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except OSError as error:
        # What reads the output is gone, or the disk under it is full: nothing more can be printed, now or at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            _say(str(GenreError(str(error.filename or "output"), f"{error.strerror or error}", "look at that place")))
        sys.exit(1)


def _say(line: str) -> None:
    click.echo(f"genre: {clean(line, MOST_TEXT)}", err=True)


def _path(error: click.ClickException) -> str:
    """Return the names of the subcommands that led to a usage error, each followed by a space."""
    ctx = getattr(error, "ctx", None)
    names = ctx.command_path.split()[1:] if ctx else [word for word in sys.argv[1:2] if word in COMMANDS]
    return "".join(f"{name} " for name in names)


def _printed(error: UnicodeError) -> tuple[bytes, int]:
    """Print names of files as the bytes that they are, and '?' for what the terminal has no character for."""
    assert isinstance(error, UnicodeEncodeError)
    part = error.object[error.start : error.end]
    return b"".join(bytes([ord(c) - 0xDC00]) if 0xDC80 <= ord(c) <= 0xDCFF else b"?" for c in part), error.end


codecs.register_error(PRINTED_AS, _printed)


if __name__ == "__main__":
    main()
