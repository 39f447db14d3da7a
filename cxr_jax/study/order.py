"""What the order of a curriculum's pretext tasks is called."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np


def label_order(
    tasks: Sequence[str], alone: Mapping[str, float | None], pretext: Collection[str]
) -> str:
    """'curriculum' if the results of the tasks alone rise from each to the next, 'anti-curriculum'
    if they fall, else 'mixed' (also at a tie); '' for fewer than two tasks or a missing result.

    alone: how good each task is as the only pretext task, higher being better, everything else
    equal. A curriculum of all `pretext` tasks of the study is 'full', followed by its order ('full
    mixed', ...): the number of tasks and their order are two properties, and the full curricula are
    the ones whose orders one most wants to compare.
    """
    if len(tasks) < 2:
        return ''
    words = ['full'] if set(tasks) >= set(pretext) else []
    results = [alone.get(task) for task in tasks]
    if None not in results:
        steps = np.diff(results)
        rises, falls = (steps > 0).all(), (steps < 0).all()
        words.append('curriculum' if rises else 'anti-curriculum' if falls else 'mixed')
    return ' '.join(words)
