"""What an audit found: the dict of its json, counts, and sentences for cards and reports."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from data_pipelines.auditing import reasons
from data_pipelines.auditing.pairs import EXACT, NEAR, PATIENT, STUDY, Images, Pair, find_pairs
from data_pipelines.auditing.stored import Looks, looks_of
from data_pipelines.prepared.data import PreparedSet
from data_pipelines.prepared.key_file import read_key_file


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """Pairs of images, and the reasons {image: {kind: sentence}} to doubt single ones."""

    images: Images
    pairs: list[Pair]
    reasons: dict[int, dict[str, str]]

    def __bool__(self) -> bool:
        return bool(self.pairs or self.reasons)


def audit(sets: Sequence[PreparedSet]) -> Findings:
    """Of prepared sets of one data folder; they may differ in size and bits."""
    images = Images(tuple(sets), tuple(looks_of(each) for each in sets))
    found = itertools.chain.from_iterable(
        doubts(looks, prepared.dataset) for prepared, looks in zip(sets, images.looks, strict=True)
    )
    numbered = {number: told for number, told in enumerate(found) if told}
    return Findings(images, find_pairs(images), numbered)


def doubts(looks: Looks, dataset: str) -> Iterator[dict[str, str]]:
    """{kind: sentence} of each image of a set that the reader `dataset` listed, often {}."""
    return (reasons.reasons(looks.of(row), dataset) for row in range(len(looks.measures)))


def count_reasons(doubted: Iterable[dict[str, str]]) -> dict[str, int]:
    """{kind: images} of what `doubts` tells, without those of which there are none."""
    found = Counter(itertools.chain.from_iterable(doubted))
    return {kind: found[kind] for kind in reasons.KINDS if found[kind]}


def as_json(findings: Findings) -> dict:
    """{'sets', 'summary', 'pairs', 'images'}; a file is its path below the source folder, or the
    image id where the set has no key file."""
    images, sets = findings.images, findings.images.sets
    files = [read_key_file(each.directory) for each in sets]

    def told(number: int) -> dict:
        of, row = images.place(number)
        image_id = str(sets[of].index.image_id[row])
        return {'set': sets[of].name, 'file': files[of].get(image_id, image_id)}

    return {
        'sets': [
            {'name': s.name, 'size': s.size, 'images': len(s.index), 'fingerprint': s.fingerprint}
            for s in sets
        ],
        'summary': summary(findings),
        'pairs': [
            {
                'a': told(pair.a), 'b': told(pair.b), 'kind': pair.kind,
                'splits': [_split(images, pair.a), _split(images, pair.b)],
                'agreement': round(pair.agreement, 3), 'conflict': list(pair.conflict),
            }
            for pair in findings.pairs
        ],
        'images': [
            {**told(number), 'reasons': list(found.values())}
            for number, found in findings.reasons.items()
        ],
    }  # fmt: skip


def summary(findings: Findings) -> list[dict]:
    """Pairs of each kind between any two (set, split), and how many have conflicting labels."""
    images, counts, conflicts = findings.images, Counter(), Counter()
    for pair in findings.pairs:
        ends = sorted((_set(images, k), _split(images, k)) for k in (pair.a, pair.b))
        key = (pair.kind, *ends)
        counts[key] += 1
        conflicts[key] += bool(pair.conflict)
    return [
        {
            'kind': kind, 'a': {'set': a[0], 'split': a[1]}, 'b': {'set': b[0], 'split': b[1]},
            'pairs': counts[kind, a, b], 'conflicts': conflicts[kind, a, b],
        }
        for kind, a, b in sorted(counts)
    ]  # fmt: skip


def of_one_set(findings: Findings, number: int) -> dict:
    """What the card of a set says: of its images, and of pairs with both images in it."""
    images = findings.images
    own = [p for p in findings.pairs if {images.place(k)[0] for k in (p.a, p.b)} == {number}]
    kinds = Counter(pair.kind for pair in own)
    across = Counter(
        pair.kind for pair in own if _split(images, pair.a) != _split(images, pair.b)
    )
    return {
        'reasons': count_reasons(
            told for k, told in findings.reasons.items() if images.place(k)[0] == number
        ),
        'pairs': dict(kinds),
        'across_splits': dict(across),
        'conflicts': sum(bool(pair.conflict) for pair in own),
    }


def sentences(found: dict, images: int) -> list[str]:
    """What a reader must know of a set of so many images; `found` as of `of_one_set`, where only
    the reasons need be there."""
    said = []
    across = found.get('across_splits', {})
    for kind, what in (
        (EXACT, 'pairs of identical images lie'), (NEAR, 'pairs of near copies lie'),
        (PATIENT, 'times one patient has images'), (STUDY, 'times one study has images'),
    ):  # fmt: skip
        if across.get(kind):
            said.append(f'{across[kind]} {what} in two splits.')
    inside = sum(found.get('pairs', {}).get(k, 0) - across.get(k, 0) for k in (EXACT, NEAR))
    if inside:
        said.append(f'{inside} pairs of copies lie within one split.')
    if found.get('conflicts'):
        said.append(f'{found["conflicts"]} pairs of copies have labels that contradict each other.')
    doubted = ', '.join(f'{kind} {n}' for kind, n in found['reasons'].items())
    if doubted:
        said.append(f'Of {images} images these look wrong: {doubted}.')
    return said


def _set(images: Images, number: int) -> str:
    return images.sets[images.place(number)[0]].name


def _split(images: Images, number: int) -> str:
    of, row = images.place(number)
    return str(images.sets[of].index.split[row])
