"""Batch normalisation with PyTorch's running statistics, global over the mesh or in groups; and
instance normalisation."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

MOMENTUM = 0.9  # PyTorch's 0.1: it weighs the new value, Flax and this code the old one.
EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Normalises the last axis over all others; running variance unbiased, as torch.nn.BatchNorm.

    `axis_name`: mesh axis over which the statistics are shared (None: this device alone).
    `groups`: number of virtual devices in the global batch, each with statistics of its own over
    consecutive rows (MoCo's shuffling and split BN); 1 means the whole global batch.
    `affine`: with a learnt scale and shift.
    """

    axis_name: str | None = None
    groups: int = 1
    momentum: float = MOMENTUM
    affine: bool = True

    @nn.compact
    def __call__(self, x, train: bool):
        channels = x.shape[-1]
        scale, bias = 1.0, 0.0
        if self.affine:
            scale = self.param('scale', nn.initializers.ones, (channels,), jnp.float32)
            bias = self.param('bias', nn.initializers.zeros, (channels,), jnp.float32)
        mean = self.variable('batch_stats', 'mean', jnp.zeros, (channels,), jnp.float32)
        var = self.variable('batch_stats', 'var', jnp.ones, (channels,), jnp.float32)
        if not train:
            return _affine(x, mean.value, var.value, scale, bias)
        axis = None if self.is_initializing() else self.axis_name
        devices = lax.axis_size(axis) if axis else 1
        local_groups = max(self.groups // devices, 1)
        grouped = x.reshape(local_groups, -1, *x.shape[1:])
        reduced = tuple(range(1, grouped.ndim - 1))
        wide = grouped.astype(jnp.promote_types(x.dtype, jnp.float32))
        shared = axis if self.groups == 1 else None
        batch_mean = _mean(wide, reduced, shared)
        # Two passes: E[x²] - E[x]² loses the digits that parity with PyTorch and between numbers
        # of devices needs.
        batch_var = _mean(jnp.square(wide - batch_mean), reduced, shared)
        count = x.size // channels // local_groups * (devices if shared else 1)
        if not self.is_initializing():
            unbiased = batch_var * (count / max(count - 1, 1))
            new_mean, new_var = batch_mean.reshape(-1, channels), unbiased.reshape(-1, channels)
            new_mean, new_var = new_mean.mean(0), new_var.mean(0)
            if axis and self.groups > 1:
                new_mean, new_var = lax.pmean((new_mean, new_var), axis)
            old = self.momentum
            mean.value = old * mean.value + (1 - old) * lax.stop_gradient(new_mean)
            var.value = old * var.value + (1 - old) * lax.stop_gradient(new_var)
        y = _affine(grouped, batch_mean, batch_var, scale, bias)
        return y.reshape(x.shape)


class InstanceNorm(nn.Module):
    """Normalises every channel of every image [B, H, W, C] over its own positions (Ulyanov et al.
    2016, arXiv:1607.08022), then scale and shift; the same in training and evaluation."""

    @nn.compact
    def __call__(self, x):
        scale = self.param('scale', nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = wide.mean((1, 2), keepdims=True)
        var = jnp.square(wide - mean).mean((1, 2), keepdims=True)
        return _affine(x, mean, var, scale, bias)


def _mean(x, reduced, axis_name):
    mean = x.mean(reduced, keepdims=True)
    return lax.pmean(mean, axis_name) if axis_name else mean


def _affine(x, mean, var, scale, bias):
    factor = scale * lax.rsqrt(var + EPSILON)
    return ((x - mean) * factor + bias).astype(x.dtype)
