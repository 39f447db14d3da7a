"""The report of one run: results.json, results.md, pictures, and a table for the console.

`results` is a dict with exactly these keys (numbers may be None or NaN where unknown):

    name, banner ('' or a caution for the top of the page), preset, region, command,
    backbone (one line), params_sha256: str;  seed: int
    curriculum: list of task names, e.g. ['moco', 'swav', 'rot', 'classify']
    data: {name, fingerprint: str, size: int (px), classes: list of str, has_patient_ids: bool,
           counts: {split: images}, class_counts: {split: [images of each class]}}
    stages: list of {task, key, parent_key ('' for the first): str, epochs, steps, batch_size,
           learning_rate, wall_seconds, images_per_second: numbers,
           metrics: {'loss', 'chance_loss', 'accuracy', ...}: final values, all optional,
           resumed: int (times), reused: bool (found finished, not trained again),
           notes: list of str (the values that 'auto' resolved to, what the search chose)}
    test: what cxr_jax.evaluation.metrics.classification_figures returns, or None
    attention: what cxr_jax.evaluation.metrics.attention_figures returns, or None
    boxes: the same of cxr_jax.evaluation.metrics.BOXES, or None
    versions: {package: version};  device: {'kind': str, 'count': int}

results.json is this dict, with null for what is not finite.
"""

from cxr_jax.report.console import format_table
from cxr_jax.report.figures.gallery import choose_examples
from cxr_jax.report.writer import write_report

__all__ = ['choose_examples', 'format_table', 'write_report']
