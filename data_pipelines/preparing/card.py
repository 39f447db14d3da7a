"""The data card: what a prepared set holds and what should make its reader wary."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.auditing.findings import sentences
from data_pipelines.prepared.data import SPLITS
from data_pipelines.prepared.index import NO, UNCERTAIN, YES
from data_pipelines.prepared.statistics import statistics
from data_pipelines.preparing.entry import Entry

# Cramer's V from which an attribute is called confounded with the label.
CONFOUNDED = 0.3
# Of an image without any of the names: some are uncertain, none is there, nothing is said.
OTHER_LABELS = ('uncertain', 'no_finding', 'unlabelled')
ATTRIBUTES = ('source', 'view', 'sex')


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
        'groups_across_labels': sum(len({e.labels for e in group}) > 1 for group in copies),
    }


def describe(entries: Sequence[Entry], names: Sequence[str], exclusive: bool, bits: int) -> dict:
    """Everything the card says that follows from the records themselves."""
    present = {entry.split for entry in entries}
    by_split = {name: [e for e in entries if e.split == name] for name in SPLITS if name in present}
    composition = Counter(
        (label, e.split, e.sex, e.view, e.source) for e in entries for label in shown_by(e, names)
    )
    columns = ('label', 'split', 'sex', 'view', 'source', 'images')
    with_mask = sum(bool(entry.meta['mask_hash']) for entry in entries)
    return {
        'counts': {name: len(part) for name, part in by_split.items()},
        'name_counts': {
            name: [sum(e.labels[k] == YES for e in part) for k in range(len(names))]
            for name, part in by_split.items()
        },
        'unlabelled': sum(not {YES, NO, UNCERTAIN} & set(e.labels) for e in entries),
        'patients': {name: len({e.group for e in part}) for name, part in by_split.items()},
        # An image of a multi-label set counts for each of its findings.
        'composition': [
            dict(zip(columns, (*key, n), strict=True)) for key, n in sorted(composition.items())
        ],
        'images_without_patient_id': sum(not entry.patient for entry in entries),
        'images_with_lung_mask': with_mask,
        'images_with_boxes': sum(bool(entry.item.boxes) for entry in entries),
        'has_patient_ids': all(entry.patient for entry in entries),
        'has_lung_masks': with_mask == len(entries),
        'statistics': _statistics(by_split['train'], bits) if 'train' in present else {},
        'association': {name: _association(entries, names, exclusive, name) for name in ATTRIBUTES},
        'duplicates': duplicates(entries),
        'raw_files': _raw_files(entries),
    }


def _statistics(entries: Sequence[Entry], bits: int) -> dict[str, dict[str, float]]:
    sums, lung_sums = ([entry.meta[name] for entry in entries] for name in ('sums', 'lung_sums'))
    return statistics(np.array(sums), np.array(lung_sums) if all(lung_sums) else None, bits)


def _association(
    entries: Sequence[Entry], names: Sequence[str], exclusive: bool, attribute: str
) -> dict[str, float]:
    """Cramer's V of the attribute and the class, or each finding, where both are known."""
    known = [entry for entry in entries if getattr(entry, attribute)]
    if exclusive:
        labels = {'class': [e.labels.index(YES) if YES in e.labels else None for e in known]}
    else:
        labels = {
            name: [e.labels[k] if e.labels[k] in (YES, NO) else None for e in known]
            for k, name in enumerate(names)
        }
    result = {}
    for what, said in labels.items():
        pairs = [
            (label, getattr(entry, attribute))
            for label, entry in zip(said, known, strict=True)
            if label is not None
        ]
        result[what] = cramers_v(*zip(*pairs, strict=True)) if pairs else 0.0
    return result


