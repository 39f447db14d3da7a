"""What is known to be wrong with the images of a run: told at its start and in its report."""

from cxr_jax.run.plan import Plan
from data_pipelines.auditing.findings import sentences
from data_pipelines.auditing.overlap import Overlap, overlap
from data_pipelines.prepared.corpus import union


def audit_of(plan: Plan) -> list[str]:
    """Sentences: of the cards of its sets, and of near copies of held-out images in training."""
    told = _copies(plan)
    for name, prepared in plan.data.sets.items():
        found = prepared.card.get('audit')
        if found:
            told += [f'{name}: {each}' for each in sentences(found, len(prepared.index))]
    return told


def _copies(plan: Plan) -> list[str]:
    found, held_out = [], 0
    for branch, splits in zip(plan.branches, plan.data.splits, strict=True):
        if splits:
            train = union([stage.train.corpus for stage in branch.stages])
            found.append(overlap(train, splits.held_out))
            held_out += len(splits.held_out)
    sum_ = Overlap(sum(each.held_out for each in found), sum(each.trained for each in found))
    if not sum_.held_out:
        return []
    return [
        f'{sum_.held_out:,} of {held_out:,} validation and test images have near copies '
        f'({sum_.trained:,}) among the images trained on: figures may be too good. python -m '
        f'data_pipelines.audit --sets {",".join(plan.data.sets)} lists them.'
    ]
