"""Train a detector and measure it: mmengine's runner without its chatter."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

import mmdet.models  # noqa: F401 (registers the detector's parts by name)
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.dist import init_dist
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn

from steps.artifacts.decisions import Decisions
from steps.command import UserError
from steps.core.seeds import seeded
from steps.data.annotations import class_names, has_masks
from steps.data.loader import Loader
from steps.detection import config
from steps.detection.backbone import (
    ResNetMaps,
    ViTDet,
    load_resnet_maps,
    load_vitdet,
    pretraining_normalisation,
)
from steps.detection.heads import Config
from steps.detection.hooks import CHECKPOINT, Finite, Progress, SaveEpoch, SeedEpoch
from steps.detection.optimizer import adamw
from steps.engine.checkpoint import read_checkpoint
from steps.evaluation.precision import metrics_of
from steps.models.backbones import holds_resnet
from steps.params.detection import Detection

# mmengine keeps loggers, message hubs and visualizers by the run's name and the second of its
# start: two runs of one process in one second would share them, and the folder of the first.
_RUNS = count()


@dataclass(frozen=True)
class Outcome:
    """Result of a run."""

    metrics: dict[str, float]
    """COCO's numbers in percent, by name."""
    decisions: Decisions | None
    """The detections that they follow from; in the main process."""
    model: nn.Module
    facts: dict[str, Any]
    """Counts of images and boxes, the loss of each epoch, where the run was resumed."""
    main_process: bool


class QuietRunner(Runner):  # type: ignore[misc]
    """mmengine's runner, less the survey of the machine and the copy of its configuration.

    The manifest of the record file holds both.
    """

    parts: Config
    """Config that the run was built from, as JSON."""

    def load_or_resume(self) -> None:
        """Go on after the last whole epoch; nothing else is ever loaded.

        Raises:
            UserError: the checkpoint is unreadable or damaged.
        """
        path = Path(self.work_dir) / CHECKPOINT
        if not path.is_file():
            return
        saved = read_checkpoint(path)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        model.load_state_dict(saved["model"])
        self.optim_wrapper.load_state_dict(saved["optimizer"])
        for schedule, state in zip(self.param_schedulers, saved["schedules"], strict=True):
            schedule.load_state_dict(state)
        self.train_loop._epoch, self.train_loop._iter = saved["epoch"], saved["iterations"]
        self.message_hub.update_info("epoch_losses", saved["epoch_losses"])

    @staticmethod
    def build_dataloader(*arguments: Any, **options: Any) -> Loader[Any]:
        """mmengine's loader, in our class."""
        loader = Runner.build_dataloader(*arguments, **options)
        loader.__class__ = Loader
        return cast(Loader[Any], loader)

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        pass

    def dump_config(self) -> None:
        """Write nothing."""


