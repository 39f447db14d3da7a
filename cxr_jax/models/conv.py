"""Convolution with PyTorch's explicit padding, lowered by platform; the parameters never change.

On accelerators every convolution is XLA's. On CPU XLA's gradients are the bottleneck of a ResNet's
train step, so there every convolution is written as matrix products, which run near the cores'
peak, and so are their gradients then.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# On narrower maps and smaller layers (channels times width) Winograd's transforms cost as much as
# its fewer products save, and it takes longer to compile.
MIN_WINOGRAD_WIDTH, MIN_WINOGRAD_LAYER = 4, 1024


def conv2d(x, kernel, stride: int = 1, padding: int = 0):
    """Cross-correlation of x [B, H, W, C] with kernel [k, k, C, O] -> [B, H', W', O].

    `padding` zeros on every side, as torch.nn.Conv2d: H' = (H + 2 padding - k) // stride + 1.
    """
    if jax.default_backend() != 'cpu':
        return xla_convolution(x, kernel, stride, padding)
    if kernel.shape[0] == 1:
        return product(x[:, ::stride, ::stride], kernel[0, 0])
    if (
        (kernel.shape[0], stride, padding) == (3, 1, 1)
        and x.shape[2] >= MIN_WINOGRAD_WIDTH
        and x.shape[2] * min(kernel.shape[2:]) >= MIN_WINOGRAD_LAYER
    ):
        return winograd(x, kernel)
    return patches_matmul(x, kernel, stride, padding)


def xla_convolution(x, kernel, stride: int, padding: int):
    """conv2d as XLA's own operation."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


def product(x, kernel):
    """x [..., C] @ kernel [C, O].

    Of two matrices: for the kernel's gradient XLA would first transpose a gradient of more axes,
    and compute all that it comes from (batch norm's, ReLU's) once more in that order.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def patches_matmul(x, kernel, stride: int, padding: int):
    """conv2d as one product: for every output pixel, the inputs under the kernel's taps."""
    size, _, channels, features = kernel.shape
    height, width = ((n + 2 * padding - size) // stride + 1 for n in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = stride * (height - 1) + 1, stride * (width - 1) + 1
    taps = [
        x[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(size)
        for j in range(size)
    ]
    return product(jnp.concatenate(taps, -1), kernel.reshape(size * size * channels, features))


def winograd(x, kernel):
    """conv2d of a 3x3 kernel with stride 1 and padding 1, by 16 instead of 36 products a 2x2 tile.

    F(2x2, 3x3) of Lavin and Gray 2016 (arXiv:1509.09308), section 4.1: along each axis, 4 inputs
    and 3 taps become 4 products, whose sums are 2 outputs. Rounding error is about 5 times that of
    the direct sum (1e-6 relative in float32).
    """
    batch, height, width, channels = x.shape
    features = kernel.shape[-1]
    tiles = (batch, (height + 1) // 2, (width + 1) // 2)
    x = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    inputs = [_input_transform(row, 2) for row in _input_transform(x, 1)]
    taps = [_kernel_transform(row) for row in _kernel_transform(kernel)]
    # Sixteen products, not one batched: stacking their operands would cost as much as the products.
    products = [[product(inputs[i][j], taps[i][j]) for j in range(4)] for i in range(4)]
    columns = [_output_transform([products[i][j] for i in range(4)]) for j in range(4)]
    outputs = [jnp.stack(_output_transform(row), axis=3) for row in zip(*columns, strict=True)]
    y = jnp.stack(outputs, axis=2).reshape(batch, 2 * tiles[1], 2 * tiles[2], features)
    return y[:, :height, :width]


def _unstack(x, axis: int):
    # lax.split, because its gradient is one concatenation; that of indexing is a sum of paddings.
    return [jnp.squeeze(part, axis) for part in lax.split(x, (1,) * x.shape[axis], axis)]


def _input_transform(x, axis: int):
    """The 4 transformed inputs of every tile of 4 with stride 2 along the axis of even length."""
    pairs = x.shape[axis] // 2
    x = x.reshape(*x.shape[:axis], pairs, 2, *x.shape[axis + 1 :])
    even, odd = _unstack(x, axis + 1)
    first, third = (lax.slice_in_dim(even, k, k + pairs - 1, axis=axis) for k in (0, 1))
    second, fourth = (lax.slice_in_dim(odd, k, k + pairs - 1, axis=axis) for k in (0, 1))
    return [first - third, second + third, third - second, second - fourth]


def _kernel_transform(kernel):
    first, second, third = _unstack(kernel, 0)
    outer, inner = (first + third) / 2, second / 2
    return [first, outer + inner, outer - inner, third]


def _output_transform(products):
    first, second, third, fourth = products
    return [first + second + third, second - third - fourth]


def max_pool(x):
    """3x3 maximum with stride 2 and padding 1: [B, H, W, C] -> [B, (H+1)//2, (W+1)//2, C].

    Equal maxima share the gradient; PyTorch gives it to the first.
    """
    # Slices along one axis, then the other: the gradient of XLA's window maximum is ten times
    # slower on CPU, and on GPUs its sums come in any order, which a deterministic run forbids.
    for axis in (1, 2):
        length = (x.shape[axis] - 1) // 2 * 2 + 1
        pads = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        slices = [lax.slice_in_dim(padded, i, i + length, 2, axis) for i in range(3)]
        x = functools.reduce(jnp.maximum, slices)
    return x


class Conv(nn.Module):
    """Convolution without bias; parameter `kernel` [k, k, C, O], Kaiming normal over `fan`.

    Torchvision's initialisation is over fan_out in its ResNets, over fan_in in its DenseNets.
    """

    features: int
    size: int
    stride: int = 1
    padding: int = 0
    dtype: jnp.dtype = jnp.float32
    fan: str = 'fan_out'

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.variance_scaling(2.0, self.fan, 'normal')
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param('kernel', init, shape, jnp.float32)
        return conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)
