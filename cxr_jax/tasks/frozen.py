"""What the readouts of frozen features share: the encoder stays as it was handed over."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from cxr_jax.store.settings import derived, setting
from cxr_jax.tasks.base import Aux, Readout


@dataclasses.dataclass(frozen=True)
class FrozenReadout(Readout):
    """The encoder in evaluation mode: no parameter of it moves.

    Its features are standardised by their mean and standard deviation over the whole training
    images, the part `statistics`, which `between` finds before epoch 0 (batch norm without an
    affine map in front of a linear probe: He et al. 2022, appendix A.1).
    """

    # Batch statistics of the encoder: of the whole training images, or as they were handed over,
    # which are running ones of the last stage's views (of fresh weights: 0 and 1).
    batch_statistics: str = setting('images', one_of=('images', 'handed'))

    exclusive: bool | None = derived(None)

    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'statistics')
    linear_head: ClassVar[bool] = False  # it reads standardised features

    def resolve(self, facts):
        task, notes = super().resolve(facts)
        return dataclasses.replace(task, exclusive=facts.exclusive), notes

    @property
    def fresh_statistics(self):
        return self.batch_statistics == 'images'

    def frozen(self, facts):
        return {'encoder': None, 'statistics': None}

    def init(self, key, encoder, parts):
        width = encoder.feature_width
        statistics = {'mean': jnp.zeros(width), 'scale': jnp.full(width, width**-0.5)}
        return {'statistics': statistics}, {'statistics': {}}, {}

    def between(self, state, epoch, features_of, labels=None):
        if epoch:
            return state
        features = features_of()
        return state.replace(params=state.params | self.fitted(state.params, features, labels))

    def fitted(self, params: dict, features: np.ndarray, labels: np.ndarray) -> dict:
        """Its parts that follow from the features [N, D] and labels of the training images."""
        rows = features.astype(np.float64)
        mean, std = rows.mean(0), rows.std(0)
        # A feature that is the same in all images but for rounding tells nothing.
        std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)
        statistics = {'mean': mean, 'scale': 1 / (std * len(std) ** 0.5)}
        return {'statistics': like(params['statistics'], statistics)}

    def loss(self, encoder, params, state, views, key):
        weights, stats = stop_gradient(params['encoder']), state.batch_stats['encoder']
        features = encoder(weights, stats, views['image'], train=False)
        logits = self.logits(params, features)
        loss, metrics, extra = self.objective(logits, views['label'], state.extra)
        return loss, Aux(state.batch_stats, extra, metrics, {'image': features.pooled})


def standardised(params: dict, pooled):
    """Rows [b, D] in units of the training images' standard deviation times sqrt(D): of length 1
    on average (root mean square), so that one learning rate suits every width."""
    statistics = stop_gradient(params['statistics'])
    return (pooled - statistics['mean']) * statistics['scale']


def like(part: dict, arrays: dict) -> dict:
    """The arrays in NumPy, with the dtypes of those of a part."""
    return {name: np.asarray(values, part[name].dtype) for name, values in arrays.items()}
