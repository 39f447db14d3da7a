"""What a study's page says in sentences: cautions, setting, how to read its numbers."""

from cxr_jax.report.attention import INSIDE
from cxr_jax.report.blocks import Block, Items, literal
from cxr_jax.report.cautions import cautions, own_cautions
from cxr_jax.report.formats import listed, plain
from cxr_jax.report.measures import meanings
from cxr_jax.report.study_grid import axis_of, run_title, titles_of
from cxr_jax.report.study_tables import has_attention


def study_cautions(study: dict) -> list[str]:
    """What a reader must know before believing a number of the study."""
    found = cautions({
        'banner': study['banner'], 'data': study['data'], 'stages': [], 'test': None,
        'attention': None,
    })  # fmt: skip
    if len(study['seeds']) == 1:
        found.append(
            f'One seed ({study["seeds"][0]}): the intervals cover the choice of test patients '
            'only. Another seed may rank the rows differently.'
        )
    found += _too_few_resamples(study['comparisons'])
    missing = [run_title(study, cell) for cell in study['cells'] if not cell['stages']]
    if missing:
        found.append(
            f'Results of some runs are missing: {listed(missing, most=6)}. Means over fewer '
            'seeds are less certain.'
        )
    with_cautions = sum(bool(own_cautions(cell)) for cell in study['cells'])
    if with_cautions:
        found.append(
            f'{plain(with_cautions)} of {plain(len(study["cells"]))} runs have cautions of '
            'their own, listed below the table of every run.'
        )
    return found


def _too_few_resamples(comparisons: dict | None) -> list[str]:
    families = comparisons['families'] if comparisons else []
    most = max((family['comparisons'] for family in families), default=0)
    if not most or most / (1 + comparisons['resamples']) < 0.05:
        return []
    return [
        f'{plain(comparisons["resamples"])} resamples are too few for {plain(most)} comparisons: '
        "no p-value can fall below 0.05 after Holm's correction."
    ]


def setting(study: dict) -> str:
    data = study['data']
    titles = titles_of(study)
    axes = [
        f'{literal(axis)}: '
        + ', '.join(
            titles.get(x, literal(x)) if axis == axis_of(study, 'rows') else literal(x)
            for x in levels
        )
        for axis, levels in study['axes'].items()
    ]
    folds = f' Every run is cross-validated over {study["folds"]} folds.' if study['folds'] else ''
    return (
        f'{literal(data["name"])} at {data["size"]} px; {"; ".join(axes)}; seeds '
        f'{", ".join(map(str, study["seeds"]))}.{folds}'
    )


def run_cautions(study: dict) -> list[Block]:
    """Every caution of single runs once, with its runs."""
    by_text: dict[str, list[str]] = {}
    for cell in study['cells']:
        for text in own_cautions(cell):
            by_text.setdefault(text, []).append(run_title(study, cell))
    if not by_text:
        return []
    lines = tuple(
        f'{text} *{titles[0]}{f" and {len(titles) - 1} more runs" if titles[1:] else ""}*'
        for text, titles in by_text.items()
    )
    return [Items(lines, title=f'Cautions of single runs ({len(lines)})')]


def reading(study: dict) -> tuple[str, ...]:
    texts = [
        '*Figures* are means over the seeds, on the test images.',
        *meanings(study['measures'].values()),
        '*95 % interval*: percentiles of a bootstrap that draws patients, each with all of their '
        'images, and averages the seeds in every resample. It covers the choice of test patients; '
        'how much training itself varies stands beside it as the *SD of seeds*.',
    ]
    if study['folds']:
        texts.append(
            '*Folds*: every image is tested once a seed, by the network that has not seen its '
            'patient; figures are those of all folds together.'
        )
    if any(cell['label'] for cell in study['cells']):
        texts.append(
            f'*Order*: "curriculum" if the {_headline(study)} of the tasks alone (all else equal, '
            'this study) gets better along the curriculum, "anti-curriculum" if it gets worse, '
            'else "mixed"; "full" if it contains every pretext task of the study. Where single '
            'tasks differ by less than their intervals, the label may be chance.'
        )
    rows = study['comparisons']['comparisons'] if study['comparisons'] else []
    if any(row['role'].startswith('best') for row in rows):
        texts.append(
            '*Best*: the one with the best result on these test images. Being chosen there '
            'favours it, so the tests against it are strict.'
        )
    if rows:
        texts.append(
            '*p (Holm)*: p-value corrected for all comparisons of its family; below 0.05, the '
            'difference would be a surprise if no two models of the family differed.'
        )
    if any(has_attention(study, part) for part in INSIDE):
        texts += [
            '*AIL* (activation inside lungs): share of the positive class activation map that '
            'lies inside the lung mask; *inside boxes*: the same for the union of the lesion '
            'boxes, over the images that have some. A map without preference reaches the area '
            'beside it.',
            'AIL of images whose outside was blanked is not comparable with AIL of whole images.',
        ]
    return tuple(texts)


def _headline(study: dict) -> str:
    return study['measures'][study['headline']]['title']