def train_and_evaluate(
    params: Detection,
    *,
    backbone: Path,
    data: Path,
    seed: int,
    scratch: Path,
    mark: Callable[[int], None] | None = None,
) -> Outcome:
    """Train a detector on the train split and measure it on the val split.

    Continues from the last whole epoch in ``scratch``, and ends with the same weights as a run
    that was never stopped.

    Args:
        params: the protocol.
        backbone: the backbone artifact.
        data: the prepared detection dataset.
        seed: of all that is random.
        scratch: folder for checkpoints.
        mark: called after each, with the iterations made.

    Raises:
        UserError: the dataset or the backbone does not fit the protocol.
    """
    runner, progress = build_runner(
        params, backbone=backbone, data=data, seed=seed, scratch=scratch, mark=mark
    )
    last = scratch / CHECKPOINT
    resumed = last.is_file()
    with warnings.catch_warnings():
        # Deprecations inside mmcv, mmdet and torch: nothing that a user could act upon.
        for category in (UserWarning, FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        runner.train()
        metrics = progress.metrics if progress.metrics is not None else runner.val()
    dataset = runner.train_dataloader.dataset
    facts = {
        "train_images": len(dataset),
        "train_images_left_out": dataset.images_dropped,
        "train_boxes": dataset.boxes,
        "train_boxes_left_out": dataset.boxes_dropped,
        "epoch_losses": runner.message_hub.get_info("epoch_losses"),
        "iterations": runner.max_iters,
        "masks": dataset.masks,
        "metrics_without_ground_truth": [
            name for name in metrics_of(dataset.masks) if name not in metrics
        ],
        "resumed": resumed,
        "mmengine": runner.parts,
    }
    model = runner.model.module if hasattr(runner.model, "module") else runner.model
    decisions = runner.val_evaluator.metrics[0].decisions
    return Outcome(metrics, decisions, cast(nn.Module, model), facts, runner.rank == 0)


def build_runner(
    params: Detection,
    *,
    backbone: Path,
    data: Path,
    seed: int,
    scratch: Path,
    mark: Callable[[int], None] | None = None,
) -> tuple[QuietRunner, Progress]:
    """The runner of :func:`train_and_evaluate`, which has the arguments' meanings."""
    # Made before mmengine makes it: it logs each parameter that it initialises.
    MMLogger.get_instance("mmengine", logger_name="mmengine", log_level="ERROR")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if params.batch_size % processes:
        raise UserError(
            "detection protocol: batch_size",
            f"{params.batch_size}",
            allowed=f"a multiple of {processes}, the number of processes",
        )
    # Not torch.use_deterministic_algorithms: the backward passes of RoIAlign and of resized biases
    # (BEiT's) have no deterministic kernel on a GPU, where two runs differ in their last bits.
    torch.backends.cudnn.deterministic = True
    if processes > 1:
        if not torch.cuda.is_available():
            raise UserError(
                "WORLD_SIZE",
                f"{processes} processes on a machine without GPUs",
                remedy="run the step in a single process",
            )
        init_dist("pytorch", backend="nccl")
    masks = with_masks(params, data)
    parts = _parts(params, backbone, len(class_names(data)), masks)
    model = _build(parts, seed)
    depth = cast(ViTDet | ResNetMaps, model.backbone).depth
    train, val = config.dataloaders(params, data, seed, processes, masks)
    wrapper = AmpOptimWrapper if params.precision == "fp16" else OptimWrapper
    clip = params.optimizer.clip_grad
    loader = QuietRunner.build_dataloader(train, seed=seed)
    schedulers = config.schedulers(params.optimizer, params.epochs * len(loader))
    progress = Progress()
    runner = QuietRunner(
        model=model,
        work_dir=str(scratch),
        train_dataloader=loader,
        val_dataloader=val,
        train_cfg={
            "by_epoch": True,
            "max_epochs": params.epochs,
            "val_interval": params.eval_epochs or params.epochs,
        },
        val_cfg={},
        val_evaluator=config.evaluator(data, masks),
        optim_wrapper=wrapper(
            adamw(model, depth, params.optimizer),
            clip_grad=None if clip is None else {"max_norm": clip},
        ),
        param_scheduler=schedulers,
        default_hooks={"timer": None, "logger": None, "checkpoint": None},
        custom_hooks=[
            SeedEpoch(),
            Finite(),
            progress,
            SaveEpoch(mark),
        ],
        launcher="pytorch" if processes > 1 else "none",
        cfg={"sync_bn": "torch"},
        log_level="ERROR",
        default_scope="mmengine",
        randomness={"seed": seed},
        experiment_name=f"detect_{next(_RUNS)}",
    )
    runner.parts = config.described(
        {
            "model": parts,
            "train_dataloader": train,
            "val_dataloader": val,
            "param_scheduler": schedulers,
        }
    )
    return runner, progress


def build_detector(
    params: Detection,
    *,
    backbone: Path,
    classes: int,
    seed: int,
    masks: bool = True,
) -> nn.Module:
    """A detector with a pretrained backbone and all else initialised from ``seed``."""
    return _build(_parts(params, backbone, classes, masks), seed)


def with_masks(params: Detection, data: Path) -> bool:
    """True if a detector of this dataset has a mask head.

    Raises:
        UserError: the protocol wants one, and the dataset has only boxes.
    """
    there = has_masks(data)
    if params.masks is True and not there:
        raise UserError(
            "detection protocol: masks",
            f"true, and {data} is a set of boxes alone",
            allowed="auto or false",
            remedy="take one of these: a detector without mask head, measured by box AP",
        )
    return there if params.masks == "auto" else params.masks


def _parts(params: Detection, backbone: Path, classes: int, masks: bool) -> Config:
    mean, std = pretraining_normalisation(backbone)
    trunk = _trunk(params, backbone)
    return config.detector(params, trunk, mean=mean, std=std, classes=classes, masks=masks)


def _build(parts: Config, seed: int) -> nn.Module:
    # In mmdet's scope only while building: in it, a hook's name would import all of mmdet's
    # datasets, which takes seconds.
    with seeded(seed, "detect", "init"), DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(ConfigDict(parts))
        model.init_weights()
    return cast(nn.Module, model)


def _trunk(params: Detection, backbone: Path) -> ViTDet | ResNetMaps:
    """The pretrained backbone as a detector takes it."""
    if holds_resnet(backbone):
        return load_resnet_maps(
            backbone,
            params.pyramid.strides,
            drop_path=params.backbone.drop_path,
            checkpoint_activations=params.backbone.checkpoint_activations,
            frozen=params.backbone.frozen,
        )
    pyramid = params.pyramid
    return load_vitdet(
        backbone,
        image_size=params.image_size,
        square=params.short_side is None,
        maps=1 if pyramid.kind == "simple" else len(pyramid.strides) - 1,
        outputs=pyramid.blocks,
        **params.backbone.model_dump(),
    )
