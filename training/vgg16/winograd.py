"""3 x 3 convolutions with fewer multiplications, written as ONNX operations that every runtime has.

Winograd's F(4 x 4, 3 x 3): a tile of 6 x 6 inputs gives 4 x 4 outputs for 36 multiplications instead of 144. ONNX
Runtime's own float32 convolution does not do this on a CPU; TensorRT and cuDNN choose it by themselves. Matrices: Lavin
and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section 4.2. Start at `convolution`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.onnx_graph import Graph

Matrix = NDArray[np.float64]

PRECISION = "fp32 Winograd"
"""What the card of a model with such convolutions says."""
M, SIDE = 4, 6
"""Outputs and inputs along each side of a tile."""
POINTS = SIDE * SIDE
# The transforms of the input (B transposed), of the kernel (G) and of the output (A transposed).
_INPUT: Matrix = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float64,
)
_KERNEL: Matrix = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], np.float64) / 24
_OUTPUT: Matrix = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float64
)


def convolution(
    graph: Graph, x: str, kernel: NDArray[np.floating], bias: NDArray[np.floating], size: tuple[int, int]
) -> str:
    """Add a convolution with stride 1 whose output has its input's size, as Keras' padding "same" and pads of 1 do.

    Args:
        x: input, [batch, channels, height, width].
        kernel: [filters, channels, 3, 3], as ONNX has it.
        bias: [filters].
        size: (height, width) of the input.

    Returns:
        The output, [batch, filters, height, width], equal to a plain convolution's but for rounding: within 3e-5 of
        the largest output, where a plain one in float32 is within 1e-6.

    Raises:
        ValueError: height or width is no multiple of 4.
    """
    height, width = size
    if height % M or width % M:
        raise ValueError(f"{height} x {width} can't be cut into tiles of {M} x {M}")
    filters, channels = kernel.shape[:2]
    down, across = height // M, width // M
    # The input's transform of every channel by itself: one convolution with as many filters as a tile has points.
    spread = np.einsum("ia,jb->ijab", _INPUT, _INPUT).reshape(POINTS, 1, SIDE, SIDE)
    x = graph.reshape(x, (-1, 1, height, width))
    x = graph.add("Conv", x, graph.weight(spread), kernel_shape=[SIDE] * 2, strides=[M] * 2, pads=[1] * 4)
    x = graph.reshape(x, (-1, channels, POINTS, down * across))
    x = graph.add("Transpose", x, perm=[0, 2, 1, 3])
    turned = np.einsum("ia,jb,kcab->ijkc", _KERNEL, _KERNEL, kernel.astype(np.float64))
    x = graph.add("MatMul", graph.weight(turned.reshape(POINTS, filters, channels)), x)
    # Back: points to the 4 x 4 outputs of each tile, all filters below each other as one picture.
    gather = np.einsum("ia,jb->ijab", _OUTPUT, _OUTPUT).reshape(M * M, POINTS, 1, 1)
    x = graph.reshape(x, (-1, POINTS, filters * down, across))
    x = graph.add("Conv", x, graph.weight(gather), kernel_shape=[1, 1])
    x = graph.add("DepthToSpace", x, blocksize=M)
    x = graph.reshape(x, (-1, filters, height, width))
    return graph.add("Add", x, graph.weight(bias.reshape(1, filters, 1, 1)))
