"""Params and data of the size of seconds, written where a test asks."""

from __future__ import annotations

import copy
import io
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from steps.artifacts import publish
from steps.data.shards import ShardWriter
from tests.processes import command, environment

RECIPES: dict[str, dict[str, Any]] = {
    file.stem: yaml.safe_load(file.read_text())
    for file in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
}
"""Every method at the size of seconds: what resuming and several processes are tested with."""
TRAINED = [name for name, recipe in RECIPES.items() if "training" in recipe]
TOKENIZERS: dict[str, dict[str, Any]] = {
    file.stem: yaml.safe_load(file.read_text())
    for file in sorted((Path(__file__).parent / "tokenizers").glob("*.yaml"))
}
"""Every tokenizer at the size of seconds, tested likewise."""
RUNS = [*TRAINED, *(f"tokenizer-{name}" for name in TOKENIZERS)]
"""Everything that is trained, as ``Scenery.training`` takes it."""
BACKBONE: dict[str, Any] = {
    "scale": "ViT-Test",
    "architecture": "vit_tiny_patch16_224",
    "image_size": 32,
    "patch_size": 8,
    "model_args": {"embed_dim": 24, "depth": 2, "num_heads": 2},
}
RESNET: dict[str, Any] = {
    "scale": "ResNet-Test",
    "architecture": "resnet18_small_stem",
    "image_size": 32,
    "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]},
}


class Scenery:
    """A folder with ``params/`` and ``results/data/``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.params = root / "params"
        self.backbone_name = "vit_test"
        for name, recipe in RECIPES.items():
            self.write(f"recipes/test/{name}.yaml", recipe)
        for name, tokenizer in TOKENIZERS.items():
            self.write(f"tokenizers/test/{name}.yaml", tokenizer)
        self.write("backbones/vit_test.yaml", BACKBONE)
        self.write("backbones/resnet_test.yaml", RESNET)

    def write(self, name: str, content: Any) -> Path:
        """Write a params file."""
        path = self.params / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def recipe(self, name: str, **training: Any) -> Path:
        """The file of a recipe, after changes to its training params."""
        recipe = copy.deepcopy(RECIPES[name])
        if training:
            recipe["training"].update(training)
        return self.write(f"recipes/test/{name}.yaml", recipe)

    def tokenizer(self, name: str, **training: Any) -> Path:
        """The file of a tokenizer, after changes to its training params."""
        recipe = copy.deepcopy(TOKENIZERS[name])
        recipe["training"].update(training)
        return self.write(f"tokenizers/test/{name}.yaml", recipe)

    @property
    def backbone(self) -> Path:
        """Of all commands: a vision transformer, or the backbone that a test has chosen."""
        return self.params / f"backbones/{self.backbone_name}.yaml"

    def images(
        self,
        train: int = 48,
        val: int = 16,
        classes: int = 3,
        size: int = 32,
        captions: Sequence[str] = (),
    ) -> Path:
        """A prepared classification set of noise whose mean colour tells the class.

        Each image has as many captions as are given, with {class} and {index} filled in.
        """
        out = self.root / "results/data/noise"
        dataset = self.write("datasets/noise.yaml", {"format": "folder", "train": "t", "val": "v"})
        counts = {"train": train, "val": val}
        with publish(out, node="prepare", params={"file": dataset.name}, inputs={}) as draft:
            for split, count in counts.items():
                rng = np.random.default_rng(count)
                with ShardWriter(
                    draft.path / f"{split}.arrow", labels=True, captions=bool(captions)
                ) as writer:
                    for index in range(count):
                        label = index % classes
                        pixels = rng.normal(60 + 120 * label / classes, 40, (size, size, 3))
                        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                        words = {"class": f"class{label}", "index": index}
                        said = [caption.format(**words) for caption in captions]
                        writer.add(f"{split}/{index}", _png(image), size, size, label, said)
            draft.facts.update(
                dataset="noise",
                kind="classification",
                classes=[f"class{index}" for index in range(classes)],
                splits={name: {"images": count} for name, count in counts.items()},
                mean=[0.5, 0.5, 0.5],
                std=[0.25, 0.25, 0.25],
                problems=[],
                problem_share=0.0,
            )
        return out

    def pretrain_arguments(self, recipe: Path, data: Path, out: Path, seed: int = 0) -> list[str]:
        """Arguments of ``steps.pretrain``. Teacher or tokenizer are made first, at their size."""
        return [
            *("--recipe", str(recipe), "--backbone", str(self.backbone)),
            *("--data", str(data), *self._behind(recipe, data)),
            *("--seed", str(seed), "--out", str(out)),
        ]

    def tokenizer_arguments(self, tokenizer: Path, data: Path, out: Path) -> list[str]:
        """Arguments of ``steps.tokenizer``. Its teacher is made first."""
        return [
            *("--tokenizer", str(tokenizer)),
            *("--data", str(data), *self._behind(tokenizer, data)),
            *("--seed", "0", "--out", str(out)),
        ]

    def training(self, name: str, data: Path, out: Path, **training: Any) -> tuple[str, list[str]]:
        """The step and the arguments that train one of ``TRAINED`` or ``TOKENIZERS``.

        Args:
            name: a recipe's, or "tokenizer-" and a tokenizer's.
            data: a prepared set.
            out: where the artifact goes.
            training: changes to its training params.
        """
        if name in RECIPES:
            return "pretrain", self.pretrain_arguments(self.recipe(name, **training), data, out)
        path = self.tokenizer(name.removeprefix("tokenizer-"), **training)
        return "tokenizer", self.tokenizer_arguments(path, data, out)

    def _behind(self, params: Path, data: Path) -> list[str]:
        """Options that give what the params name, made here if it is not there yet."""
        content, made = yaml.safe_load(params.read_text()), self.root / "behind"
        options = []
        if teacher := content.get("teacher"):
            out = made / teacher["recipe"]
            recipe = self.params / f"recipes/test/{teacher['recipe']}.yaml"
            if not out.exists():
                _run(self.root, "pretrain", self.pretrain_arguments(recipe, data, out))
            options += ["--teacher", str(out)]
        if tokenizer := content.get("tokenizer") if "method" in content else None:
            out = made / f"tokenizer-{tokenizer}"
            path = self.params / f"tokenizers/test/{tokenizer}.yaml"
            if not out.exists():
                _run(self.root, "tokenizer", self.tokenizer_arguments(path, data, out))
            options += ["--tokenizer", str(out)]
        return options

    def remove(self, *names: str) -> None:
        """Remove folders below the root."""
        for name in names:
            shutil.rmtree(self.root / name, ignore_errors=True)


def _run(root: Path, node: str, arguments: list[str]) -> None:
    done = subprocess.run(
        command(f"steps.{node}", *arguments),
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
