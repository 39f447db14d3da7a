"""k nearest neighbours (Wu et al. 2018, section 3.4): what the most similar training images are."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.lax import Precision

from cxr_jax.models.heads import unit_rows
from cxr_jax.store.settings import derived, setting
from cxr_jax.tasks.findings import mean_of_known
from cxr_jax.tasks.frozen import FrozenReadout, like, standardised

LEAST = 1e-6  # share of the votes that a logarithm is taken of


def votes(queries, bank, labels, neighbours: int, temperature: float):
    """Share of its neighbours' votes for each name: [b, K] of unit rows [b, D] and a bank [N, D].

    labels [N, K]: 1, 0, or -1 where it is not known. For each name the nearest images of which it
    is known vote with exp(cosine / temperature); of equally near ones the first.
    """
    cosine = jnp.matmul(queries, bank.T, precision=Precision.HIGHEST)

    def of_one(label):
        near, rows = lax.top_k(jnp.where(label >= 0, cosine, -jnp.inf), neighbours)
        weights = jax.nn.softmax(near / temperature)
        return (weights * (label[rows] == 1)).sum(-1)

    return lax.map(of_one, labels.T).T


@dataclasses.dataclass(frozen=True)
class NearestNeighbours(FrozenReadout):
    """The training images' features and labels are all that it has: nothing is trained.

    Neighbours are found by the cosine of standardised features; 20 of them, which DINO finds to be
    best for most encoders (Caron et al. 2021, section 3.2).
    """

    neighbours: int = setting(20, at_least=1)  # k; at most all training images
    temperature: float = setting(0.07, above=0)  # of their votes

    images: int = derived(0)  # of the bank

    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'statistics', 'bank')
    trains: ClassVar[bool] = False
    no_maps: ClassVar[str] = (
        'A vote of neighbours is no sum over the places of an image, so there are no class '
        'activation maps.'
    )

    def inactive(self) -> set[str]:
        """Fields that do nothing: the images of the bank are whole."""
        return {'augment'}

    def resolve(self, facts):
        task, notes = super().resolve(facts)
        task = dataclasses.replace(task, images=facts.images)
        if facts.images < self.neighbours:
            notes['neighbours'] = f'all {facts.images} training images'
            task = dataclasses.replace(task, neighbours=facts.images)
        return task, notes

    def frozen(self, facts):
        return super().frozen(facts) | {'bank': None}

    def init(self, key, encoder, parts):
        params, batch_stats, extra = super().init(key, encoder, parts)
        bank = {
            'features': jnp.zeros((self.images, encoder.feature_width)),
            'labels': jnp.zeros((self.images, self.outputs)),
        }
        return params | {'bank': bank}, batch_stats | {'bank': {}}, extra

    def fitted(self, params, features, labels):
        found = super().fitted(params, features, labels)
        if self.exclusive:
            labels = labels[:, None] == np.arange(self.outputs)
        bank = {'features': unit_rows(standardised(found, features)), 'labels': labels}
        return found | {'bank': like(params['bank'], bank)}

    def logits(self, params, features):
        """Shares of the votes, which are the scores."""
        queries = unit_rows(standardised(params, features.pooled))
        bank = lax.stop_gradient(params['bank'])
        return votes(queries, bank['features'], bank['labels'], self.neighbours, self.temperature)

    def evidence(self, params):
        return None

    def objective(self, logits, labels, extra):
        """Minus the logarithm of the votes for what is true: there to be looked at."""
        if self.exclusive:
            own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
            accuracy = (logits.argmax(-1) == labels).mean()
            return -jnp.log(jnp.maximum(own, LEAST)).mean(), {'accuracy': accuracy}, extra
        known, present = labels >= 0, labels > 0
        own = jnp.where(present, logits, 1 - logits)
        metrics = {'accuracy': mean_of_known((own > 0.5).astype(logits.dtype), known)}
        return mean_of_known(-jnp.log(jnp.maximum(own, LEAST)), known), metrics, extra

    def scores(self, logits):
        return logits
