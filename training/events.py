"""The learning curve for TensorBoard, where that is installed: files of events in a run's folder, one a start.

TensorFlow writes them, so TensorBoard itself is never loaded. Start at `Events`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from services.errors import GenreError


class Events:
    """Scalars by epoch; nothing is written, and nothing said, where TensorBoard or TensorFlow is not installed.

    Args:
        folder: of the run; TensorBoard names the run after it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        self._wanted = all(find_spec(package) for package in ("tensorboard", "tensorflow"))

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write one epoch's scalars, by their tags, to the disk.

        Raises:
            GenreError: where the file can't be written.
        """
        if not self._wanted:
            return
        import tensorflow as tf

        told = [tf.compat.v1.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        try:
            writer = self._open(tf)
            writer.add_summary(tf.compat.v1.Summary(value=told), epoch)
            writer.flush()
        except (OSError, tf.errors.OpError) as error:
            raise GenreError(
                str(self._folder), f"can't be written ({error})", "give --out a folder with room"
            ) from error

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, tf: Any) -> Any:
        """Return the writer; it is made with the first epoch, so that a run without one leaves no file."""
        if self._writer is None:
            with tf.Graph().as_default():  # it refuses to work in eager mode, for reasons that do not touch scalars
                self._writer = tf.compat.v1.summary.FileWriter(str(self._folder))
        return self._writer
