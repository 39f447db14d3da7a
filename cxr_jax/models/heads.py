"""The small networks on top of the encoder; every one starts from pooled features [B, D]."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cxr_jax.models.norm import BatchNorm


def torch_linear(features: int, inputs: int, name: str, bias: bool = True) -> nn.Dense:
    """Linear layer with PyTorch's default initialisation, U(+-1/sqrt(inputs)), bias included."""

    def uniform(key, shape, dtype=jnp.float32):
        bound = inputs**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(features, bias, kernel_init=uniform, bias_init=uniform, name=name)


class LinearHead(nn.Module):
    """Linear layer N(0, 0.01), bias 0 (MMSelfSup's heads): [B, D] -> [B, outputs]."""

    outputs: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs, kernel_init=nn.initializers.normal(0.01), name='linear')(x)


class MLP(nn.Module):
    """Linear layers with batch norm and ReLU between them: [B, D] -> [B, widths[-1]].

    `bias`: of the linear layers; before a batch norm it has no effect. `norm`: batch norm between
    the layers; `last_norm`: behind the last one too, with a scale and shift only if `affine`.
    """

    widths: tuple[int, ...]
    bias: bool = False
    norm: bool = True
    last_norm: bool = False
    affine: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool = True):
        for i, width in enumerate(self.widths, 1):
            last = i == len(self.widths)
            x = torch_linear(width, x.shape[-1], f'linear{i}', self.bias)(x)
            if self.last_norm if last else self.norm:
                affine = self.affine or not last
                norm = BatchNorm(axis_name=self.axis_name, affine=affine, name=f'bn{i}')
                x = norm(x, train)
            x = x if last else nn.relu(x)
        return x


class PairHead(nn.Module):
    """Pairs of pooled features [P, 2 D] -> logits [P, classes] (MMSelfSup's relative location).

    Linear as wide as its input, batch norm, ReLU, dropout, linear; weights N(0, 0.01) and
    N(0, 0.005), biases 0. `kept`: dropout's factors, 0 or 1 / (1 - rate), for [P, 2 D].
    """

    classes: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, kept):
        normal = nn.initializers.normal
        x = nn.Dense(x.shape[-1], kernel_init=normal(0.01), name='linear1')(x)
        # PyTorch's momentum 0.003: these running statistics move slowly.
        norm = BatchNorm(axis_name=self.axis_name, momentum=0.997, name='bn1')
        x = nn.relu(norm(x, train=True)) * kept
        return nn.Dense(self.classes, kernel_init=normal(0.005), name='linear2')(x)


class PuzzleHead(nn.Module):
    """Pooled features of images' tiles [B, T, D] -> logits [B, classes] (VISSL's Jigsaw).

    Each tile alone: linear, batch norm over all tiles, ReLU, with the same weights. All tiles of
    an image side by side: linear.
    """

    classes: int
    hidden: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x):
        x = torch_linear(self.hidden, x.shape[-1], 'linear1')(x)
        x = nn.relu(BatchNorm(axis_name=self.axis_name, name='bn1')(x, train=True))
        x = x.reshape(x.shape[0], -1)
        return torch_linear(self.classes, x.shape[-1], 'linear2')(x)


class ClusterNeck(nn.Module):
    """Pooled features [B, D] -> [B, features], none negative (MMSelfSup's ODC).

    Linear, batch norm without scale and shift, ReLU, dropout, linear, ReLU. `kept`: dropout's
    factors, 0 or 1 / (1 - rate), for [B, hidden].
    """

    hidden: int
    features: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, kept, train: bool = True):
        x = torch_linear(self.hidden, x.shape[-1], 'linear1')(x)
        # PyTorch's momentum 0.001.
        norm = BatchNorm(axis_name=self.axis_name, momentum=0.999, affine=False, name='bn1')
        x = nn.relu(norm(x, train)) * kept
        return nn.relu(torch_linear(self.features, self.hidden, 'linear2')(x))


def unit_rows(x, epsilon: float = 1e-12):
    """Rows of x divided by their Euclidean length (torch.nn.functional.normalize)."""
    # The floor is inside the root: its derivative at a zero row is finite.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), epsilon**2))
