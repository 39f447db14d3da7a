"""The method, top to bottom: encoder -> stage -> stage -> readout -> evaluation -> report."""

import functools
import pathlib

from cxr_jax import report
from cxr_jax.evaluation.predict import predict
from cxr_jax.run import retention
from cxr_jax.run.audited import audit_of
from cxr_jax.run.initial import initial_parts
from cxr_jax.run.monitors import monitors_of
from cxr_jax.run.pictures import pretext_pictures
from cxr_jax.run.plan import Branch, Plan
from cxr_jax.run.results import (
    PREDICTIONS_FILE,
    announce,
    announce_stage,
    assemble,
    gallery_of,
    origin,
    save_table,
    watched,
    whole_table,
)
from cxr_jax.run.stage import Outcome, Place, run_stage
from cxr_jax.run.workdir import claim_workdir, copied_up, identity_of, settings_of, store_of
from cxr_jax.runtime import hosts, parallel
from cxr_jax.store.bundle import fit
from cxr_jax.store.claim import Claim
from cxr_jax.store.files import write_atomically
from data_pipelines.errors import UserError


def run(plan: Plan, workdir: pathlib.Path, banner: str = '', command: str = '') -> dict:
    """Trains and evaluates a planned run; returns the results of results.json.

    Finished stages come from the store, a finished run from `workdir`. Raises UserError for what
    the user has to change, Busy where another process is at work and Interrupted after saving on
    SIGTERM.
    """
    if not hosts.same([stage.key for stage in plan.stages]):
        raise UserError(
            'The processes were started with different settings, weights or versions of this code.'
        )
    store = store_of(plan.settings.run.store, workdir)
    with copied_up(workdir, store):
        found = hosts.on_first(claim_workdir, workdir, identity_of(plan), settings_of(plan))
        if found:
            return found
        with hosts.first_holds(Claim(workdir / '.run', f'the run {workdir}').held()):
            return _run(plan, workdir, store, (banner, command))


def _run(plan: Plan, workdir: pathlib.Path, store: pathlib.Path, words: tuple[str, str]) -> dict:
    settings, mesh = plan.settings.run, parallel.data_mesh()
    watch = functools.partial(monitors_of, settings.monitor, mesh)
    place = Place(store, mesh, settings.keep, watch)
    audited = hosts.on_first(audit_of, plan)
    announce(plan, mesh, audited)

    # 1. The stages of every branch (one, or one a fold), then its readout on its test images.
    outcomes, predictions = [], []
    for branch in plan.branches:
        outcomes.append(_train(plan, branch, place))
        if branch.tested:
            readout, tested = branch.stages[-1], branch.tested
            predictions.append(predict(
                readout.task, readout.encoder, outcomes[-1][-1].parts, tested.corpus,
                tested.labels, mesh, settings.eval.batch_size,
            ))  # fmt: skip

    # 2. What later stages forget of earlier ones (of folds, in the first).
    kept = None
    if settings.monitor.retention:
        first = plan.branches[0]
        kept = retention.measure(plan, first, initial_parts(plan, first), outcomes[0], mesh)

    # 3. The report; out of fold, every image is tested once.
    def write_all() -> dict:
        table = whole_table(predictions) if predictions else None
        results = assemble(plan, outcomes, table, workdir.name, *words)
        results['retention'] = kept
        results['data']['audit'] = audited
        if table:
            write_atomically(workdir / PREDICTIONS_FILE, lambda path: save_table(path, table))
        report.write_report(
            workdir,
            results,
            curves=[outcome.metrics for branch in outcomes for outcome in branch],
            predictions=table,
            gallery=gallery_of(plan, predictions) if predictions else None,
            watched=[watched(outcome) for branch in outcomes for outcome in branch],
            pretext=pretext_pictures(plan, outcomes),
        )
        return results

    return hosts.on_first(write_all)


def _train(plan: Plan, branch: Branch, place: Place) -> list[Outcome]:
    """The stages of a branch: each starts from the parts that the one before it left."""
    parts, outcomes = initial_parts(plan, branch), []
    for stage in branch.stages:
        outcome = run_stage(stage, parts, place, origin(plan, stage.name))
        announce_stage(outcome, branch.fold)
        source = f'encoder of stage {stage.name} ({outcome.folder})'
        encoder = fit(outcome.parts['encoder'], parts['encoder'], source)
        parts = outcome.parts | {'encoder': encoder}
        outcomes.append(outcome)
    return outcomes
