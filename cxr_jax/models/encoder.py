"""Encoders: a network together with the contract of its input."""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cxr_jax.models.densenet import DenseNet
from cxr_jax.models.resnet import ResNet
from cxr_jax.runtime.parallel import AXIS
from cxr_jax.store.settings import setting
from cxr_jax.views.region import needs_masks, select_region, to_unit_range
from data_pipelines.errors import UserError

# Name -> network of (width, dtype, axis_name, remat). A network maps images [B, H, W, C] to the
# maps of its stages, {name: [B, h, w, c]} in their order, and knows its stages, feature_width
# (channels of the last map) and smallest_image (pixels on a side).
ENCODERS = {
    'resnet18': functools.partial(ResNet, 18),
    'resnet34': functools.partial(ResNet, 34),
    'resnet50': functools.partial(ResNet, 50),
    'resnet101': functools.partial(ResNet, 101),
    'densenet121': DenseNet,
}


@dataclasses.dataclass(frozen=True)
class Contract:
    """What an encoder sees of an image, whatever set the stored pixels come from."""

    size: int | None  # pixels on a side of the prepared images; None: any
    bits: int | None  # of a stored pixel, 8 or 16; None: either
    channels: int  # of the network's input; 3 repeats a grey image
    region: str  # what is kept of an image: one of views.region.REGIONS
    mean: float  # of the region's pixels in [0, 1], over the images that the encoder was built for
    std: float  # of the same pixels
    fill: float  # grey outside the lungs in the region lungs_gray: the mean of those whole images

    @property
    def needs_masks(self) -> bool:
        """Whether `images` needs the lung masks of a batch."""
        return needs_masks(self.region)

    def images(self, batch: dict):
        """Stored pixels -> images [b, R, R, channels] in [0, 1] of the region.

        batch: image uint8 or uint16 [b, R, R, C], grey (C = 1) or of as many channels, and
        lung_mask [b, R, R, 1] (above 0 = lung) where the region needs it. UserError for images of
        another size or other bits, and for colour where the network's input is grey.
        """
        stored = batch['image']
        size, bits = stored.shape[-2], 8 * stored.dtype.itemsize
        if size != (self.size or size) or bits != (self.bits or bits):
            raise UserError(
                f'The encoder was built for images of {self.size} px and {self.bits} bits, and was '
                f'given images of {size} px and {bits} bits; prepare the data with '
                f'--size {self.size} --bits {self.bits}.'
            )
        if stored.shape[-1] not in (1, self.channels):
            raise UserError(
                'The encoder was built for grey images, and was given images in colour; train one '
                'with --config.encoder.channels=3.'
            )
        images = to_unit_range(stored)
        images = select_region(images, batch.get('lung_mask'), self.region, self.fill)
        return jnp.broadcast_to(images, (*images.shape[:-1], self.channels))


class Features(NamedTuple):
    """What an encoder makes of images; arrays are at least float32."""

    maps: dict  # stage of the network -> [B, h, w, C], in their order
    pooled: jax.Array  # [B, D]: mean of the last map over its positions
    batch_stats: dict  # new ones in training, else those that were given; may be empty

    @property
    def last(self):
        """Map of the last stage, [B, h, w, D]."""
        return list(self.maps.values())[-1]


@dataclasses.dataclass(frozen=True)
class EncoderSettings:
    """The user's choice of a network."""

    name: str = setting('resnet50', one_of=ENCODERS)  # of the network
    width: int = setting(64, at_least=1)  # channels of the stem; the papers' 64
    channels: int = setting(1, one_of=(1, 3))  # of the input; 3 = colour, repeats a grey image
    # Of the computation; auto = bfloat16 on accelerators, float32 on CPU.
    dtype: str = setting('auto', one_of=('auto', 'bfloat16', 'float32'))
    # Compute each block again for its gradient, to save memory.
    remat: bool = setting(False, result=False)
    # Safetensors file with torchvision's names to start from; empty = fresh weights.
    weights: str = setting('', neutral='')


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Callable network over images [B, S, S, channels] in [0, 1]; owns their normalisation."""

    settings: EncoderSettings
    network: nn.Module
    contract: Contract

    @property
    def feature_width(self) -> int:
        """Channels D of the last map and of the pooled features."""
        return self.network.feature_width

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the maps, from the first to the last."""
        return self.network.stages

    @property
    def smallest_image(self) -> int:
        """Pixels on a side of the smallest image that the network can see."""
        return self.network.smallest_image

    def init(self, key, size: int) -> tuple[dict, dict]:
        """Fresh (params, batch_stats) for images of `size` pixels."""
        images = jnp.zeros((2, size, size, self.contract.channels))
        variables = self.network.init(key, images, train=True)
        return variables['params'], variables.get('batch_stats', {})

    def __call__(self, params, batch_stats, images, train: bool = True, groups: int = 1):
        """-> Features. `groups`: virtual batch-norm groups in the global batch (1: one batch norm
        over all of it)."""
        x = (images - self.contract.mean) / self.contract.std
        variables = {'params': params, 'batch_stats': batch_stats}
        if train:
            maps, updated = self.network.apply(
                variables, x, train=True, groups=groups, mutable=['batch_stats']
            )
            batch_stats = updated.get('batch_stats', {})
        else:
            maps = self.network.apply(variables, x, train=False)
        maps = {k: m.astype(jnp.promote_types(m.dtype, jnp.float32)) for k, m in maps.items()}
        return Features(maps, maps[self.stages[-1]].mean((1, 2)), batch_stats)


def compute_dtype(name: str) -> str:
    """`auto` -> bfloat16 on accelerators, float32 on CPU; any other name as it is."""
    if name != 'auto':
        return name
    return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'


def build_network(settings: EncoderSettings) -> nn.Module:
    """The network alone, its batch norm shared over the mesh."""
    return ENCODERS[settings.name](
        width=settings.width,
        dtype=jnp.dtype(compute_dtype(settings.dtype)),
        axis_name=AXIS,
        remat=settings.remat,
    )


def build_encoder(settings: EncoderSettings, contract: Contract) -> Encoder:
    """The encoder of these settings for images of this contract."""
    if settings.channels != contract.channels:
        raise ValueError(f'{settings.channels} channels, in the contract {contract.channels}')
    return Encoder(settings, build_network(settings), contract)
