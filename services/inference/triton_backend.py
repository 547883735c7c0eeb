"""Triton as the engine: gRPC with a deadline, health by canary inference, and a cure for a dead model process.

Triton says "ready" while a model's process is dead, and load_model alone is then a no-op: only an answer proves health,
and unload + load brings the process back. Not here: starting a server (services/supervisor/triton_server.py).
Start at `TritonBackend.answer`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from services.contract.messages import ContractError
from services.errors import GenreError
from services.inference.answer import Answer, check_views, outputs_of
from services.inference.card import Card
from services.process.worker import Unavailable

log = logging.getLogger(__name__)

RELOAD_PAUSE_S = 5.0
RELOAD_TIMEOUT_S = 10.0
LOAD_TIMEOUT_S = 30.0
"""For a model that is exchanged while the old one answers: nobody waits."""
HANGS_S = 15.0
"""A model process that answers nothing for so long, while Triton itself does, is taken for hung."""
_TRANSIENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED")


class TritonBackend:
    """Asks one Triton server for a model's answers; safe to call from several threads.

    Args:
        url: host:port of the gRPC endpoint.
        deadline_s: longest wait for one answer.
    """

    def __init__(self, card: Card, url: str, deadline_s: float) -> None:
        self._card, self._url, self._deadline_s = card, url, deadline_s
        self._outputs = outputs_of(card)
        self._client = triton.InferenceServerClient(url, verbose=False)
        self._reload_lock = threading.Lock()
        self._reloaded_at = 0.0
        self._late_since = 0.0

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until a canary inference is answered.

        Raises:
            GenreError: naming the server, what it said and what to do.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.canary()
                return
            except Unavailable as error:
                if time.monotonic() > deadline:
                    raise GenreError(
                        f"Triton at {self._url}",
                        f"does not answer for model {self._card.name} within {timeout_s:g} s ({error})",
                        "start Triton with this model repository, set inference.triton_url, or use backend 'onnx'",
                    ) from error
                time.sleep(0.2)
            except ContractError as error:
                raise GenreError(
                    f"Triton at {self._url}",
                    f"its model {self._card.name} does not take this recipe's tensors ({error})",
                    "give it the models/ folder that belongs to this card",
                ) from error

    def canary(self) -> None:
        """Run one inference on zeros: the only sign of health that can be trusted."""
        self.answer({name: np.zeros((1, *shape), np.float32) for name, shape in self._card.recipe.shapes.items()})

    def answer(self, views: Mapping[str, NDArray[np.float32]]) -> Answer:
        """Return the probabilities of some windows.

        Args:
            views: float32, shape [n, frames, bands] each, by the card's recipe.

        Raises:
            ValueError: for other views, shapes or types.
            Unavailable: Triton is away, late, or its model process just died; try again.
            ContractError: Triton refuses this tensor.
        """
        count = check_views(self._card, views)
        inputs = []
        for name, view in views.items():
            inputs.append(triton.InferInput(name, list(view.shape), "FP32"))
            inputs[-1].set_data_from_numpy(np.ascontiguousarray(view))
        try:
            found = self._client.infer(
                self._card.name,
                inputs,
                outputs=[triton.InferRequestedOutput(name) for name in self._outputs],
                client_timeout=self._deadline_s,
            )
        except InferenceServerException as error:
            raise self._judged(error) from error
        self._late_since = 0.0
        values = {}
        for name, size in self._outputs.items():
            value = found.as_numpy(name)
            if value is None or value.shape != (count, size):
                # Triton 24.10 with numpy 2 in its model processes answers like this, without an error of its own.
                raise Unavailable(f"Triton answered with {None if value is None else value.shape} instead of {name}")
            values[name] = np.asarray(value, np.float32)
        return Answer(**values)

    def _judged(self, error: InferenceServerException) -> Exception:
        """Return what an error of Triton means here; a dead model process is brought back on the way."""
        status, text = str(error.status() or ""), str(error.message() or error)
        if "Stub process" in text or "is not healthy" in text:
            self._reload("its model process died")
            return Unavailable(f"Triton's process of {self._card.name} died; it is loaded again")
        if "DEADLINE_EXCEEDED" in status:
            self._late_since = self._late_since or time.monotonic()
            if time.monotonic() - self._late_since > HANGS_S:
                self._reload(f"no answer for {HANGS_S:g} s")
        if any(name in status for name in _TRANSIENT):
            return Unavailable(f"Triton at {self._url}: {status} {text}"[:200])
        if "NOT_FOUND" in status or "not found" in text or "is not ready" in text:
            self._reload("the model is not loaded")
            return Unavailable(f"Triton at {self._url} has no model {self._card.name}: {text}"[:200])
        if "INVALID_ARGUMENT" in status:
            return ContractError(f"Triton: {text}"[:300])
        return Unavailable(f"Triton at {self._url}: {status} {text}"[:200])

    def load(self) -> None:
        """Have Triton load the model's files again; it answers with the old ones until it has.

        Raises:
            GenreError: Triton refuses the new files, or is not there.
        """
        try:
            self._client.load_model(self._card.name, client_timeout=LOAD_TIMEOUT_S)
        except InferenceServerException as error:
            reason = f"does not load version {self._card.version} of {self._card.name} ({error.message()})"
            raise GenreError(f"Triton at {self._url}", reason[:400], "see Triton's log") from error

    def _reload(self, reason: str) -> None:
        """Unload and load the model, at most once in a while whoever asks; load alone is a no-op for a dead process."""
        with self._reload_lock:
            if time.monotonic() - self._reloaded_at < RELOAD_PAUSE_S:
                return
            log.warning("Triton at %s: %s; loading %s again", self._url, reason, self._card.name)
            for call in (self._client.unload_model, self._client.load_model):
                self._quietly(call)
            self._reloaded_at = time.monotonic()

    def _quietly(self, call: Any) -> None:
        try:
            call(self._card.name, client_timeout=RELOAD_TIMEOUT_S)
        except InferenceServerException as error:
            log.warning("Triton at %s: %s", self._url, error)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
