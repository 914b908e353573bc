"""Captions as token ids: their byte-pair encoding, and which one an image has in an epoch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

# Before the library starts its threads: loader processes are forked after it has been used.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
import torch
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from steps.artifacts import read_manifest
from steps.artifacts.manifest import digest_value
from steps.command import UserError
from steps.core.seeds import derive
from steps.data.shards import Images
from steps.data.sources.source import existing_file
from steps.params.text import Vocabulary

TOKENIZER = "tokenizer.json"
"""The encoding's file in a backbone artifact."""
START, END = "<|startoftext|>", "<|endoftext|>"


class TextTokenizer:
    """Sentences to rows of token ids.

    Args:
        encoding: knows START and END; END has the largest id of all, by which the text tower finds
            it.
        context_length: tokens of a row.
        where: for the error.

    Raises:
        UserError: the encoding has no such two tokens.
    """

    def __init__(self, encoding: tokenizers.Tokenizer, context_length: int, where: str) -> None:
        self.encoding = encoding
        self.context_length = context_length
        self.size: int = encoding.get_vocab_size()
        """Number of tokens."""
        start, end = encoding.token_to_id(START), encoding.token_to_id(END)
        if start is None or end != self.size - 1:
            raise UserError(
                where,
                f"{START} has the id {start} and {END} the id {end} of {self.size}",
                allowed=f"both there, and {END} the last",
                remedy="take an encoding in CLIP's form, or learn one (vocabulary.size)",
            )
        self._start: int = start
        self._end: int = end

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Start, tokens, end, zeros: (N, context_length) int64. What is too long is cut."""
        rows = torch.zeros(len(sentences), self.context_length, dtype=torch.int64)
        found = self.encoding.encode_batch(list(sentences), add_special_tokens=False)
        for row, encoded in zip(rows, found, strict=True):
            # A caption that spells out a marker must not end early.
            tokens = [token for token in encoded.ids if token not in (self._start, self._end)]
            tokens = [self._start, *tokens[: self.context_length - 2], self._end]
            row[: len(tokens)] = torch.tensor(tokens)
        return rows

    @property
    def digest(self) -> str:
        """SHA-256 of the encoding."""
        return digest_value(self.encoding.to_str())

    def save(self, path: Path) -> None:
        """Write the encoding as ``read_tokenizer`` reads it."""
        path.write_text(self.encoding.to_str(pretty=True) + "\n", encoding="utf-8")


def learn_tokenizer(sentences: Iterable[str], size: int, context_length: int) -> TextTokenizer:
    """Learn a byte-pair encoding (arXiv:1508.07909) over bytes, of lower-cased text.

    The same sentences in the same order give the same encoding. As all 256 bytes are in it, there
    is nothing that it cannot encode.

    Args:
        sentences: to count pairs in.
        size: the most tokens; fewer if every word is a token before.
        context_length: tokens of a row.
    """
    encoding = tokenizers.Tokenizer(models.BPE())
    encoding.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Lowercase(),
        ]
    )
    encoding.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    encoding.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    encoding.train_from_iterator(sentences, trainer)
    encoding.add_special_tokens([START, END])
    return TextTokenizer(encoding, context_length, "the learnt encoding")


def read_tokenizer(path: Path, context_length: int) -> TextTokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        UserError: it is not one, or lacks the tokens that mark start and end.
    """
    try:
        encoding = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises Exception itself
        raise UserError(
            str(path), f"not readable as a tokenizer ({error})", allowed="a tokenizer.json"
        ) from error
    return TextTokenizer(encoding, context_length, str(path))


class Captions:
    """A caption of a training image, which only depends on (epoch, index) and the seed.

    Args:
        dataset: a prepared set.
        vocabulary: how captions are encoded.
        context_length: tokens of a row.
        prompts: sentences with ``{class}`` to make captions of labels; None: the set's own.
        seed: chooses among an image's captions.
        where: the params file that errors name.

    Raises:
        UserError: the set has no captions, or no labels to prompt with.
    """

    def __init__(
        self,
        dataset: Path,
        vocabulary: Vocabulary,
        context_length: int,
        prompts: Sequence[str] | None,
        seed: int,
        where: str,
    ) -> None:
        self.images = Images(dataset, "train")
        self.seed = seed
        self._prompted: list[list[str]] | None = None
        if prompts is not None:
            if not self.images.has_labels:
                raise UserError(
                    f"{where}: method.prompts",
                    f"{dataset} has no labels to make captions of",
                    remedy="leave prompts out, so that the set's own captions are taken",
                )
            classes = read_manifest(dataset, "prepare").facts["classes"]
            self._prompted = [[fill(prompt, name) for prompt in prompts] for name in classes]
        elif not self.images.has_captions:
            raise UserError(
                str(dataset),
                "a set without captions",
                allowed="captions, or labels and method.prompts",
                remedy=f"add method.prompts to {where}, such as 'a photo of a {{class}}'",
            )
        if vocabulary.file is not None:
            path = existing_file(vocabulary.file, "a tokenizer.json")
            self.tokenizer = read_tokenizer(path, context_length)
        else:
            assert vocabulary.size is not None
            self.tokenizer = learn_tokenizer(self._all(), vocabulary.size, context_length)

    def __call__(self, epoch: int, index: int) -> Tensor:
        """Token ids (context_length,) of one of the image's captions, each as likely."""
        choices = (
            self._prompted[int(self.images.labels[index])]
            if self._prompted is not None
            else self.images.captions(index)
        )
        chosen = derive(self.seed, "caption", epoch, index) % len(choices)
        return self.tokenizer([choices[chosen]])[0]

    def _all(self) -> Iterator[str]:
        """Every caption that training can meet, in order."""
        for captions in self._prompted or self.images.all_captions():
            yield from captions


def fill(prompt: str, name: str) -> str:
    """A prompt with the name of a class, as words, in the place of ``{class}``."""
    return prompt.replace("{class}", name.replace("_", " "))
