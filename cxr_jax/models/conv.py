"""Convolution with PyTorch's explicit padding, lowered by platform; the parameters never change.

On accelerators every convolution is XLA's. On CPU XLA's gradients are the bottleneck of a ResNet's
train step (the kernel's above all), so there the gradients, the strided and the very narrow
convolutions are written as matrix products, which run near the cores' peak; and so is max-pooling
rewritten, whose gradient costs more than a block.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# Wider maps go to XLA's forward convolution: there copying the patches costs more than it saves.
MAX_PATCH_WIDTH = 4


def conv2d(x, kernel, stride: int = 1, padding: int = 0, axis_name: str | None = None):
    """Cross-correlation of x [B, H, W, C] with kernel [k, k, C, O] -> [B, H', W', O].

    `padding` zeros on every side, as torch.nn.Conv2d: H' = (H + 2 padding - k) // stride + 1.
    `axis_name`: inside shard_map, the axis over which x varies and the kernel does not.
    """
    if jax.default_backend() != 'cpu':
        return xla_convolution(x, kernel, stride, padding)
    if kernel.shape[0] == 1:
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    if stride > 1 or x.shape[2] <= MAX_PATCH_WIDTH:
        return _patches_matmul(x, kernel, stride, padding)
    if axis_name:
        # A custom gradient must vary over the devices as its input does. The cast makes the kernel
        # vary, and the cast's own transpose sums the kernel's gradient over the devices.
        kernel = lax.pcast(kernel, axis_name, to='varying')
    return _matmul_gradient(kernel, x, padding)


def xla_convolution(x, kernel, stride: int, padding: int):
    """conv2d as XLA's own operation."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


def _shifted(x, size: int, stride: int, padding: int):
    """The size² strided views of the padded x that a kernel's taps see, row-major."""
    height, width = ((n + 2 * padding - size) // stride + 1 for n in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = stride * (height - 1) + 1, stride * (width - 1) + 1
    return [
        x[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(size)
        for j in range(size)
    ]


def _patches_matmul(x, kernel, stride: int, padding: int):
    size, _, channels, features = kernel.shape
    patches = jnp.concatenate(_shifted(x, size, stride, padding), axis=-1)
    return patches @ kernel.reshape(size * size * channels, features)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul_gradient(kernel, x, padding: int):
    return xla_convolution(x, kernel, 1, padding)


def _forward(kernel, x, padding: int):
    return xla_convolution(x, kernel, 1, padding), (kernel, x)


def _backward(padding: int, saved, grad):
    kernel, x = saved
    size = kernel.shape[0]
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    grad_x = xla_convolution(grad, flipped, 1, size - 1 - padding)
    taps = [jnp.einsum('bhwc,bhwo->co', tap, grad) for tap in _shifted(x, size, 1, padding)]
    return jnp.stack(taps).reshape(kernel.shape), grad_x


_matmul_gradient.defvjp(_forward, _backward)


def max_pool(x):
    """3x3 maximum with stride 2 and padding 1: [B, H, W, C] -> [B, (H+1)//2, (W+1)//2, C]."""
    if jax.default_backend() != 'cpu':
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    # XLA's CPU gradient of a window maximum is slower than that of a maximum of three slices, once
    # along each axis, by a factor of ten.
    for axis in (1, 2):
        length = (x.shape[axis] - 1) // 2 * 2 + 1
        pads = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        slices = [lax.slice_in_dim(padded, i, i + length, 2, axis) for i in range(3)]
        x = functools.reduce(jnp.maximum, slices)
    return x


class Conv(nn.Module):
    """Convolution without bias; parameter `kernel` [k, k, C, O], Kaiming normal over fan-out."""

    features: int
    size: int
    stride: int = 1
    padding: int = 0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param('kernel', init, shape, jnp.float32)
        axis = None if self.is_initializing() else self.axis_name
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return conv2d(x, kernel, self.stride, self.padding, axis)
