"""The official package, entered without its `__init__`: what that leaves out, and that it hands it on when asked."""

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

from segment_anything import SamPredictor, build_sam, sam_model_registry
found["predictor"] = SamPredictor.__module__
found["known"] = sorted(sam_model_registry)
found["default"] = build_sam is sam_model_registry["default"]
found["sam"] = modeling.Sam is models.sam.Sam
try:
    from segment_anything import nonsense
except ImportError:
    found["nonsense"] = "refused"
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


def test_segment_anything_still_hands_on_its_own_names(found):
    assert found["predictor"] == "segment_anything.predictor"
    assert found["known"] == ["default", "vit_b", "vit_h", "vit_l"]
    assert found["default"]
    assert found["sam"]


def test_a_name_that_it_does_not_have_is_an_import_error(found):
    assert found["nonsense"] == "refused"
