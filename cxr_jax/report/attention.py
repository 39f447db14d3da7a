"""Where the model looks: its attention inside the lungs and inside the lesion boxes."""

import dataclasses

from cxr_jax.report.blocks import Section, Table, Text, literal, table
from cxr_jax.report.formats import difference, is_known, percent, plain, remarks, two_cells

REGIONS = {
    'full': 'whole images',
    'lungs_black': 'lungs only, the rest black',
    'lungs_gray': 'lungs only, the rest the mean gray',
    'background': 'lungs removed (black): a control that should find nothing',
}


@dataclasses.dataclass(frozen=True)
class Inside:
    """What attention is measured inside of: keys of its figures, and their titles."""

    share: str
    area: str
    title: str
    area_title: str


# By the part of the results; a map without preference reaches the area.
INSIDE = {
    'attention': Inside('ail', 'lung_area', 'AIL', 'lung area'),
    'boxes': Inside('box_attention', 'box_area', 'inside boxes', 'box area'),
}


def inside_rows(results: dict) -> list[list[str]]:
    """For a table of figures: title, value, interval, and what a uniform map would reach."""
    return [
        [
            f'{inside.title} vs {inside.area_title}',
            *two_cells(results[part][inside.share]),
            percent(results[part][inside.area]['value']),
        ]
        for part, inside in INSIDE.items()
        if results[part] and results[part]['images']
    ]


def attention_sentence(attention: dict) -> str:
    """AIL against the lung-area fraction, by the interval of their difference."""
    excess = attention['excess']
    if not is_known(excess['value']):
        return f'AIL is not available: {literal(excess["reason"])}.'
    points = f'{difference(excess["value"])} points'
    if not is_known(excess['low']):
        return f'AIL differs from the lung-area fraction by {points} (no interval).'
    bounds = f'{difference(excess["low"])} to {difference(excess["high"])}'
    verdict = 'the maps are not distinguishable from maps without preference for the lungs'
    if excess['low'] > 0:
        verdict = 'the maps favour the lungs'
    elif excess['high'] < 0:
        verdict = 'the maps favour what lies outside the lungs'
    return (
        f'AIL differs from the lung-area fraction by {points} (95 % interval {bounds}): {verdict}.'
    )


def attention_cautions(attention: dict, region: str) -> list[str]:
    found = []
    if region != 'full':
        found.append(
            f'AIL of images in the region {literal(region)} is not comparable with AIL of whole '
            'images: what lies outside (or inside) the lungs was blanked.'
        )
    if attention['without_mask']:
        found.append(
            f'{attention["without_mask"]:,} test images have no lung mask and are left out of AIL.'
        )
    if attention['without_activation']:
        found.append(
            f'The maps of {attention["without_activation"]:,} test images have no positive value; '
            'they have no AIL.'
        )
    return found


def no_maps_section(reason: str) -> Section:
    """What stands where attention would."""
    return Section('Where the model looks', (Text(literal(reason)),))


def attention_section(attention: dict, exclusive: bool) -> Section:
    told = [Text(attention_sentence(attention))]
    if attention['images']:
        told.append(_by_name(attention, exclusive))
    return Section('Where the model looks', tuple(told))


def _by_name(attention: dict, exclusive: bool) -> Table:
    rows = [('all images', attention)]
    rows += [(literal(row['name']), row) for row in attention['per_name']]
    return table(
        ['true class' if exclusive else 'images with', 'images', 'AIL', '95 % interval',
         'lung-area fraction'],
        [
            [name, plain(row['images']), *two_cells(row['ail']), percent(row['lung_area']['value'])]
            for name, row in rows
        ],
        remarks=remarks((name, row['ail']) for name, row in rows),
    )  # fmt: skip


def boxes_sections(boxes: dict | None) -> list[Section]:
    """Attention inside the radiologists' lesion boxes; nothing for data without any."""
    if not boxes or not boxes['images']:
        return []
    share, area = boxes['box_attention'], boxes['box_area']
    value, bounds = two_cells(share)
    text = (
        f'In the {boxes["images"]:,} test images with boxes, {value} of the positive activation '
        f'lies inside them (95 % interval {bounds}); a uniform map would reach '
        f'{percent(area["value"])}.'
    )
    return [Section('Attention inside the lesion boxes', (Text(text),))]
