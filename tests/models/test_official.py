import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def python(code):
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_sam_is_built_without_torchvision_and_the_compiler():
    code = "import sys; import models.sam; print([n for n in ('torchvision', 'torch._dynamo') if n in sys.modules])"
    assert python(code) == "[]"


def test_the_package_still_hands_on_its_own_names():
    code = (
        "import models.sam, segment_anything.modeling as m\n"
        "from segment_anything import SamPredictor, build_sam, sam_model_registry\n"
        "assert build_sam is sam_model_registry['default']\n"
        "print(SamPredictor.__module__, sorted(sam_model_registry), m.Sam is models.sam.Sam)"
    )
    known = "['default', 'vit_b', 'vit_h', 'vit_l']"
    assert python(code) == f"segment_anything.predictor {known} True"


def test_a_name_that_it_does_not_have_is_an_import_error():
    code = (
        "import models.official\n"
        "try:\n    from segment_anything import nonsense\nexcept ImportError as error:\n    print('refused')"
    )
    assert python(code) == "refused"
