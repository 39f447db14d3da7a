"""The report of one run: results.json, results.md, pictures, and tables for the console.

`results` is a dict with these keys (numbers may be None or NaN where unknown):

    name, banner ('' or a caution for the top of the page), preset, region, command: str
    encoder: str (one line);  seed: int
    curriculum: list of stage ids, e.g. ['moco', 'moco2', 'classify']
    folds: int, 0 for one split, else every image was tested by the network of its fold
    data: {name, fingerprint: str, size: int (px), names: list of str (classes or findings),
           exclusive: bool (one of the names is true of an image), has_patient_ids: bool,
           counts: {split: images}, name_counts: {split: [images of each name]}}
    stages: list of {stage (its id): str, fold: int from 0 or None (of all folds),
           key, parent_key ('' for the first): str, epochs, steps, batch_size, learning_rate,
           wall_seconds, images_per_second: numbers,
           metrics: {'loss', 'chance_loss', 'accuracy', ...}: final values, all optional; of a
               stage that is distilled into, 'loss' is made of 'task_loss' and 'distil_loss',
           resumed: int (times), reused: bool (found finished, not trained again),
           search: its search.json or None,
           notes: list of str (the values that 'auto' resolved to, what the search chose),
           alarms: list of {'alarm' of cxr_jax.evaluation.alarms, 'from', 'to': steps, 'to' None
               where it was on at the end}, optional,
           data: {'sets': [{'name', 'images'}], 'images', 'patients', 'balance': str,
               'left_out': {'images', 'same_patient', 'same_content'} or None}}
    test: what cxr_jax.evaluation.measures.evaluate returns, or None without a readout
    no_maps: str, why there are no activation maps ('' if there are, or without a readout)
    attention, boxes: attention inside the lungs and inside the lesion boxes, or None: {'images',
           'ail', 'lung_area', 'excess': figures, 'without_mask', 'without_activation': images,
           'per_name': [{'name', 'images', 'ail', 'lung_area', 'excess'}]}; of the boxes
           'box_attention', 'box_area', 'without_boxes'
    retention: what later stages forget of earlier ones, or None: {'fold': int from 0 or None,
           'images': validation images, 'confidence', 'draws': of views,
           'stages': names in order,
           'rows': of each stage that another follows {'stage', 'measure': str, 'unit', 'chance',
               'higher_is_better', 'images', 'over': 'patients' or 'draws' (the intervals),
               'cells': after it and after each later stage {'figure', 'change' (since after it)}},
           'probe': a probe fitted to each encoder, or None: {'title', 'meaning', 'unit', 'chance',
               'higher_is_better', 'images', 'fitted': training images, 'figures': before the first
               stage and after each one}}
    bundles: list of str, the folders of what the run leaves: of its last stage, in each fold
    params_sha256: list of str, of the same
    bytes: what the folders of the finished stages take on disk
    versions: {package: version};  device: {'kind': str, 'count': int}

results.json is this dict, with null for what is not finite.
"""

from cxr_jax.report.figures.gallery import choose_examples
from cxr_jax.report.page import format_table
from cxr_jax.report.writer import write_report

__all__ = ['choose_examples', 'format_table', 'write_report']
