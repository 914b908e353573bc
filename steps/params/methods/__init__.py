"""Params of each method: one file a method, all of them in the union that a recipe takes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from steps.params.methods.baselines import RandomParams, SupervisedParams
from steps.params.methods.beit import BEiTParams
from steps.params.methods.beit2 import BEiT2Params
from steps.params.methods.clip import CLIPParams
from steps.params.methods.dilemma import DILEMMAParams
from steps.params.methods.dino import DINOParams
from steps.params.methods.dinov2 import DINOv2Params
from steps.params.methods.droppos import DropPosParams
from steps.params.methods.ibot import IBOTParams
from steps.params.methods.mae import MAEParams
from steps.params.methods.mocov3 import MoCoV3Params
from steps.params.methods.mp3 import MP3Params
from steps.params.methods.simclr import SimCLRParams

MethodParams = Annotated[
    RandomParams
    | SupervisedParams
    | MAEParams
    | CLIPParams
    | DINOParams
    | IBOTParams
    | DINOv2Params
    | SimCLRParams
    | BEiTParams
    | BEiT2Params
    | DropPosParams
    | MP3Params
    | MoCoV3Params
    | DILEMMAParams,
    Field(discriminator="name"),
]

__all__ = [
    "BEiT2Params",
    "BEiTParams",
    "CLIPParams",
    "DILEMMAParams",
    "DINOParams",
    "DINOv2Params",
    "DropPosParams",
    "IBOTParams",
    "MAEParams",
    "MP3Params",
    "MethodParams",
    "MoCoV3Params",
    "RandomParams",
    "SimCLRParams",
    "SupervisedParams",
]