def shown_by(entry: Entry, names: Sequence[str]) -> list[str]:
    """What the labels say of an image: its class or findings, or one of OTHER_LABELS."""
    found = [name for name, said in zip(names, entry.labels, strict=True) if said == YES]
    if found:
        return found
    uncertain, no_finding, unlabelled = OTHER_LABELS
    return [
        uncertain if UNCERTAIN in entry.labels else no_finding if NO in entry.labels else unlabelled
    ]


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
    per_split = zip(*card['name_counts'].values(), strict=True)
    empty = [n for n, counts in zip(card['names'], per_split, strict=True) if not any(counts)]
    if empty:
        result.append(
            f'No usable image is labelled {", ".join(empty)}: that cannot be learnt from this set. '
            'Add images (see quarantine.csv for those set aside), or correct the labels.'
        )
    for name, values in card['association'].items():
        strong = [f'{what} {v:.2f}' for what, v in values.items() if v >= CONFOUNDED]
        if strong:
            result.append(
                f"The label depends on the {name} (Cramer's V of {name} and {', '.join(strong)}): "
                f'a model can score well by recognising the {name} instead of disease.'
            )
    copies = card['duplicates']
    if copies['groups_across_splits']:
        result.append(
            f'{copies["groups_across_splits"]} groups of pixel-identical images are spread over '
            'several splits: test images were seen in training.'
        )
    if copies['groups_across_labels']:
        result.append(
            f'{copies["groups_across_labels"]} groups of pixel-identical images carry '
            'different labels.'
        )
    return result


def markdown(card: dict) -> str:
    """The card as a page."""
    rows = card['composition']
    labels = [c for c in (*card['names'], *OTHER_LABELS) if _images(rows, label=c)]
    reader = '' if card['name'] == card['dataset'] else f' ({card["dataset"]})'
    colour = ', in colour' if card.get('channels') == 3 else ''
    lines = [f'# {card["name"]}{reader}, {card["size"]} px, {card["bits"]} bits{colour}', '']
    lines += [f'> **Warning.** {sentence}\n' for sentence in card['warnings']]
    lines += ['## Images and patients', '']
    if not card['exclusive']:
        lines += ['An image counts for each of its findings.', '']
    unit = 'patients' if card['has_patient_ids'] else 'patients or studies'
    lines += _table(
        ['split', *labels, 'images', unit],
        [
            [split, *(_images(rows, split=split, label=c) for c in labels), n,
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
        lines += [f'## Label by {name}', '']
        lines += _table(
            ['label', *(value or 'unknown' for value in values)],
            [[c, *(_images(rows, label=c, **{name: v}) for v in values)] for c in labels],
        )
        values = ', '.join(f'{what} {v:.2f}' for what, v in card['association'][name].items())
        if values:
            lines += [f"Cramer's V of {name} and label, where both are known: {values}", '']
    lines += ['## Pixels of the train split, on [0, 1]', '']
    lines += _table(
        ['region', 'mean', 'std'],
        [[k, f'{v["mean"]:.6f}', f'{v["std"]:.6f}'] for k, v in card['statistics'].items()],
    )
    lines += _of_audit(card)
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
    lines.append(f'- Licence: {card.get("licence", "not on record")}')
    lines += ['', f'Fingerprint: `{card["fingerprint"]}`', '', '![examples](contact_sheet.png)']
    return '\n'.join(lines) + '\n'


def write_page(path: Path, card: dict) -> None:
    """The card as a page; a name of a file in its notes may be no valid UTF-8."""
    path.write_text(markdown(card), encoding='utf-8', errors='backslashreplace')


def _of_audit(card: dict) -> list[str]:
    if 'audit' not in card:
        return []
    told = sentences(card['audit'], sum(card['counts'].values()))
    copies = ' Near copies are looked for by `python -m data_pipelines.audit`.'
    return [
        '## Audit',
        '',
        *(f'- {line}' for line in told or ['Nothing was found.']),
        '',
        'These are heuristics: look before you leave an image out.'
        + ('' if 'pairs' in card['audit'] else copies),
        '',
    ]


def _images(rows: list[dict], **wanted: str) -> int:
    return sum(row['images'] for row in rows if all(row[k] == value for k, value in wanted.items()))


def _table(header: list, rows: list[list]) -> list[str]:
    lines = [header, ['---'] * len(header), *rows]
    return [*('| ' + ' | '.join(map(str, line)) + ' |' for line in lines), '']
