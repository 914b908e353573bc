"""Loggers of a training run beside its own files: TensorBoard and Weights & Biases.

They get the values of metrics.jsonl and timing.jsonl at the same steps, from the first process, and
change nothing of the run.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from steps.command import UserError
from steps.command.machine import writing

if TYPE_CHECKING:
    from lightning.fabric.loggers.logger import Logger

_ID = "wandb_id"
"""File in a scratch folder with the id of the run at Weights & Biases."""


def open_loggers(
    names: Sequence[str], step: int, *, out: Path, scratch: Path, title: str, where: str
) -> list[Logger]:
    """Loggers of a run, to which a resumed run appends.

    TensorBoard's files are in ``<out>.tensorboard``, those of Weights & Biases in ``<out>.wandb``.

    Args:
        names: of ``training.loggers``.
        step: steps made before.
        out: the result of the run.
        scratch: folder that the run has until it ends.
        title: title of the run.
        where: the params file that errors name.

    Raises:
        UserError: Weights & Biases does not let this process in.
    """
    makers = {
        "tensorboard": partial(_tensorboard, _beside(out, "tensorboard"), step),
        "wandb": partial(_wandb, _beside(out, "wandb"), step, scratch / _ID, title, where),
    }
    return [makers[name]() for name in names]


def _beside(out: Path, name: str) -> Path:
    return out.with_name(f"{out.name}.{name}")


def _tensorboard(folder: Path, step: int) -> Logger:
    from lightning.fabric.loggers.tensorboard import TensorBoardLogger

    # What a killed run wrote after its checkpoint is hidden: the steps are made again.
    later = step + 1 if step else 0
    logger = TensorBoardLogger(folder, name="", version="", purge_step=later)
    with writing(folder):
        logger.experiment  # noqa: B018  # opens the file
    return logger


def _wandb(folder: Path, step: int, id_file: Path, title: str, where: str) -> Logger:
    from wandb.integration.lightning.fabric import WandbLogger

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # A run that starts again is a run of its own there; only a resumed one is the same.
        if step == 0 or not id_file.is_file():
            id_file.write_text(secrets.token_hex(6), encoding="utf-8")

    class Ended(WandbLogger):
        """Its run ends with the training's; the original leaves it open."""

        def finalize(self, status: str) -> None:
            super().finalize(status)
            self.experiment.finish()

    logger: Logger = Ended(
        project="pretext", name=title, save_dir=folder, id=id_file.read_text(encoding="utf-8")
    )
    try:
        logger.experiment  # type: ignore[attr-defined]  # noqa: B018  # logs in
    except Exception as error:  # wandb's own kinds, which are known only where it is installed
        raise UserError(
            f"{where}: training.loggers",
            f"wandb cannot start: {error}",
            remedy="run: wandb login; or set WANDB_MODE=offline; or leave it out",
        ) from error
    return logger
