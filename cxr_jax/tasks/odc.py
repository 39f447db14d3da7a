"""Online deep clustering (Zhan et al. 2020): predict an image's cluster while clusters move."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.models.dropout import kept_units
from cxr_jax.models.heads import ClusterNeck, LinearHead, unit_rows
from cxr_jax.runtime import parallel
from cxr_jax.store.settings import Auto, derived, setting
from cxr_jax.tasks import clusters
from cxr_jax.tasks.base import Aux, Task
from cxr_jax.views.augment import Augmentation
from data_pipelines.errors import UserError

KMEANS_ITERATIONS = 20


def weighted_cross_entropy(logits, labels, weights, mean=lambda x: x):
    """Weighted mean of the cross-entropy: logits [b, K], labels [b], weights [K] of the classes.

    `mean` over the devices of a scalar, where the b rows are one device's: its result is then its
    share of the loss of the whole batch, the mean of all shares.
    """
    own = weights[labels]
    picked = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return (own * (jax.nn.logsumexp(logits, axis=-1) - picked)).mean() / mean(own.mean())


def cluster_weights(counts, dtype=jnp.float32):
    """Weight [K] of clusters of so many images [K]: small ones are not drowned. Their scale cancels
    in the loss."""
    return (counts.astype(dtype) + 1e-10) ** -0.5


@dataclasses.dataclass(frozen=True)
class ODC(Task):
    """A memory of every image's feature and label, moved by each batch, is clustered online."""

    # auto = a fiftieth of the images, 10,000 at most.
    clusters: Auto = setting('auto', at_least=2)
    # Images below which a cluster is dissolved: auto = a quarter of its share, 20 at most.
    min_cluster: Auto = setting('auto', at_least=1)
    momentum: float = setting(0.5, above=0, at_most=1)  # weight of the new feature in the memory
    centroid_steps: int = setting(10, at_least=1)  # between two updates of all centroids
    hidden: int = setting(512, at_least=1)  # width of the neck's hidden layer
    features: int = setting(256, at_least=1)  # width of what is clustered
    dropout: float = setting(0.5, at_least=0, below=1)  # in the neck
    augment: Augmentation = Augmentation(rotation=2.0, jitter=1.0)

    images: int = derived(0)

    needs: ClassVar[tuple[str, ...]] = ('row',)
    leaves: ClassVar[tuple[str, ...]] = ('encoder', 'neck', 'head')
    by_image: ClassVar[tuple[str, ...]] = ('memory', 'labels')
    # The head's weights follow labels that move: no momentum (MMSelfSup's config).
    rules: ClassVar[dict[str, dict]] = {'head': {'momentum': False}}
    # Images of the validation split have no label in the memory, so not the loss.
    judged_by: ClassVar[str] = 'agreement'
    # MMSelfSup 0.5.0: odc_resnet50_8xb64-steplr-440e_in1k. It draws images with replacement; here
    # each comes once in an epoch.
    recipe: ClassVar[dict] = {
        'batch_size': 512,
        'epochs': 440,
        'optimizer.lr': 0.06,
        'optimizer.weight_decay': 1e-5,
        'optimizer.head_weight_decay': 1e-5,
        'optimizer.schedule': 'step',
        'optimizer.milestones': (400 / 440,),
        'optimizer.step_factor': 0.4,
    }
    # Labels that change with every draw of the dropout cannot be learnt in a few hundred steps.
    small: ClassVar[dict] = {
        'epochs': 30,
        'optimizer.lr': 0.1,
        'optimizer.schedule': 'cosine',
        'optimizer.warmup_epochs': 1.0,
        'task.hidden': 128,
        'task.features': 64,
        'task.dropout': 0.0,
        'task.augment.crop_scale': (0.5, 1.0),
    }

    def resolve(self, facts):
        images, number, least, notes = facts.images, self.clusters, self.min_cluster, {}
        if number == 'auto':
            number = min(max(images // 50, 2), 10000)
            notes['clusters'] = f'a fiftieth of {images} images, 2 to 10000'
        if least == 'auto':
            least = min(max(images // number // 4, 1), 20)
            notes['min_cluster'] = f'a quarter of {images} images by {number} clusters, 1 to 20'
        if number * least > images:
            raise UserError(
                f'clusters={number} of at least min_cluster={least} images cannot be made of '
                f'{images} images; lower one of them (clusters to {images // least} at most), or '
                'set both to auto.'
            )
        changes = {'clusters': number, 'min_cluster': least, 'images': images}
        return dataclasses.replace(self, **changes), notes

    @property
    def neck(self) -> ClusterNeck:
        return ClusterNeck(self.hidden, self.features, axis_name=parallel.AXIS)

    @property
    def head(self) -> LinearHead:
        return LinearHead(self.clusters)

    def views(self, key, example):
        image = self.augment(key, example['image'], self.image_size)
        return {'image': image, 'row': example['row']}

    def init(self, key, encoder, parts):
        neck_key, head_key, memory_key = jax.random.split(key, 3)
        neck = self.neck.init(neck_key, jnp.zeros((2, encoder.feature_width)), 1.0)
        head = self.head.init(head_key, jnp.zeros((1, self.features)))
        # Clusters without a meaning, until those of `between`.
        numbers = jnp.arange(parallel.padded(self.images), dtype=jnp.int32)
        labels = jnp.where(numbers < self.images, numbers % self.clusters, -1)
        centroids = unit_rows(jax.random.normal(memory_key, (self.clusters, self.features)))
        memory = jnp.where(labels[:, None] >= 0, centroids[labels], 0)
        params = {'neck': neck['params'], 'head': head['params']}
        batch_stats = {'neck': neck['batch_stats'], 'head': {}}
        return params, batch_stats, {'memory': memory, 'labels': labels, 'centroids': centroids}

    def between(self, state, epoch, features_of):
        """Before the first step: k-means of every image's feature behind the neck."""
        if epoch:
            return state
        neck, pooled = state.parts['neck'], features_of()
        rows = unit_rows(self.neck.apply(dict(neck), pooled, 1.0, train=False))
        rows = np.asarray(rows, state.extra['memory'].dtype)
        seed = np.asarray(state.key).tolist()
        found = clusters.k_means(rows, self.clusters, KMEANS_ITERATIONS, seed)
        memory, labels = (np.array(state.extra[name]) for name in self.by_image)
        memory[: self.images], labels[: self.images] = rows, found
        # Means of unit rows, not made units themselves (MMSelfSup: odc_memory.py).
        extra = {'memory': memory, 'labels': labels, 'centroids': clusters.host_means(rows, found)}
        return state.replace(extra=extra)

    def loss(self, encoder, params, state, views, key):
        extra, rows = state.extra, views['row']
        features = encoder(params['encoder'], state.batch_stats['encoder'], views['image'])
        variables = {'params': params['neck'], 'batch_stats': state.batch_stats['neck']}
        kept = kept_units(key, rows.shape[0], self.hidden, self.dropout)
        embeddings, updated = self.neck.apply(
            variables, features.pooled, kept, mutable=['batch_stats']
        )
        logits = self.head.apply({'params': params['head']}, embeddings)
        # The labels and counts of before this step (MMSelfSup: odc.py, forward_train).
        labels = jnp.maximum(parallel.take(extra['labels'], rows), 0)
        weights = cluster_weights(clusters.counts(extra['labels'], self.clusters), logits.dtype)
        loss = weighted_cross_entropy(logits, labels, weights, parallel.mean)
        units = unit_rows(jax.lax.stop_gradient(embeddings))
        extra, now = self._remember(extra, rows, units)
        predicted = logits.argmax(-1)
        nearest = clusters.most_similar(units, extra['centroids'])
        metrics = {
            'accuracy': (predicted == labels).mean(),
            'agreement': (predicted == nearest).mean(),
            'changed': (now != labels).mean(),
        }
        batch_stats = {
            'encoder': features.batch_stats, 'neck': updated['batch_stats'], 'head': {},
        }  # fmt: skip
        # The memory's clusters: at first the head, N(0, 0.01), tells no two images apart.
        shares = {'clusters': jax.nn.one_hot(now, self.clusters, dtype=logits.dtype)}
        return loss, Aux(batch_stats, extra, metrics, {'image': embeddings}, shares)

    def _remember(self, extra, rows, units):
        """(extra with the batch's features in the memory, their labels by the memory, int [b])."""
        old = parallel.take(extra['memory'], rows)
        new = unit_rows((1 - self.momentum) * old + self.momentum * units)
        labels = clusters.most_similar(new, extra['centroids'])
        extra = extra | {
            'memory': parallel.put(extra['memory'], rows, new),
            'labels': parallel.put(extra['labels'], rows, labels),
        }
        return extra, labels

    def after_update(self, params, extra, step):
        """Centroids every so many steps, small clusters in each (MMSelfSup: odc_hook.py)."""
        memory, labels, centroids = (extra[name] for name in ('memory', 'labels', 'centroids'))
        centroids = jax.lax.cond(
            (step + 1) % self.centroid_steps == 0,
            lambda: clusters.means(memory, labels, centroids),
            lambda: centroids,
        )
        labels, centroids = clusters.refill_small(memory, labels, centroids, self.min_cluster)
        return params, {'memory': memory, 'labels': labels, 'centroids': centroids}

    def chance_loss(self):
        return math.log(self.clusters)
