import pytest
import torch

from models.hardware import has_amx, has_bfloat16_unit


@pytest.mark.parametrize(
    ("machine", "has"),
    [
        ({"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, True),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, False),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "AMD EPYC"}, True),
        ({"avx512_bf16": False, "cpu_name": "AMD EPYC"}, False),
        ({}, False),
    ],
)
def test_bfloat16_is_taken_where_it_was_measured_to_pay(monkeypatch, machine, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: machine)
    has_bfloat16_unit.cache_clear()
    assert has_bfloat16_unit("cpu") is has
    assert has_amx() is bool(machine.get("amx_bf16"))
    has_bfloat16_unit.cache_clear()
