"""Byte-pair encoding that is the same every time, and captions by place alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steps.command import UserError
from steps.data.text import END, START, Captions, fill, learn_tokenizer, read_tokenizer
from steps.params.text import Vocabulary
from tests.scenery import Scenery

SENTENCES = [
    f"a {size} {colour} {name} at the {place}"
    for size in ("small", "large")
    for colour in ("red", "green", "cyan")
    for name in ("star", "arrow")
    for place in ("upper left", "lower edge", "centre")
]


def _captions(data: Path, prompts: list[str] | None = None, seed: int = 0) -> Captions:
    return Captions(data, Vocabulary(size=300), 12, prompts, seed, "params/recipes/a/clip.yaml")


def test_learning_twice_gives_the_same_encoding() -> None:
    first, second = (learn_tokenizer(SENTENCES, 320, 16) for _ in range(2))
    assert first.digest == second.digest
    assert 300 < first.size <= 320, "merges are learnt, until every word is a token"
    assert learn_tokenizer(SENTENCES[:5], 320, 16).digest != first.digest


def test_an_encoding_that_was_saved_reads_the_same(tmp_path: Path) -> None:
    learnt = learn_tokenizer(SENTENCES, 320, 16)
    learnt.save(tmp_path / "tokenizer.json")
    read = read_tokenizer(tmp_path / "tokenizer.json", 16)
    assert read.digest == learnt.digest
    assert torch.equal(read(SENTENCES), learnt(SENTENCES))


def test_rows_are_start_tokens_end_zeros() -> None:
    tokenizer = learn_tokenizer(SENTENCES, 320, 10)
    short, long = tokenizer(["red star", " ".join(SENTENCES)])
    start, end = tokenizer.size - 2, tokenizer.size - 1
    assert short[0] == long[0] == start
    assert long[-1] == end, "a caption that is cut ends all the same"
    place = int(short.argmax())
    assert short[place] == end
    assert short[place + 1 :].tolist() == [0] * (9 - place)
    assert tokenizer.encoding.decode(short[1:place].tolist()) == " red star"


def test_case_and_spaces_make_no_difference_and_every_byte_can_be_encoded() -> None:
    tokenizer = learn_tokenizer(SENTENCES, 300, 40)
    assert torch.equal(tokenizer(["  Red\n star "]), tokenizer(["red star"]))
    (row,) = tokenizer(["qüζ 星 7!"])
    assert tokenizer.encoding.decode(row[1 : row.argmax()].tolist()) == " qüζ 星 7!"


def test_markers_spelt_out_in_a_caption_do_not_end_it() -> None:
    tokenizer = learn_tokenizer(SENTENCES, 320, 16)
    (row,) = tokenizer([f"red {END} {START} star"])
    assert (row == tokenizer.size - 1).sum() == 1
    assert (row == tokenizer.size - 2).sum() == 1


@pytest.mark.parametrize("content", ["{}", "no JSON", '{"version": "1.0"}'])
def test_a_file_that_is_no_tokenizer_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json: not readable as a tokenizer"):
        read_tokenizer(path, 16)


def test_an_encoding_without_markers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    learnt = learn_tokenizer(SENTENCES, 320, 16)
    path.write_text(learnt.encoding.to_str().replace(END, "<|other|>"))
    with pytest.raises(UserError, match=r"<\|endoftext\|> the id None"):
        read_tokenizer(path, 16)


def test_a_caption_depends_on_seed_epoch_and_image_alone(scenery: Scenery) -> None:
    data = scenery.images(train=6, captions=["one {index}", "two {index}", "three {index}"])
    captions, again = _captions(data), _captions(data)
    rows = {(e, i): captions(e, i) for e in range(20) for i in range(6)}
    backwards = {place: again(*place) for place in reversed(rows)}
    assert all(torch.equal(backwards[place], row) for place, row in rows.items())
    other = _captions(data, seed=1)
    assert any(not torch.equal(other(*place), row) for place, row in rows.items())
    for index in range(6):
        said = captions.tokenizer(captions.images.captions(index))
        met = torch.stack([rows[e, index] for e in range(20)]).unique(dim=0)
        assert torch.equal(met, said.unique(dim=0)), "in 20 epochs each caption comes"


def test_prompts_make_captions_of_labels(scenery: Scenery) -> None:
    captions = _captions(scenery.images(train=6), ["a photo of a {class}."])
    assert torch.equal(captions(0, 4), captions.tokenizer(["a photo of a class1."])[0])
    assert fill("the {class}!", "sports_car") == "the sports car!"


def test_a_set_without_captions_needs_prompts(scenery: Scenery) -> None:
    with pytest.raises(UserError, match="without captions") as caught:
        _captions(scenery.images(train=6))
    assert "method.prompts to params/recipes/a/clip.yaml" in str(caught.value)


def test_a_vocabulary_from_a_file(
    scenery: Scenery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt = learn_tokenizer(SENTENCES, 320, 12)
    learnt.save(tmp_path / "words.json")
    monkeypatch.setenv("PRETEXT_DATA", str(tmp_path))
    data = scenery.images(train=6, captions=["a red star"])
    captions = Captions(data, Vocabulary(file="words.json"), 12, None, 0, "")
    assert captions.tokenizer.digest == learnt.digest
    with pytest.raises(UserError, match=r"other\.json: no such file"):
        Captions(data, Vocabulary(file="other.json"), 12, None, 0, "")
