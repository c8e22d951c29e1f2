"""Which device computes, and how precisely: decided once, by what the device can do, and reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from coverslip.errors import RequestError
from coverslip.extras import require

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Compute:
    """For provenance. `runtime`: the library that computed, and its version. `threads`: of one operation on a
    CPU, or with OpenVINO of one call; `batch`: tiles computed at once."""

    device: str
    runtime: str
    hardware: str
    precision: Precision
    threads: int
    batch: int
    torch: str
    timm: str


def choose_device(wanted: str = "auto") -> torch.device:
    """ "auto" is the first CUDA device, else the CPU; or "cpu", "cuda", "cuda:1".

    Raises RequestError for a device that is not here.
    """
    torch = require("torch")
    number = wanted.removeprefix("cuda").removeprefix(":")
    known = wanted in ("auto", "cpu", "cuda") or (wanted.startswith("cuda:") and number.isdecimal())
    if not known:
        raise RequestError(f"device {wanted}", "is not known", "say auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if wanted != "cpu" and torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and not count):
        return torch.device("cpu")
    index = int(number) if number.isdecimal() else 0
    if index >= count:
        raise RequestError(f"device {wanted}", f"is not here: {count} CUDA devices", "say auto or cpu")
    return torch.device("cuda", index)


def choose_precision(device: torch.device) -> Precision:
    """Half precision only where the hardware has units for it.

    bfloat16 from compute capability 8.0 (Ampere), float16 from 7.0 (Volta), float32 below and on every CPU,
    where bfloat16 without AMX is 2.5 to 3.6 times slower (measured with resnet18 to ViT-S).
    """
    if device.type != "cuda":
        return "float32"
    major, _ = require("torch").cuda.get_device_capability(device)
    return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"


def trains_in_bfloat16(device: torch.device) -> bool:
    """Whether a training step is faster in bfloat16: where the hardware multiplies it, half the time of
    float32
    (AVX-512 BF16, resnet10t at 128 px: 31 to 14 ms a tile)."""
    torch = require("torch")
    if device.type == "cuda":
        return choose_precision(device) == "bfloat16"
    return bool(torch.cpu._is_avx512_bf16_supported())


def describe(device: torch.device, precision: Precision, threads: int, batch: int) -> Compute:
    torch = require("torch")
    cuda = device.type == "cuda"
    hardware = torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability()
    return Compute(
        device=str(device),
        runtime=f"torch {torch.__version__}",
        hardware=hardware,
        precision=precision,
        threads=threads,
        batch=batch,
        torch=torch.__version__,
        timm=require("timm").__version__,
    )
