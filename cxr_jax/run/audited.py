"""What is known to be wrong with the images of a run: told at its start and in its report."""

from cxr_jax.run.plan import Plan
from data_pipelines.auditing.findings import sentences
from data_pipelines.auditing.overlap import overlap
from data_pipelines.prepared.corpus import union
from data_pipelines.storage.places import name_of


def audit_of(plan: Plan) -> list[str]:
    """Sentences: of the cards of its sets, and of near copies of held-out images in training."""
    told = _copies(plan)
    for name, prepared in plan.data.sets.items():
        found = prepared.card.get('audit')
        if found:
            told += [f'{name}: {each}' for each in sentences(found, len(prepared.index))]
    return told


def _copies(plan: Plan) -> list[str]:
    found, held_out = [], set()
    for branch, splits in zip(plan.branches, plan.data.splits, strict=True):
        if splits:
            train = union([stage.train.corpus for stage in branch.stages])
            found.append(overlap(train, splits.held_out))
            for prepared, rows in splits.held_out.parts:
                held_out |= {(prepared.name, row) for row in rows.tolist()}
    copied, copies, unseen = (
        frozenset().union(*(getattr(each, name) for each in found))
        for name in ('held_out', 'trained', 'unseen')
    )
    any_set = next(iter(plan.data.sets.values()))
    command = (
        f'python -m data_pipelines.audit --data_dir {name_of(any_set.data_dir)} --sets '
        f'{",".join(plan.data.sets)} --size {any_set.size}'
    )
    told = []
    if copied:
        told.append(
            f'{len(copied):,} of {len(held_out):,} validation and test images have near copies '
            f'({len(copies):,}) among the images trained on: figures may be too good. {command} '
            '--json audit.json lists them.'
        )
    if unseen:
        told.append(
            f'Near copies were not looked for in {", ".join(sorted(unseen))}, prepared by an '
            f'earlier version: {command}'
        )
    return told
