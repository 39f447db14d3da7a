"""Exclusive classes' headline measure and its bootstrap, image by image."""

import math

import numpy as np

from cxr_jax.evaluation.bootstrap import Draws, bootstrap


def balanced(one, images):
    """Mean of the class accuracies of the images numbered `images`."""
    labels, predictions = one['labels'][images], one['scores'][images].argmax(1)
    classes = range(one['scores'].shape[1])
    shares = [[p == c for t, p in zip(labels, predictions, strict=True) if t == c] for c in classes]
    return np.mean([np.mean(share) if share else math.nan for share in shares])


def loop_samples(first, second, resamples, seed):
    """Differences of every resample, with the drawn patients' images copied out."""
    one = first[0]
    names, codes = np.unique(one['patients'], return_inverse=True)
    draws = bootstrap(lambda c: {'counts': c}, len(names), len(codes), Draws(resamples, seed))
    found = []
    for counts in draws['counts']:
        images = np.repeat(np.arange(len(codes)), counts[codes].astype(int))
        means = [np.mean([balanced(t, images) for t in tables]) for tables in (first, second)]
        found.append(means[0] - means[1])
    return np.array(found)
