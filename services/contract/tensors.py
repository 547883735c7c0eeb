"""Feature tensors as MQTT 5 messages: the features of a chunk's windows, one view or several.

Pure values. The header says more than a chunk's, in User Properties too. Start at `MelTensor`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, field_validator, model_validator

from services.contract.chunks import Chunk, ChunkHeader, check_type, properties_of, read_header
from services.contract.messages import ContractError, Message
from services.contract.recipe import ONE_VIEW
from services.contract.topics import Topics

Shape = tuple[int, int]
ViewShape = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}:[1-9]\d{0,3}x[1-9]\d{0,3}$")]


class TensorHeader(ChunkHeader):
    """A ChunkHeader with what a tensor needs besides.

    A recipe of one view says its `frames` and `bands`; one of several says `views` instead, such as
    `mel96:187x96,mel64:288x64`.
    """

    recipe: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    recipe_digest: str = Field(pattern=r"^[0-9a-f]{8,64}$")
    dtype: Literal["float32", "float16"] = "float32"
    frames: int | None = Field(None, ge=1, le=4096)
    bands: int | None = Field(None, ge=1, le=4096)
    views: tuple[ViewShape, ...] = Field((), max_length=8)
    levels_dbfs: str = Field(pattern=r"^-?\d+(\.\d+)?(,-?\d+(\.\d+)?)*$", max_length=1024)

    @field_validator("views", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(value.split(",")) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_form(self) -> TensorHeader:
        names = [each.partition(":")[0] for each in self.views]
        if len(set(names)) != len(names):
            raise ValueError("views: one name stands twice")
        flat = self.frames is not None and self.bands is not None
        if flat if self.views else not flat or (self.frames is None) != (self.bands is None):
            raise ValueError("either frames and bands or views is needed")
        return self

    @classmethod
    def shape_fields(cls, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        """Return the fields that say how the tensors of some views are laid out."""
        if list(shapes) == [ONE_VIEW]:
            return dict(zip(("frames", "bands"), shapes[ONE_VIEW], strict=True))
        return {"views": tuple(f"{name}:{frames}x{bands}" for name, (frames, bands) in shapes.items())}

    @property
    def shapes(self) -> dict[str, Shape]:
        """Frames and bands of each view, in the order of the payload."""
        if self.frames is not None and self.bands is not None:
            return {ONE_VIEW: (self.frames, self.bands)}
        found = {}
        for each in self.views:
            name, _, shape = each.partition(":")
            frames, _, bands = shape.partition("x")
            found[name] = int(frames), int(bands)
        return found


@dataclass(frozen=True)
class MelTensor:
    """Features of k windows (`genre/mel/<recipe>/<stream>`, QoS 1).

    The payload holds one view after another, each of all windows.

    Attributes:
        views: float32, shape (windows, frames, bands) each, by the name of the recipe's view.
        levels_dbfs: level of each window as it was heard.
        reply_to: topic that the ack goes to.
    """

    header: TensorHeader
    views: dict[str, NDArray[np.float32]]
    levels_dbfs: tuple[float, ...]
    reply_to: str

    CONTENT_TYPE: ClassVar[str] = "application/vnd.genre-edge.tensor"

    @classmethod
    def of(
        cls,
        chunk: Chunk,
        views: Mapping[str, NDArray[np.float32]],
        levels_dbfs: tuple[float, ...],
        recipe: str,
        recipe_digest: str,
        dtype: str = "float32",
    ) -> MelTensor:
        """Return the tensor that belongs to a chunk; views: (windows, frames, bands) each."""
        shapes = {name: (view.shape[1], view.shape[2]) for name, view in views.items()}
        header = TensorHeader(
            **chunk.header.model_dump(),
            recipe=recipe,
            recipe_digest=recipe_digest,
            dtype=dtype,
            **TensorHeader.shape_fields(shapes),
            levels_dbfs=",".join(f"{level:.2f}" for level in levels_dbfs),
        )
        return cls(header, dict(views), levels_dbfs, chunk.reply_to)

    def to_message(self, topics: Topics) -> Message:
        """Return it as a PUBLISH."""
        dtype = np.dtype(self.header.dtype).newbyteorder("<")
        return Message(
            topic=topics.mel(self.header.recipe, self.header.stream),
            payload=b"".join(np.ascontiguousarray(view, dtype=dtype).tobytes() for view in self.views.values()),
            content_type=self.CONTENT_TYPE,
            response_topic=self.reply_to,
            correlation=self.header.chunk.encode(),
            properties=properties_of(self.header),
        )

    @classmethod
    def from_message(cls, message: Message) -> MelTensor:
        """Read a PUBLISH; features come out as float32.

        Raises:
            ContractError: naming the field and the reason.
        """
        check_type(message, cls.CONTENT_TYPE)
        header = read_header(TensorHeader, message)
        shapes = {name: (header.windows, *shape) for name, shape in header.shapes.items()}
        dtype = np.dtype(header.dtype).newbyteorder("<")
        wanted = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
        if len(message.payload) != wanted:
            said = " and ".join(str(shape) for shape in shapes.values())
            raise ContractError(f"payload has {len(message.payload)} bytes; {said} of {header.dtype} has others")
        levels = tuple(float(level) for level in header.levels_dbfs.split(","))
        if len(levels) != header.windows:
            raise ContractError(f"user property levels_dbfs has {len(levels)} values for {header.windows} windows")
        views, at = {}, 0
        for name, shape in shapes.items():
            view = np.frombuffer(message.payload, dtype, math.prod(shape), at).reshape(shape)
            views[name] = view.astype(np.float32, copy=False)
            at += view.nbytes
            if not np.isfinite(view).all():
                raise ContractError(f"the tensor has values that are not finite, in view {name}")
        return cls(header, views, levels, message.response_topic or "")
