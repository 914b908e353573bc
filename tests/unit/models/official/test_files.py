"""Opening a file runs nothing that stands in it."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steps.command import UserError
from steps.official.files import Shell, read_file, tensors_in


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("bare", [False, True], ids=["torch's format", "a bare pickle"])
def test_a_payload_is_refused_and_not_run(bare: bool, tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "official.pth"
    content = {"model": {"cls_token": torch.zeros(1)}, "args": Payload(mark)}
    if bare:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(UserError) as error:
        read_file(path)
    assert not mark.exists(), "the payload ran"
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: not readable as weights alone")
    assert bare or "a pickled posix.mkdir, which was not opened" in message
    assert "state_dict()" in message


def test_a_payload_among_the_arguments_of_a_training(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "official.pth"
    torch.save({"args": argparse.Namespace(hook=Payload(mark))}, path)
    with pytest.raises(UserError, match=r"posix\.mkdir"):
        read_file(path)
    assert not mark.exists()


def test_arguments_of_a_training_become_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "official.pth"
    arguments = argparse.Namespace(lr=0.1, out=Path("out"), best=torch.tensor(1.0).numpy()[()])
    torch.save({"weight": torch.ones(2), "args": arguments}, path)
    content = read_file(path)
    assert isinstance(content["args"], Shell)
    assert content["args"].lr == 0.1
    assert torch.equal(content["weight"], torch.ones(2))


def test_a_program_is_read_for_its_state_alone(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3)))
    torch.jit.script(module).save(tmp_path / "official.pt")
    content = read_file(tmp_path / "official.pt")
    assert isinstance(content, Shell)
    found = dict(tensors_in(content))
    assert found.keys() == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        assert torch.equal(found[name], tensor), name


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_file(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(UserError, match="not readable as weights alone"):
        read_file(tmp_path / "text.pth")
