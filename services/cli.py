"""The `genre` command: names and where each lives; nothing else is imported until a command is chosen.

A command is a click command that stands beside the part it belongs to. To add one, add a line to COMMANDS.
"""

from __future__ import annotations

import importlib
import sys

import click

from services.errors import GenreError

COMMANDS = {
    "up": ("services.supervisor.up:up", "everything on this machine under one supervisor"),
    "fetcher": ("services.fetcher.service:fetcher", "the fetcher service: HLS in, PCM chunks out"),
    "featurizer": ("services.featurizer.service:featurizer", "the featurizer service: PCM in, mel tensors out"),
    "inference": ("services.inference.service:inference", "the inference service: mel tensors in, genres out"),
    "dashboard": ("services.dashboard.service:dashboard", "the dashboard service: a web page of what plays where"),
    "watch": ("services.watch:watch", "a live table of what is playing, in the terminal"),
    "classify": ("services.classify.command:classify", "name the genre of audio files, no broker needed"),
    "streams": ("services.streams:streams", "list, add, pause and remove streams in a configuration"),
    "doctor": ("services.doctor.command:doctor", "staged check of everything, and what to do"),
    "support-bundle": ("services.doctor.bundle:support_bundle", "what a maintainer needs, secrets removed"),
    "scale": ("services.scale:scale", "how many replicas an installed system runs"),
    "broker": ("services.broker_command:broker", "users, passwords and certificates of the MQTT broker"),
    "package": ("services.origin.package:package", "music files -> HLS"),
    "record": ("services.fetcher.record:record", "write what the fetcher hears, print its ledger"),
    "check-config": ("services.check_config:check_config", "validate a configuration"),
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
    try:
        genre(standalone_mode=False)
    except GenreError as error:
        click.echo(f"genre: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        message = " ".join(error.format_message().split())
        click.echo(f"genre: {message}; see 'genre {_path(error)}--help'", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


def _path(error: click.ClickException) -> str:
    """Return the names of the subcommands that led to a usage error, each followed by a space."""
    ctx = getattr(error, "ctx", None)
    return "".join(f"{name} " for name in ctx.command_path.split()[1:]) if ctx else ""


if __name__ == "__main__":
    main()
