"""Which images each stage of a run reads, and which are kept for validation and test."""

import dataclasses

from ml_collections import ConfigDict

from cxr_jax.run.embedded import DATA_DIR
from cxr_jax.run.settings import Settings, read_config
from cxr_jax.runtime import hosts
from cxr_jax.train.stage import Labelled, StageSettings, stage_seed
from data_pipelines.errors import UserError
from data_pipelines.prepared.corpus import Corpus, LeftOut, union
from data_pipelines.prepared.data import PreparedSet, open_prepared
from data_pipelines.prepared.target import Target, target_of

FOLD_SEED = 0  # folds are a property of the data, as its splits are: the same for every seed


@dataclasses.dataclass(frozen=True)
class Splits:
    """The images of the run's own set: to train on (with or without labels), to judge by."""

    train: Corpus
    validation: Corpus
    test: Corpus

    @property
    def held_out(self) -> Corpus:
        return union([self.validation, self.test])


@dataclasses.dataclass(frozen=True)
class Data:
    """The prepared sets of a run, its target and its splits (one, or one a fold).

    `own` is the set that is read out, None for a run without a readout that names others.
    """

    settings: Settings
    sets: dict[str, PreparedSet]
    own: PreparedSet | None
    target: Target | None
    splits: tuple[Splits | None, ...]

    def of_stage(
        self, name: str, stage: StageSettings, splits: Splits | None
    ) -> tuple[Labelled, LeftOut]:
        """What a stage trains on, and what was left out of it.

        No image of a patient who is validated or tested on is ever trained on, nor one with the
        same content.
        """
        run, is_readout = self.settings.run, name == self.settings.readout
        sets = stage.data.sets or (() if is_readout else run.data.pretext)
        corpus = union([self._images(each, splits) for each in sets]) if sets else splits.train
        left_out = LeftOut(0, 0, 0)
        if splits:
            corpus, left_out = corpus.without(splits.held_out)
        if is_readout:
            return self._labelled(corpus, run.data.label_fraction * stage.data.fraction), left_out
        share = run.data.pretext_fraction * stage.data.fraction
        return Labelled(corpus.fraction(share, stage_seed(run.seed, 'images'))), left_out

    def labelled(self, corpus: Corpus) -> Labelled:
        """The images of a corpus of which the target says something, and what it says."""
        known = self.target.labelled(corpus)
        return Labelled(known, self.target.values(known), self.target.strata(known))

    def _labelled(self, corpus: Corpus, share: float) -> Labelled:
        known = self.target.labelled(corpus)
        seed = stage_seed(self.settings.run.seed, 'labels')
        return self.labelled(known.fraction(share, seed, self.target.strata(known)))

    def _images(self, name: str, splits: Splits | None) -> Corpus:
        """All images of a set; of the run's own those to train on."""
        own = splits and self.own.name == name
        return splits.train if own else self.sets[name].corpus()


def needed_sets(settings: Settings) -> tuple[str, ...]:
    """Names of the prepared sets that a run reads, its own first if it reads that."""
    names = [name for stage in settings.stages.values() for name in stage.data.sets]
    data = settings.run.data
    pretext = [s for n, s in settings.stages.items() if n != settings.readout and not s.data.sets]
    if pretext:
        names += data.pretext
    # Without a readout, the own set is what pretext stages fall back on.
    if settings.readout or (pretext and not data.pretext):
        names = [data.name, *names]
    return tuple(dict.fromkeys(names))


def open_sets(config: ConfigDict) -> dict[str, PreparedSet]:
    """The prepared sets that a run of `config` reads, by name; the same ones for every process."""
    settings = read_config(config)
    data = settings.run.data
    sets = {
        name: open_prepared(data.dir or DATA_DIR, name, data.size, data.masks)
        for name in needed_sets(settings)
    }
    if not hosts.same({name: prepared.fingerprint for name, prepared in sets.items()}):
        raise UserError(
            f'{data.dir or DATA_DIR} holds different data on different hosts; copy one of them to '
            'all.'
        )
    return sets


def gather_data(settings: Settings, sets: dict[str, PreparedSet]) -> Data:
    """The data of a run from its opened sets; UserError for what cannot be read out."""
    names, section = needed_sets(settings), settings.run.data
    own = sets[section.name] if section.name in names else None
    target = None
    if settings.readout:
        target = target_of(own, section.classes, section.uncertain)
    if own is None:
        return Data(settings, sets, None, None, (None,))
    if not section.folds:
        splits = [Splits(*(own.corpus(name) for name in ('train', 'validation', 'test')))]
    else:
        splits = _folds(settings, own, target)
    return Data(settings, sets, own, target, tuple(splits))


def _folds(settings: Settings, own: PreparedSet, target: Target | None) -> list[Splits]:
    """Every image tested once; where validation images decide something, the next fold's."""
    folds, whole = settings.run.data.folds, own.corpus()
    if target is None:
        raise UserError(
            f'--config.data.folds={folds} tests a readout, and this run has none; set it to 0.'
        )
    if folds < 2:
        raise UserError(f'--config.data.folds={folds} must be 0 (none), or 2 or more.')
    searched = any(stage.judged for stage in settings.stages.values())
    if searched and folds < 3:
        raise UserError(
            f'--config.data.folds={folds} leaves nothing to train on beside a fold for the test '
            'and one for the search of the learning rate or early stopping; use 3 or more, or '
            'switch them off.'
        )
    number = whole.folds(folds, FOLD_SEED, target.strata(whole))
    found = []
    for fold in range(folds):
        test, judged = number == fold, (number == (fold + 1) % folds) & searched
        parts = [whole.take(rows) for rows in (~test & ~judged, judged, test)]
        found.append(Splits(*parts))
    return found
