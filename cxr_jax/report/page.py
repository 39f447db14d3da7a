"""The page of one run for a reader who was not there, and its short form for the console."""

from collections.abc import Collection, Sequence

from cxr_jax.report.attention import (
    REGIONS,
    attention_section,
    boxes_sections,
    no_maps_section,
)
from cxr_jax.report.blocks import (
    Block,
    Cautions,
    Code,
    Items,
    Picture,
    Section,
    Text,
    code,
    literal,
    table,
)
from cxr_jax.report.cautions import cautions
from cxr_jax.report.console import to_console
from cxr_jax.report.formats import NOT_AVAILABLE, confidence, listed, plain
from cxr_jax.report.measures import meanings
from cxr_jax.report.retention import retention_sections, retention_tables
from cxr_jax.report.stages import data_blocks, disk_blocks, left_behind, stage_blocks, stage_table
from cxr_jax.report.tested import figures_table, names_table, test_blocks

PICTURES = {
    'confusion.png': 'Confusion matrix: images and percent of the true class',
    'roc.png': 'ROC curve of each class against the rest, or of each finding',
    'gallery.png': 'Test images with the class activation map of what the model finds',
    'curves.png': 'Training loss of every stage',
    'health.png': 'Embeddings of the training batches of every stage, and probes of its frozen '
    'features on the validation images; shaded where an alarm was on',
    'pretext.png': 'What pretext stages make of validation images',
}


def format_table(results: dict) -> str:
    """Stages, their data, test figures and cautions of a run for the console."""
    return to_console(run_summary(results))


def run_title(results: dict) -> str:
    """'demo: moco → rot → classify'."""
    return f'{literal(results["name"])}: {" → ".join(map(literal, results["curriculum"]))}'


def run_summary(results: dict) -> list[Block]:
    """The blocks of a console."""
    data = results['data']
    setting = (
        f'{literal(data["name"])}, {data["size"]} px, {literal(results["region"])}, preset '
        f'{literal(results["preset"])}, seed {results["seed"]}'
    )
    if results['folds']:
        setting += f', {results["folds"]} folds'
    return [
        Text(run_title(results)),
        Text(setting),
        stage_table(results),
        *data_blocks(results),
        *disk_blocks(results),
        *retention_tables(results['retention']),
        *(
            [
                figures_table(results),
                names_table(results),
                *([Text(literal(results['no_maps']))] if results['no_maps'] else []),
            ]
            if results['test']
            else [Text(left_behind(results))]
        ),
        Cautions(tuple(cautions(results))),
    ]


def run_page(results: dict, pictures: Collection[str]) -> list[Block]:
    """The blocks of results.md; `pictures` are the names of PICTURES that lie beside it."""

    def shown(*names: str) -> list[Picture]:
        return [Picture(name, PICTURES[name]) for name in names if name in pictures]

    if results['test']:
        found = Section(
            'Result on the test images',
            (*test_blocks(results), *shown('confusion.png', 'roc.png')),
        )
    else:
        found = Section('What the run leaves', (Text(left_behind(results)),))
    attention = results['attention']
    return [
        Cautions(tuple(cautions(results))),
        *setting_blocks(results['data'], _setting(results)),
        found,
        *([no_maps_section(results['no_maps'])] if results['no_maps'] else []),
        *([attention_section(attention, results['data']['exclusive'])] if attention else []),
        *boxes_sections(results['boxes']),
        *shown('gallery.png'),
        Section('Training', (
            *stage_blocks(results), *shown('curves.png', 'health.png', 'pretext.png'),
        )),
        *retention_sections(results['retention']),
        *([Section('How to read the numbers', (Items(_reading(results)),))] if results['test']
          else []),
        Section('How to reproduce', tuple(_reproduction(results))),
    ]  # fmt: skip


def _setting(results: dict) -> str:
    data, region = results['data'], results['region']
    folds = f', {results["folds"]} folds' if results['folds'] else ''
    return (
        f'{literal(results["encoder"])}, trained on {literal(data["name"])} at {data["size"]} px '
        f'({literal(REGIONS.get(region, region))}), preset {literal(results["preset"])}, seed '
        f'{results["seed"]}{folds}.'
    )


def setting_blocks(data: dict, sentence: str) -> list[Block]:
    """The sentence, and the images of every split and name."""
    names = list(data['names']) if data['name_counts'] else []
    unknown = [None] * len(names)
    rows = [
        [literal(split), plain(n), *map(plain, data['name_counts'].get(split, unknown))]
        for split, n in data['counts'].items()
    ]
    told = Text(sentence)
    if names and not data['exclusive']:
        told = Text(
            f'{sentence} The findings do not exclude each other; below are the images that have '
            'them.'
        )
    return [told, table(['split', 'images', *map(literal, names)], rows)]


def _reading(results: dict) -> tuple[str, ...]:
    test = results['test']
    texts = meanings([*test['figures'].values(), *test['name_measures'].values()])
    texts.append('*Chance*: what guessing without looking at the image reaches.')
    if not test['exclusive']:
        texts.append(
            '*Known*: a finding is judged on the test images in which it is known to be there or '
            'not; their number differs from finding to finding.'
        )
    interval = (
        f'*{confidence(test)} interval*: percentiles of a bootstrap that draws patients, each '
        "with all of their images. It covers the choice of test patients, not the training's "
        'randomness.'
    )
    if results['folds']:
        interval += ' Every fold has a network of its own, which are not drawn either.'
    texts.append(interval)
    if results['attention']:
        of = 'predicted class' if test['exclusive'] else 'finding with the highest score'
        texts.append(
            '*AIL* (activation inside lungs): share of the positive class activation map of the '
            f'{of} that lies inside the lung mask. A map without preference reaches the '
            'lung-area fraction.'
        )
    return tuple(texts)


def _reproduction(results: dict) -> list[Block]:
    device = results['device']
    versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    return [
        Code(results['command']),
        Items((
            f'data fingerprint {code(results["data"]["fingerprint"])}',
            f'bundle of the last stage {_codes(results["bundles"])}',
            f'its parameters, sha256 {_codes(results["params_sha256"])}',
            f'seed {results["seed"]}; {device["count"]} × {literal(device["kind"])}',
            literal(versions or NOT_AVAILABLE),
        )),
    ]  # fmt: skip


def _codes(texts: Sequence[str]) -> str:
    return listed(map(code, texts)) or NOT_AVAILABLE
