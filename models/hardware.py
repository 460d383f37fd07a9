"""What arithmetic a machine is quick at."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=2)
def has_bfloat16_unit(device: str) -> bool:
    """Whether matrix products in bfloat16 are several times as quick as in float32 there.

    Of CPUs those with AMX, and AMD's with AVX512-BF16, where it was measured at three times the rate of float32; on
    an Intel one that had it without AMX, at half that rate; on an AMD with no more than AVX2, at a seventieth.
    """
    import torch  # seconds, which a plan with nothing to do need not take

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities()
    of_amd = str(has.get("cpu_name", "")).startswith("AMD")
    return has_amx() or bool(of_amd and has.get("avx512_bf16"))


def device_name(device: str) -> str:
    """The model of the GPU or CPU that a torch device is, such as "NVIDIA H200"; "CPU" where torch does not know it."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return str(torch.cpu.get_capabilities().get("cpu_name") or "CPU")


def has_amx() -> bool:
    """Whether the CPU multiplies matrices of bfloat16 so fast that anything else is dear: a tile at a time."""
    import torch

    return bool(torch.cpu.get_capabilities().get("amx_bf16"))
