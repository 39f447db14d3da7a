"""Sentences the numbers force: cautions, and whether the maps favour the lungs."""

from cxr_jax.report.formats import decimal, interval, is_known, percent

REGIONS = {
    'full': 'whole images',
    'lungs_black': 'lungs only, the rest black',
    'lungs_gray': 'lungs only, the rest the mean gray',
    'background': 'lungs removed (black): a control that should find nothing',
}


def cautions(results: dict) -> list[str]:
    """What a reader must know before believing a number, most general first."""
    found = [results['banner']] if results['banner'] else []
    if not results['data']['has_patient_ids']:
        found.append(
            'The data set has no patient ids: images of one patient may lie in both training and '
            'test, and every image counts as a patient, so results may be too good and intervals '
            'too narrow.'
        )
    for stage in results['stages']:
        found += _stage_cautions(stage)
    if results['test']:
        found += _test_cautions(results['test'])
    if results['attention']:
        found += _attention_cautions(results['attention'], results['region'])
    return found


def attention_finding(attention: dict) -> str:
    """One sentence: AIL against the lung-area fraction, by the interval of their difference."""
    excess = attention['excess']
    if not is_known(excess['value']):
        return f'AIL is not available: {excess["reason"]}.'
    points = f'{100 * excess["value"]:+.1f} points'
    if not is_known(excess['low']):
        return f'AIL differs from the lung-area fraction by {points} (no interval).'
    bounds = f'{100 * excess["low"]:+.1f} to {100 * excess["high"]:+.1f}'
    verdict = 'the maps are not distinguishable from maps without preference for the lungs'
    if excess['low'] > 0:
        verdict = 'the maps favour the lungs'
    elif excess['high'] < 0:
        verdict = 'the maps favour what lies outside the lungs'
    return (
        f'AIL differs from the lung-area fraction by {points} (95 % interval {bounds}): {verdict}.'
    )


def _stage_cautions(stage: dict) -> list[str]:
    loss, chance = stage['metrics'].get('loss'), stage['metrics'].get('chance_loss')
    if loss is not None and not is_known(loss):
        return [f'The loss of stage {stage["task"]} is not finite: its training diverged.']
    if is_known(loss) and is_known(chance) and loss >= chance:
        return [
            f'Stage {stage["task"]} ended at a loss of {decimal(loss)}, not below its chance '
            f'level of {decimal(chance)}.'
        ]
    return []


def _test_cautions(test: dict) -> list[str]:
    found = list(test['notes'])
    balanced, chance = test['balanced_accuracy'], test['chance']['balanced_accuracy']
    if is_known(balanced['low']) and balanced['low'] <= chance:
        found.append(
            f'The interval of the balanced accuracy ({interval(balanced)}) reaches down to chance '
            f'({percent(chance)}): the test images do not show that the model tells the classes '
            'apart.'
        )
    flat = [
        row['name']
        for row in test['per_class']
        if is_known(row['accuracy']['low']) and row['accuracy']['low'] == row['accuracy']['high']
    ]
    if flat:
        found.append(
            f'All or none of the test images are right in: {", ".join(flat)}. The bootstrap then '
            'gives an interval of no width, which is not certainty.'
        )
    return found


def _attention_cautions(attention: dict, region: str) -> list[str]:
    found = []
    if region != 'full':
        found.append(
            f'AIL of images in the region {region} is not comparable with AIL of whole images: '
            'what lies outside (or inside) the lungs was blanked.'
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
