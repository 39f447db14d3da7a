"""The data card: what a prepared set holds and what should make its reader wary."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from data_pipelines.prepared.records import Entry
from data_pipelines.preparing.splits import SPLITS

# Cramer's V from which an attribute is called confounded with the class.
CONFOUNDED = 0.3
ATTRIBUTES = ('source', 'view', 'sex')


def statistics(sums: Sequence[dict[str, int]], bits: int) -> dict[str, dict[str, float]]:
    """Mean and std (of the population) of the pixels on [0, 1], per region.

    From each image's `sums` (ingest.pixel_sums), exact integers, so the order of the images does
    not matter. Regions that need lungs appear only if every image has a mask. lungs_gray fills
    with the mean of the full images.
    """
    top = 2**bits - 1
    total = Counter()
    for image in sums:
        total.update(image)
    n = total['all_n']
    full = _mean_std(total['all_sum'] / top, total['all_squares'] / top**2, n)
    if not all('lung_n' in image for image in sums):
        return {'full': full}
    lung_sum, lung_squares = total['lung_sum'] / top, total['lung_squares'] / top**2
    outside, fill = n - total['lung_n'], full['mean']
    return {
        'full': full,
        'lungs_black': _mean_std(lung_sum, lung_squares, n),
        'lungs_gray': _mean_std(lung_sum + outside * fill, lung_squares + outside * fill**2, n),
        'background': _mean_std(
            (total['all_sum'] - total['lung_sum']) / top,
            (total['all_squares'] - total['lung_squares']) / top**2,
            n,
        ),
    }


def _mean_std(total: float, squares: float, n: int) -> dict[str, float]:
    mean = total / n
    return {'mean': mean, 'std': math.sqrt(max(squares / n - mean**2, 0.0))}


def cramers_v(first: Sequence, second: Sequence) -> float:
    """Association of two nominal variables in [0, 1]: Cramer's V with Bergsma's correction (2013,
    doi 10.1016/j.jkss.2012.10.002), without which small sets look confounded by chance."""
    rows, row_of = np.unique(np.asarray(first), return_inverse=True)
    columns, column_of = np.unique(np.asarray(second), return_inverse=True)
    n, r, c = len(row_of), len(rows), len(columns)
    if n < 2 or min(r, c) < 2:
        return 0.0
    table = np.zeros((r, c))
    np.add.at(table, (row_of, column_of), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / n
    phi2 = ((table - expected) ** 2 / expected).sum() / n
    phi2 = max(0.0, phi2 - (r - 1) * (c - 1) / (n - 1))
    r, c = (k - (k - 1) ** 2 / (n - 1) for k in (r, c))
    return float(math.sqrt(phi2 / (min(r, c) - 1))) if min(r, c) > 1 else 0.0


def duplicates(entries: Sequence[Entry]) -> dict[str, int]:
    """Images whose prepared pixels are identical: extra copies, and sets torn apart."""
    groups = {}
    for entry in entries:
        groups.setdefault(entry.meta['image_hash'], []).append(entry)
    copies = [group for group in groups.values() if len(group) > 1]
    return {
        'extra_copies': sum(len(group) - 1 for group in copies),
        'groups': len(copies),
        'groups_across_splits': sum(len({e.split for e in group}) > 1 for group in copies),
        'groups_across_classes': sum(len({e.item.label for e in group}) > 1 for group in copies),
    }


def describe(entries: Sequence[Entry], classes: tuple[str, ...], bits: int) -> dict:
    """Everything the card says that follows from the records themselves."""
    labelled = [entry for entry in entries if entry.item.label >= 0]
    by_split = {name: [e for e in entries if e.split == name] for name in SPLITS}
    association = {}
    for name in ATTRIBUTES:
        known = [entry for entry in labelled if getattr(entry, name)]
        association[name] = cramers_v(
            [entry.item.label for entry in known], [getattr(entry, name) for entry in known]
        )
    composition = Counter(
        (class_name(e, classes), e.split, e.sex, e.view, e.source) for e in entries
    )
    names = ('class', 'split', 'sex', 'view', 'source', 'images')
    return {
        'counts': {name: len(part) for name, part in by_split.items()},
        'class_counts': {
            name: [sum(e.item.label == k for e in part) for k in range(len(classes))]
            for name, part in by_split.items()
        },
        'patients': {name: len({e.group for e in part}) for name, part in by_split.items()},
        'composition': [
            dict(zip(names, (*key, n), strict=True)) for key, n in sorted(composition.items())
        ],
        'images_without_patient_id': sum(not entry.patient for entry in entries),
        'images_with_lung_mask': sum('lung_n' in entry.meta['sums'] for entry in entries),
        'images_with_boxes': sum(bool(entry.item.boxes) for entry in entries),
        'has_patient_ids': all(entry.patient for entry in entries),
        'has_lung_masks': all('lung_n' in entry.meta['sums'] for entry in entries),
        'statistics': statistics([e.meta['sums'] for e in by_split['train']], bits),
        'association_with_class': association,
        'duplicates': duplicates(entries),
        'raw_files': _raw_files(entries),
    }


def _raw_files(entries: Sequence[Entry]) -> dict:
    heights, widths = zip(*(entry.meta['original_size'] for entry in entries), strict=True)
    return {
        'height': [min(heights), int(np.median(heights)), max(heights)],
        'width': [min(widths), int(np.median(widths)), max(widths)],
        'distinct_sizes': len(set(zip(heights, widths, strict=True))),
        **{
            name: dict(Counter(str(entry.meta[name] or 'unknown') for entry in entries))
            for name in ('bits', 'transfer_syntax', 'photometric')
        },
        'warnings': dict(Counter(note for entry in entries for note in entry.meta['warnings'])),
    }


def class_name(entry: Entry, classes: tuple[str, ...]) -> str:
    return classes[entry.item.label] if entry.item.label >= 0 else 'unlabelled'


def warnings(card: dict) -> list[str]:
    """Sentences a reader must see before using the data."""
    result = []
    without = card['images_without_patient_id']
    if without:
        result.append(
            f'No patient id is known for {without} of {sum(card["counts"].values())} images. '
            'They are split by study or by image, so one person may be in training and in test; '
            'results may be too good.'
        )
    per_split = zip(*card['class_counts'].values(), strict=True)
    empty = [n for n, counts in zip(card['classes'], per_split, strict=True) if not any(counts)]
    if empty:
        result.append(
            f'No usable image has the class {", ".join(empty)}: a classifier cannot be trained on '
            'this set. Add images (see quarantine.csv for those set aside), or correct the labels.'
        )
    for name, value in card['association_with_class'].items():
        if value >= CONFOUNDED:
            result.append(
                f"The class depends on the {name} (Cramer's V = {value:.2f}): a model can "
                f'score well by recognising the {name} instead of disease.'
            )
    copies = card['duplicates']
    if copies['groups_across_splits']:
        result.append(
            f'{copies["groups_across_splits"]} groups of pixel-identical images are spread over '
            'several splits: test images were seen in training.'
        )
    if copies['groups_across_classes']:
        result.append(
            f'{copies["groups_across_classes"]} groups of pixel-identical images carry '
            'different labels.'
        )
    return result


def markdown(card: dict) -> str:
    """The card as a page."""
    rows = card['composition']
    labels = [c for c in (*card['classes'], 'unlabelled') if _images(rows, **{'class': c})]
    lines = [f'# {card["dataset"]}, {card["size"]} px, {card["bits"]} bits', '']
    lines += [f'> **Warning.** {sentence}\n' for sentence in card['warnings']]
    lines += ['## Images and patients', '']
    unit = 'patients' if card['has_patient_ids'] else 'patients or studies'
    lines += _table(
        ['split', *labels, 'images', unit],
        [
            [split, *(_images(rows, split=split, **{'class': c}) for c in labels), n,
             card['patients'][split]]
            for split, n in card['counts'].items()
        ],
    )  # fmt: skip
    lines += [
        f'Splits: {card["split_origin"]}. With lung mask: {card["images_with_lung_mask"]}, with '
        f'lesion boxes: {card["images_with_boxes"]}, set aside: {card["quarantined"]} '
        f'(quarantine.csv), extra copies: {card["duplicates"]["extra_copies"]}.',
        '',
    ]
    for name in ATTRIBUTES:
        values = sorted({row[name] for row in rows})
        lines += [f'## Class by {name}', '']
        lines += _table(
            ['class', *(value or 'unknown' for value in values)],
            [[c, *(_images(rows, **{'class': c, name: v}) for v in values)] for c in labels],
        )
        value = card['association_with_class'][name]
        lines += [f"Cramer's V of class and {name}, where both are known: {value:.2f}", '']
    lines += ['## Pixels of the train split, on [0, 1]', '']
    lines += _table(
        ['region', 'mean', 'std'],
        [[k, f'{v["mean"]:.6f}', f'{v["std"]:.6f}'] for k, v in card['statistics'].items()],
    )
    lines += ['## Raw files', '']
    raw = card['raw_files']
    lines += _table(
        ['pixels', 'least', 'median', 'most'],
        [['height', *raw['height']], ['width', *raw['width']]],
    )
    for name in ('bits', 'transfer_syntax', 'photometric'):
        counts = ', '.join(f'{key}: {n}' for key, n in sorted(raw[name].items()))
        lines.append(f'- {name.replace("_", " ")}: {counts}')
    lines += [f'- {note} ({n} images)' for note, n in sorted(raw['warnings'].items())]
    lines += [f'- {note}' for note in card['notes']]
    lines += ['', f'Fingerprint: `{card["fingerprint"]}`', '', '![examples](contact_sheet.png)']
    return '\n'.join(lines) + '\n'


def _images(rows: list[dict], **wanted: str) -> int:
    return sum(row['images'] for row in rows if all(row[k] == value for k, value in wanted.items()))


def _table(header: list, rows: list[list]) -> list[str]:
    lines = [header, ['---'] * len(header), *rows]
    return [*('| ' + ' | '.join(map(str, line)) + ' |' for line in lines), '']
