"""Sentences the numbers force: what a reader must know before believing them."""

from cxr_jax.evaluation.alarms import MEANINGS
from cxr_jax.report.attention import attention_cautions
from cxr_jax.report.blocks import literal
from cxr_jax.report.formats import decimal, interval, is_known, listed, number, plain
from cxr_jax.report.measures import headline_of, measure_of

NO_PATIENT_IDS = (
    'The data set has no patient ids: images of one patient may lie in both training and test, '
    'and every image counts as a patient, so results may be too good and intervals too narrow.'
)


def cautions(results: dict) -> list[str]:
    """Of a run, most general first."""
    found = [literal(results['banner'])] if results['banner'] else []
    if not results['data']['has_patient_ids']:
        found.append(NO_PATIENT_IDS)
    # Older results have none.
    found += [f'Audit of the data: {literal(each)}' for each in results['data'].get('audit', ())]
    return found + own_cautions(results)


def own_cautions(results: dict) -> list[str]:
    """Those that are not of the data: of its stages, test, attention and region."""
    found = [text for stage in results['stages'] for text in _stage_cautions(stage)]
    if results['test']:
        found += _test_cautions(results['test'])
    if results['attention']:
        found += attention_cautions(results['attention'], results['region'])
    return found


def own_loss(metrics: dict) -> float | None:
    """The loss of a stage's own task, which chance is told for: without what is distilled."""
    return metrics.get('task_loss', metrics.get('loss'))


def stage_title(stage: dict) -> str:
    """'moco', or 'classify of fold 2', which counts from one."""
    name = literal(stage['stage'])
    return name if stage['fold'] is None else f'{name} of fold {stage["fold"] + 1}'


def _stage_cautions(stage: dict) -> list[str]:
    loss, chance = own_loss(stage['metrics']), stage['metrics'].get('chance_loss')
    found = [_alarm(stage, **alarm) for alarm in stage.get('alarms', [])]
    if loss is not None and not is_known(loss):
        return [f'The loss of stage {stage_title(stage)} is not finite: its training diverged.']
    if is_known(loss) and is_known(chance) and loss >= chance:
        found.append(
            f'Stage {stage_title(stage)} ended at a loss of {decimal(loss)}, not below its chance '
            f'level of {decimal(chance)}.'
        )
    return found


def _alarm(stage: dict, **span) -> str:
    """`span`: 'alarm', and the steps 'from' and 'to' which it was on."""
    until = 'on' if span['to'] is None else f'to step {plain(span["to"])}'
    when = f'from step {plain(span["from"])} of {plain(stage["steps"])} {until}'
    return f'Stage {stage_title(stage)}, {when}: {MEANINGS[span["alarm"]]}.'


def _test_cautions(test: dict) -> list[str]:
    found = [literal(note) for note in test['notes']]
    measure, figure = headline_of(test)
    bound = figure['low'] if measure.higher_is_better else figure['high']
    if is_known(bound) and is_known(measure.chance) and measure.reaches(bound):
        what = 'tells the classes apart' if test['exclusive'] else 'recognises the findings'
        found.append(
            f'The interval of the {measure.title} ('
            f'{interval(figure, measure.unit)}) reaches '
            f'{"down" if measure.higher_is_better else "up"} to chance '
            f'({number(measure.chance, measure.unit)}): the test images do not show that the '
            f'model {what}.'
        )
    flat = [
        f'{measure_of(test, name).title} of {literal(row["name"])}'
        for row in test['per_name']
        for name, figure in row['figures'].items()
        if is_known(figure['low']) and figure['low'] == figure['high']
    ]
    if flat:
        found.append(
            f'Every resample of the test patients gives the same value: {listed(flat, most=6)}. '
            'An interval of no width is not certainty.'
        )
    return found
