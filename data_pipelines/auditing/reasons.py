"""Sentences about single images; docs/audit.md tells how often each is right and wrong."""

from data_pipelines.auditing.measures import Measures

CONSTANT = 0.08
INVERTED = -0.3
NOT_FRONTAL = 0.2
ASYMMETRIC, UNLIKE = 0.35, 0.5
DARK_CORNERS, DARK = 0.15, 0.17
TEXT = 0.18
MARGIN = 0.25
# What can be wrong with an image, in the order of the sentences.
KINDS = (
    'nearly constant', 'inverted polarity', 'slice of a volume', 'not a frontal chest', 'lateral',
    'burned-in text', 'collimated',
)  # fmt: skip


# Readers whose images are no frontal chest radiographs: only a constant image is wrong there.
OTHER_IMAGES = ('isic2019', 'mura', 'luna16', 'ct_slices', 'mri_slices')


def reasons(m: Measures, dataset: str = '') -> dict[str, str]:
    """{kind of KINDS: sentence with the measure}; {} of an image with nothing to say about.

    `dataset`: the reader that listed the image.
    """
    if m.spread < CONSTANT:
        told = f'98 % of its pixels lie within {100 * m.spread:.1f} % of the grey values'
        return {'nearly constant': f'nearly constant: {told}'}
    found = {}
    if dataset in OTHER_IMAGES:
        return found
    if m.frontal < INVERTED:
        found['inverted polarity'] = (
            f'inverted polarity or no chest: correlation {m.frontal:.2f} with the average frontal '
            'radiograph'
        )
    elif m.corner < DARK_CORNERS and m.dark > DARK:
        found['slice of a volume'] = (
            f'looks like a CT or MR slice: {100 * m.dark:.0f} % of it is black, and so are all '
            f'corners (the brightest {m.corner:.2f} of the range)'
        )
    elif m.frontal < NOT_FRONTAL:
        found['not a frontal chest'] = (
            f'not like a frontal chest radiograph: correlation {m.frontal:.2f} with the average one'
        )
    elif m.symmetry < ASYMMETRIC and m.frontal < UNLIKE:
        found['lateral'] = (
            f'may be a lateral view: correlation {m.symmetry:.2f} with its mirror image and '
            f'{m.frontal:.2f} with the average frontal radiograph'
        )
    if m.text > TEXT:
        found['burned-in text'] = (
            f'burned-in text or markers: thin and bright structures are {100 * m.text:.0f} % of a '
            'part of it that is a tenth high and a quarter wide'
        )
    if m.margin > MARGIN:
        found['collimated'] = f'collimated: {100 * m.margin:.0f} % of it is empty border'
    return found
