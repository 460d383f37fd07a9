import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import json, sys
import models.sam, segment_anything.modeling as modeling
heavy = [name for name in ("torchvision", "torch._dynamo") if name in sys.modules]
from segment_anything import SamPredictor, build_sam, sam_model_registry
try:
    from segment_anything import nonsense
    refused = False
except ImportError:
    refused = True
print(json.dumps({
    "heavy": heavy,
    "predictor": SamPredictor.__module__,
    "known": sorted(sam_model_registry),
    "default": build_sam is sam_model_registry["default"],
    "ours": modeling.Sam is models.sam.Sam,
    "refused": refused,
}))
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
    assert found["heavy"] == []


def test_the_package_still_hands_on_its_own_names(found):
    assert found["predictor"] == "segment_anything.predictor"
    assert found["known"] == ["default", "vit_b", "vit_h", "vit_l"]
    assert found["default"]
    assert found["ours"]


def test_a_name_that_it_does_not_have_is_an_import_error(found):
    assert found["refused"]
