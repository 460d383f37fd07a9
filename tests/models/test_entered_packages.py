"""Packages that are entered without their `__init__`: what they leave out, and that they hand it on when asked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import json, sys

def loaded(*names):
    return [name for name in names if name in sys.modules]

found = {}
import models.sam, segment_anything.modeling as modeling
found["with sam"] = loaded("torchvision", "torch._dynamo")
import models.vit
found["with vit"] = loaded("torch._dynamo", "sympy", "timm.models.resnet")

from segment_anything import SamPredictor, build_sam, sam_model_registry
found["predictor"] = SamPredictor.__module__
found["known"] = sorted(sam_model_registry)
found["default"] = build_sam is sam_model_registry["default"]
found["sam"] = modeling.Sam is models.sam.Sam
try:
    from segment_anything import nonsense
except ImportError:
    found["nonsense"] = "refused"

from timm.models.vision_transformer import VisionTransformer
backbone = models.vit.build_vit("vit_tiny_patch16_224", 2, side=64, objectness=False).backbone
found["vit"] = type(backbone) is VisionTransformer is models.vit.VisionTransformer
import timm, torch
from timm.data import create_transform
from torchvision.ops import roi_align
found["others"] = timm.is_model("resnet18") and timm.models.ResNet.__name__
found["transform"] = create_transform.__module__
found["pooled"] = roi_align(torch.ones(1, 1, 8, 8), [torch.tensor([[1.0, 1, 5, 5]])], (2, 2)).flatten().tolist()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    """What a process finds that has imported nothing before."""
    result = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_sam_is_built_without_torchvision_and_the_compiler(found):
    assert found["with sam"] == []


def test_a_vit_is_imported_without_the_compiler_and_other_architectures(found):
    assert found["with vit"] == []


def test_segment_anything_still_hands_on_its_own_names(found):
    assert found["predictor"] == "segment_anything.predictor"
    assert found["known"] == ["default", "vit_b", "vit_h", "vit_l"]
    assert found["default"]
    assert found["sam"]


def test_a_name_that_it_does_not_have_is_an_import_error(found):
    assert found["nonsense"] == "refused"


def test_timm_and_torchvision_still_hand_on_what_they_have(found):
    assert found["vit"]
    assert found["others"] == "ResNet"
    assert found["transform"].startswith("timm.data.")
    assert found["pooled"] == [1, 1, 1, 1]
