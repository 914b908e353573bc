"""Params and data of the size of seconds, written where a test asks."""

from __future__ import annotations

import copy
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from steps.artifacts import publish
from steps.data.shards import ShardWriter

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
BACKBONE: dict[str, Any] = {
    "scale": "ViT-Test",
    "architecture": "vit_tiny_patch16_224",
    "image_size": 32,
    "patch_size": 8,
    "model_args": {"embed_dim": 24, "depth": 2, "num_heads": 2},
}


class Scenery:
    """A folder with ``params/`` and ``results/data/``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.params = root / "params"
        for name, recipe in RECIPES.items():
            self.write(f"recipes/test/{name}.yaml", recipe)
        for name, tokenizer in TOKENIZERS.items():
            self.write(f"tokenizers/test/{name}.yaml", tokenizer)
        self.write("backbones/vit_test.yaml", BACKBONE)

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
        return self.params / "backbones/vit_test.yaml"

    def images(self, train: int = 48, val: int = 16, classes: int = 3, size: int = 32) -> Path:
        """A prepared classification set of noise whose mean colour tells the class."""
        out = self.root / "results/data/noise"
        dataset = self.write("datasets/noise.yaml", {"format": "folder", "train": "t", "val": "v"})
        counts = {"train": train, "val": val}
        with publish(out, node="prepare", params={"file": dataset.name}, inputs={}) as draft:
            for split, count in counts.items():
                rng = np.random.default_rng(count)
                with ShardWriter(
                    draft.path / f"{split}.arrow", labels=True, captions=False
                ) as writer:
                    for index in range(count):
                        label = index % classes
                        pixels = rng.normal(60 + 120 * label / classes, 40, (size, size, 3))
                        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                        writer.add(f"{split}/{index}", _png(image), size, size, label=label)
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
        """Arguments of ``steps.pretrain``."""
        return [
            *("--recipe", str(recipe), "--backbone", str(self.backbone)),
            *("--data", str(data), "--seed", str(seed), "--out", str(out)),
        ]

    def remove(self, *names: str) -> None:
        """Remove folders below the root."""
        for name in names:
            shutil.rmtree(self.root / name, ignore_errors=True)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
