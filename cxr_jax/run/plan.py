"""From settings to stages that can run: `auto` resolved, impossibilities told, nothing compiled."""

import dataclasses
import pathlib

from cxr_jax.models.encoder import Contract, Encoder, build_encoder
from cxr_jax.run.candidates import candidates, describe
from cxr_jax.run.checks import (
    check_batch,
    check_batch_fits,
    check_contract,
    check_early_stop,
    check_handed_over,
    check_images,
    check_input,
    check_memory,
)
from cxr_jax.run.content import OfStage, content_of
from cxr_jax.run.corpora import Data, Splits, gather_data
from cxr_jax.run.settings import Settings, kind_of, read_config
from cxr_jax.run.teacher import before_the_first, distillation_of
from cxr_jax.run.weights import brought, bundled_contract, told_of
from cxr_jax.store.identity import key_of
from cxr_jax.tasks.base import Facts
from cxr_jax.train.stage import Labelled, Probed, Search, Stage, StageSettings, stage_seed
from data_pipelines.errors import UserError
from data_pipelines.prepared.data import PreparedSet


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """The stages of one curriculum, in order, and the images it is tested on (None: no readout)."""

    fold: int | None
    encoder: Encoder
    stages: tuple[Stage, ...]
    tested: Labelled | None


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A run: its settings, its data, and one branch, or one for every fold."""

    settings: Settings
    data: Data
    branches: tuple[Branch, ...]
    notes: dict[str, list[str]]  # per stage: 'queue_size = 448 (reason)'

    @property
    def stages(self) -> list[Stage]:
        """The stages of all branches."""
        return [stage for branch in self.branches for stage in branch.stages]


def make_plan(config, sets: dict[str, PreparedSet], devices: int) -> Plan:
    """The plan of a config over the opened sets; nothing is changed, nothing is trained.

    Raises UserError for what is out of range, missing or impossible.
    """
    settings = brought(read_config(config))
    check_batch('eval.batch_size', settings.run.eval.batch_size, devices)
    data = gather_data(settings, sets)
    planner = _Planner(settings, data, devices)
    folds = range(len(data.splits)) if settings.run.data.folds else (None,)
    branches = tuple(
        planner.branch(fold, splits) for fold, splits in zip(folds, data.splits, strict=True)
    )
    return Plan(settings, data, branches, planner.notes)


class _Planner:
    """Plans branch after branch; `notes` tell once what was chosen for the user."""

    def __init__(self, settings: Settings, data: Data, devices: int):
        self._settings, self._data, self._devices = settings, data, devices
        self.notes: dict[str, list[str]] = {}

    def branch(self, fold: int | None, splits: Splits | None) -> Branch:
        images = {
            name: self._data.of_stage(name, stage, splits)
            for name, stage in self._settings.stages.items()
        }
        tested = validation = None
        if self._settings.readout:
            tested = self._data.labelled(splits.test)
            validation = self._data.labelled(splits.validation)
        check_images(self._data, images, tested, validation)
        probed = self._probed(images, validation)
        encoder, stages, parent = self._encoder(images, splits), [], None
        before = before_the_first(self._settings.run)
        own = [splits.held_out] if splits else []
        check_contract(encoder.contract, [*(train.corpus for train, _ in images.values()), *own])
        for name, settings in self._settings.stages.items():
            train, left_out = images[name]
            judged = Labelled(splits.validation) if splits else None
            judged = validation if name == self._settings.readout else judged
            of_stage = OfStage(name, train, judged, left_out, encoder, parent, before, probed)
            stage, notes = self._stage(of_stage, settings)
            if not stages and self._settings.run.encoder.weights:
                notes = [*notes, *told_of(self._settings.run.encoder.weights)]
            self.notes.setdefault(name, notes)
            stages.append(stage)
            parent, before = stage.key, stage.kind
        check_handed_over(stages)
        return Branch(fold, encoder, tuple(stages), tested)

    def _probed(self, images: dict, validation: Labelled | None) -> Probed | None:
        """What frozen features are read out on, as far as the run has labels."""
        if validation is None or not validation.images:
            return None
        readout, target = self._settings.readout, self._data.target
        size = self._settings.stages[readout].task.image_size
        train, _ = images[readout]
        return Probed(train, validation, target.names, target.exclusive, size)

    def _encoder(self, images: dict, splits: Splits | None) -> Encoder:
        """The encoder, and what it sees: the statistics are those of the first stage's images.

        A readout that comes first has those of all training images, so that a run from scratch
        does not depend on the share of labels, and sees what a pretrained one sees.
        """
        run = self._settings.run
        weights = pathlib.Path(run.encoder.weights) if run.encoder.weights else None
        if weights and weights.is_dir():
            return build_encoder(run.encoder, bundled_contract(weights, run))
        name, (train, _) = next(iter(images.items()))
        corpus = splits.train if name == self._settings.readout else train.corpus
        contract = Contract(
            size=run.data.size,
            bits=corpus.bits,
            channels=run.encoder.channels,
            region=run.data.region,
            **corpus.statistics(run.data.region),
            fill=corpus.statistics('full')['mean'],
        )
        return build_encoder(run.encoder, contract)

    def _stage(self, of: OfStage, settings: StageSettings) -> tuple[Stage, list[str]]:
        """(Stage with its trials, notes)."""
        stage, notes = self._resolved(of, settings)
        if settings.search.protocol == 'off':
            return stage, notes
        search, told = self._search(of, settings)
        return dataclasses.replace(stage, search=search), [*notes, told]

    def _resolved(self, of: OfStage, settings: StageSettings) -> tuple[Stage, list[str]]:
        run, name = self._settings.run, of.name
        if not settings.task.trains:
            settings = dataclasses.replace(settings, epochs=0)
        check_batch(f'stage.{name}.batch_size', settings.batch_size, self._devices)
        check_batch_fits(name, settings.batch_size, of.train, self._devices)
        facts = self._facts(of, settings)
        try:
            task, reasons = settings.task.resolve(facts)
        except UserError as error:
            raise UserError(f'Stage {name} (--config.stage.{name}.task): {error}') from None
        distillation = distillation_of(name, settings, of.before, task.frozen(facts))
        check_input(name, task.smallest_input, of.encoder)
        check_memory(name, task, self._devices)
        check_early_stop(name, settings.early_stop.by, task, facts)
        notes = [f'{k} = {getattr(task, k)} ({why})' for k, why in reasons.items() if why]
        if distillation:
            notes.append(f'distil = {distillation.kind} (keeps what {of.before} has left)')
        settings = dataclasses.replace(settings, task=task)
        content = content_of(self._settings.run, self._data.target, of, settings, distillation)
        stage = Stage(
            name=name,
            kind=kind_of(name),
            settings=settings,
            facts=facts,
            encoder=of.encoder,
            train=of.train,
            validation=of.validation,
            left_out=of.left_out,
            seed=run.seed,
            content=content,
            key=key_of(content),
            parent_key=of.parent,
            probed=of.probed,
            distillation=distillation,
            on_device=run.data.on_device,
        )
        return stage, notes

    def _facts(self, of: OfStage, settings: StageSettings) -> Facts:
        images, batch = of.train.images, settings.batch_size
        target = self._data.target if of.name == self._settings.readout else None
        return Facts(
            images=images,
            batch_size=batch,
            steps_per_epoch=images // batch,
            total_steps=settings.epochs * (images // batch),
            devices=self._devices,
            feature_width=of.encoder.feature_width,
            names=target.names if target else (),
            exclusive=target.exclusive if target else True,
            counts=target.balance(of.train.corpus) if target else (),
        )

    def _search(self, of: OfStage, settings: StageSettings) -> tuple[Search, str]:
        """(Search with a Stage for every candidate, a line that tells them)."""
        search, seed = settings.search, stage_seed(self._settings.run.seed, of.name)
        tried = candidates(settings, seed)
        winners = tuple(self._resolved(of, one)[0] for one in tried)
        if search.protocol != 'sampled':
            return Search(search, winners, winners), describe(settings, seed, None)
        chosen = of.train.corpus.fraction(search.fraction, seed, of.train.strata)
        labelled = of.name == self._settings.readout
        few = self._data.labelled(chosen) if labelled else Labelled(chosen)
        part = dataclasses.replace(of, train=few)
        short = [dataclasses.replace(one, epochs=search.epochs) for one in tried]
        trials = tuple(self._resolved(part, one)[0] for one in short)
        return Search(search, trials, winners), describe(settings, seed, few.images)
