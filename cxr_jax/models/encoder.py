"""A network with the input contract that it was built for."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cxr_jax.models import densenet, resnet
from cxr_jax.runtime.parallel import AXIS

DEPTHS = (*resnet.STAGE_SIZES, densenet.DEPTH)


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Callable network over images [B, S, S, 1] in [0, 1]; owns their normalisation.

    `mean`, `std`: of the data set and region on [0, 1]; `channels`: of the network's input (with 3
    the grey image is repeated, for an ImageNet stem that was not folded).
    """

    network: nn.Module
    mean: float
    std: float
    channels: int = 1

    @property
    def feature_width(self) -> int:
        """Channels of the last feature map."""
        return self.network.feature_width

    def init(self, key, size: int) -> tuple[dict, dict]:
        """Fresh (params, batch_stats) for images of `size` pixels."""
        images = jnp.zeros((2, size, size, self.channels))
        variables = self.network.init(key, images, train=True)
        return variables['params'], variables['batch_stats']

    def __call__(self, params, batch_stats, images, train: bool = True, groups: int = 1):
        """-> (feature map float32 [B, H/32, W/32, feature_width], new batch_stats).

        `groups`: virtual batch-norm groups in the global batch (1: one global batch norm).
        """
        x = (images - self.mean) / self.std
        x = jnp.repeat(x, self.channels, axis=-1)
        variables = {'params': params, 'batch_stats': batch_stats}
        if not train:
            return self.network.apply(variables, x, train=False), batch_stats
        features, updated = self.network.apply(
            variables, x, train=True, groups=groups, mutable=['batch_stats']
        )
        return features, updated['batch_stats']


def compute_dtype(name: str) -> str:
    """`auto` -> bfloat16 on accelerators, float32 on CPU; any other name as it is."""
    if name != 'auto':
        return name
    return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'


def build_network(depth: int, width: int, **fields) -> resnet.ResNet | densenet.DenseNet:
    """The network of `depth` (one of DEPTHS), its stem `width` channels wide."""
    if depth == densenet.DEPTH:
        return densenet.DenseNet(width, **fields)
    return resnet.ResNet(depth, width, **fields)


def network_name(depth: int) -> str:
    """'ResNet-50'."""
    return f'{type(build_network(depth, 64)).__name__}-{depth}'


def feature_width(depth: int, width: int) -> int:
    """Channels of the network's last feature map."""
    return build_network(depth, width).feature_width


def smallest_image(depth: int) -> int:
    """Pixels on a side of the smallest image that the network can see."""
    return densenet.SMALLEST_IMAGE if depth == densenet.DEPTH else 1


def build_backbone(config, mean: float, std: float) -> Backbone:
    """Backbone of `config.backbone` for images whose [0, 1] values have this mean and std."""
    dtype = jnp.dtype(compute_dtype(config.dtype))
    network = build_network(
        config.depth, config.width, dtype=dtype, axis_name=AXIS, remat=config.remat
    )
    return Backbone(network, float(mean), float(std), config.channels)
