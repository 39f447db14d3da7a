"""Which split each image of a set belongs to."""

from collections.abc import Sequence

from data_pipelines.errors import UserError
from data_pipelines.prepared.data import SPLITS
from data_pipelines.prepared.index import YES
from data_pipelines.preparing.entry import Entry
from data_pipelines.preparing.identity import digest
from data_pipelines.preparing.items import GIVEN, NONE, Preparation
from data_pipelines.preparing.splits import assign_splits, read_splits

TRAIN_AND_VALIDATION = (7 / 8, 1 / 8)  # 70 and 10 of 80


def give_splits(
    what: Preparation, entries: Sequence[Entry], quarantine: list[tuple[str, str]]
) -> str:
    """Give every entry its split; returns where the splits come from. Raises UserError."""
    reasons = '; '.join(f'{path}: {reason}' for path, reason in quarantine[:3])
    seen = f' {len(quarantine)} files were set aside ({reasons}).' if quarantine else ''
    if not entries:
        raise UserError(f'No image of {what.source} can be used.{seen}')
    if what.splits == NONE:
        for entry in entries:
            entry.split = 'train'
        return 'none: every image is for training'
    table = what.source / 'splits.csv'
    if what.splits == GIVEN and table.is_file():
        given = {digest('patient', raw): split for raw, split in read_splits(table).items()}
        unknown = sum(entry.patient not in given for entry in entries)
        if unknown:
            raise UserError(
                f'{table} does not name the patients of {unknown} of {len(entries)} images. '
                'Complete it, or delete it to have the splits drawn.'
            )
        origin = "given by the source's splits.csv"
    elif what.splits == GIVEN and any(entry.item.split for entry in entries):
        given, origin = _official(entries, what.seed)
    else:
        given = assign_splits(*_strata(entries), what.seed)
        unit = 'patient' if all(entry.patient for entry in entries) else 'patient where known'
        origin = f'drawn by {unit}, 70/10/20, stratified by label, seed {what.seed}'
    for entry in entries:
        entry.split = given[entry.group]
    absent = [name for name in SPLITS if all(entry.split != name for entry in entries)]
    if absent:
        drawn = origin.startswith('drawn')
        advice = 'at least three patients of one label are needed' if drawn else (
            f'they are {origin}. With --splits drawn all are drawn by patient'
        )
        raise UserError(
            f'The images of {what.source} leave the splits {absent} empty; {advice}. With '
            '--splits none every image is for training.'
        )
    return origin


def _official(entries: Sequence[Entry], seed: int) -> tuple[dict[str, str], str]:
    """({group: split}, where it comes from) of a data set that has splits of its own.

    Groups without one are drawn for training and validation, and so are those for training where
    no image is for validation. UserError for a patient in two of them.
    """
    given = {}
    for entry in entries:
        split = given.setdefault(entry.group, entry.item.split)
        if split != entry.item.split:
            raise UserError(
                f"The data set's own splits put {entry.item.relative} and another image of the "
                f'same patient into {entry.item.split or "none"} and {split or "none"}. With '
                '--splits drawn the splits are drawn by patient.'
            )
    whole = 'validation' not in given.values()
    free = [e for e in entries if given[e.group] == '' or (whole and given[e.group] == 'train')]
    drawn = assign_splits(*_strata(free), seed, TRAIN_AND_VALIDATION) if free else {}
    kept = f', validation drawn by patient (seed {seed})' if drawn else ''
    return given | drawn, f"the data set's own{kept}"


def _strata(entries: Sequence[Entry]) -> tuple[list[str], list[int]]:
    """(group, number of the label) of every entry and label that it shows, -1 for none."""
    pairs = []
    for entry in entries:
        shown = [k for k, said in enumerate(entry.labels) if said == YES] or [-1]
        pairs += [(entry.group, k) for k in shown]
    groups, labels = zip(*pairs, strict=True)
    return list(groups), list(labels)
