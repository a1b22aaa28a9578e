"""The devices that a model can be prepared for: their facts, with sources."""

from __future__ import annotations

from collections.abc import Mapping

from amp_export.hardware.target_facts import NumberFormat, Target, TensorRt
from amp_export.options import Opset, TargetName

GIB = 1 << 30
"""The unit vendors mean by GB of memory: nvidia-smi shows 81,559 MiB for an H100 80GB, 143,771 for an H200 141GB."""

GB_PER_SECOND = 1e9

_AMPERE = frozenset({NumberFormat.FLOAT16, NumberFormat.BFLOAT16, NumberFormat.INT8, NumberFormat.INT4})
_ADA_AND_HOPPER = _AMPERE | {NumberFormat.FLOAT8}
_BLACKWELL = _ADA_AND_HOPPER | {NumberFormat.FLOAT4}

# TensorRT's parser supports Attention since 10.14, and RotaryEmbedding and RMSNormalization since 10.15: pull requests
# 1043 and 1048 of github.com/onnx/onnx-tensorrt. Older versions need graphs of opset 20.
_JETPACK_6 = TensorRt("10.3", "JetPack 6.1 and 6.2", Opset.OPSET_20)
_JETPACK_7_OF_THOR = TensorRt("10.13", "JetPack 7.0 and 7.1", Opset.OPSET_20)
_JETPACK_7 = TensorRt("10.16", "JetPack 7.2", Opset.OPSET_23)
_SBSA_ON_JETPACK = TensorRt("11.4.1", "NVIDIA's SBSA package, on JetPack 7.2.2 and later", Opset.OPSET_23)
_INSTALLED = TensorRt(None, "your own installation, 10.15 or later", Opset.OPSET_23)

_CAPABILITY = "CUDA GPU Compute Capability, developer.nvidia.com/cuda-gpus"
_WIDTH = (
    "64 numbers of 16 bits are 128 bytes, which NVIDIA calls the most efficient multiple on an A100: Tensor Core "
    "Requirements, docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication; it names none for "
    "later GPUs"
)
_FORMATS = (
    "bfloat16, float8 and float4 by compute capability: Datatype and hardware support matrix, "
    "nvidia.github.io/TransformerEngine/support_matrix.html; int8: Support Matrix of TensorRT 8.4.3"
)
_FORMATS_OF_RTX = "Support Matrix of TensorRT-RTX 1.5, docs.nvidia.com/deeplearning/tensorrt-rtx"
_FORMATS_OF_SERVERS = f"{_FORMATS}; int4 weights: not confirmed, but they need no dedicated unit"
_FORMATS_OF_ORIN = (
    f"{_FORMATS}; int8 and int4, and neither float8 nor float4: Official Support Matrix of TensorRT Edge-LLM 0.11.1, "
    "nvidia.github.io/TensorRT-Edge-LLM"
)
_FORMATS_OF_THOR = (
    "float16, bfloat16, float8 and int8: TensorRT Release Properties of DRIVE OS 7.0.3, where Thor is 10.1, CUDA 12's "
    "number; float4: its data sheet DS-11945-001 1.5, as public repositories quote it; int4 weights: not confirmed"
)
_DATASHEETS = "as NVIDIA's TensorRT-LLM quotes it: tensorrt_llm/auto_parallel/cluster_info.py, version 0.17"
_JETPACK_7_SOURCE = (
    "JetPack 7.2: the package 10.16.2.10-1+cuda13.2, in the public logs of several of its users, and 10.16.2.10 in an "
    "NVIDIA engineer's report on Cosmos3-Edge of 2026-09-13, JetPack 7.2.1; NVIDIA's own list is not available"
)
_SBSA_SOURCE = (
    "11.4.1: Migrating TensorRT from 10.x to 11.x on Jetson/JetPack, docs.nvidia.com/deeplearning/tensorrt/11.4.1, "
    "which names Jetson AGX Orin and Jetson Thor, and neither Orin NX nor Orin Nano"
)
_TENSORRT_OF_ORIN = f"JetPack 6: docs.pytorch.org/TensorRT/getting_started/jetpack.html; {_JETPACK_7_SOURCE}"
_TENSORRT_OF_ORIN_AGX = f"{_TENSORRT_OF_ORIN}; {_SBSA_SOURCE}"
_TENSORRT_OF_THOR = (
    f"JetPack 7.1: developer.nvidia.com/embedded/jetpack/downloads/archive-7.1, by pull request 1050 of "
    f"github.com/NVIDIA/IsaacTeleop; {_JETPACK_7_SOURCE}; {_SBSA_SOURCE}"
)
_INSTALLED_SOURCE = "pull request 1048 of github.com/onnx/onnx-tensorrt, for the operators that came with 10.15"
_MEMORY_OF_ORIN = (
    "Technical Specifications, developer.nvidia.com/embedded/jetson-modules, as quoted by "
    "docs.ultralytics.com/guides/nvidia-jetson"
)


def _sources(*, memory: str, formats: str, tensorrt: str = _INSTALLED_SOURCE, bandwidth: str = "") -> dict[str, str]:
    return {
        "compute_capability": _CAPABILITY,
        "neuron_multiple": _WIDTH,
        "memory_bytes": memory,
        "is_unified": memory,
        "bandwidth": bandwidth or memory,
        "dtypes": formats,
        "tensorrt": tensorrt,
    }


TARGETS: Mapping[TargetName, Target] = {
    TargetName.CPU: Target(
        device="CPU",
        neuron_multiple=16,
        sources={"neuron_multiple": "16 numbers of 32 bits fill a cache line of 64 bytes, and one AVX-512 register"},
    ),
    TargetName.ORIN_NANO: Target(
        device="Jetson Orin Nano 8GB",
        compute_capability="8.7",
        memory_bytes=8 * GIB,
        is_unified=True,
        bandwidth=102 * GB_PER_SECOND,
        neuron_multiple=64,
        dtypes=_AMPERE,
        tensorrt=(_JETPACK_6, _JETPACK_7),
        sources=_sources(
            memory=_MEMORY_OF_ORIN,
            bandwidth=f"{_MEMORY_OF_ORIN}: in the power mode MAXN SUPER, from JetPack 6.2 on; 68 GB/s otherwise",
            formats=_FORMATS_OF_ORIN,
            tensorrt=_TENSORRT_OF_ORIN,
        ),
    ),
    TargetName.ORIN_NX: Target(
        device="Jetson Orin NX 16GB",
        compute_capability="8.7",
        memory_bytes=16 * GIB,
        is_unified=True,
        bandwidth=102.4 * GB_PER_SECOND,
        neuron_multiple=64,
        dtypes=_AMPERE,
        tensorrt=(_JETPACK_6, _JETPACK_7),
        sources=_sources(memory=_MEMORY_OF_ORIN, formats=_FORMATS_OF_ORIN, tensorrt=_TENSORRT_OF_ORIN),
    ),
    TargetName.ORIN_AGX: Target(
        device="Jetson AGX Orin 64GB",
        compute_capability="8.7",
        memory_bytes=64 * GIB,
        is_unified=True,
        bandwidth=204.8 * GB_PER_SECOND,
        neuron_multiple=64,
        dtypes=_AMPERE,
        tensorrt=(_JETPACK_6, _JETPACK_7, _SBSA_ON_JETPACK),
        sources=_sources(memory=_MEMORY_OF_ORIN, formats=_FORMATS_OF_ORIN, tensorrt=_TENSORRT_OF_ORIN_AGX),
    ),
    TargetName.THOR: Target(
        device="Jetson T5000 128GB",
        compute_capability="11.0",
        memory_bytes=128 * GIB,
        is_unified=True,
        bandwidth=273 * GB_PER_SECOND,
        neuron_multiple=64,
        dtypes=_BLACKWELL,
        tensorrt=(_JETPACK_7_OF_THOR, _JETPACK_7, _SBSA_ON_JETPACK),
        sources=_sources(
            memory="NVIDIA's Jetson Thor Series Modules Data Sheet DS-11945-001 1.5, page 3, as public repositories "
            "quote it; 256 bits at 4266 MHz, twice a cycle, are as much",
            formats=_FORMATS_OF_THOR,
            tensorrt=_TENSORRT_OF_THOR,
        ),
    ),
    TargetName.A100: Target(
        device="A100 80GB SXM",
        compute_capability="8.0",
        memory_bytes=80 * GIB,
        bandwidth=2039 * GB_PER_SECOND,
        neuron_multiple=64,
        dtypes=_AMPERE,
        tensorrt=(_INSTALLED,),
        sources=_sources(
            memory=f"NVIDIA's A100 datasheet 1758950-r4, {_DATASHEETS}",
            formats=_FORMATS_OF_SERVERS,
        ),
    ),
    TargetName.H100: Target(
        device="H100 80GB SXM",
        compute_capability="9.0",
        memory_bytes=80 * GIB,
        bandwidth=3350 * GB_PER_SECOND,
        neuron_multiple=64,
        dtypes=_ADA_AND_HOPPER,
        tensorrt=(_INSTALLED,),
        sources=_sources(
            memory=f"NVIDIA's H100 datasheet, {_DATASHEETS}",
            formats=_FORMATS_OF_SERVERS,
        ),
    ),
    TargetName.H200: Target(
        device="H200 141GB SXM",
        compute_capability="9.0",
        memory_bytes=141 * GIB,
        bandwidth=4800 * GB_PER_SECOND,
        neuron_multiple=64,
        dtypes=_ADA_AND_HOPPER,
        tensorrt=(_INSTALLED,),
        sources=_sources(
            memory=f"NVIDIA's H200 datasheet 3002446, {_DATASHEETS}; docs/source/blogs/H200launch.md says the same",
            formats=_FORMATS_OF_SERVERS,
        ),
    ),
    TargetName.L4: Target(
        device="L4 24GB",
        compute_capability="8.9",
        memory_bytes=24 * GIB,
        bandwidth=300 * GB_PER_SECOND,
        neuron_multiple=64,
        dtypes=_ADA_AND_HOPPER,
        tensorrt=(_INSTALLED,),
        sources=_sources(
            memory=f"NVIDIA's L4 datasheet 2595652, {_DATASHEETS}",
            formats=_FORMATS_OF_RTX,
        ),
    ),
    TargetName.RTX3090: Target(
        device="GeForce RTX 3090 24GB",
        compute_capability="8.6",
        memory_bytes=24 * GIB,
        bandwidth=936 * GB_PER_SECOND,
        neuron_multiple=64,
        dtypes=_AMPERE,
        tensorrt=(_INSTALLED,),
        sources=_sources(
            memory="NVIDIA Ampere GA102 GPU Architecture 2.0, Appendix A, Table 9, as public repositories quote it; "
            "384 bits of 19.5 Gb/s are as much",
            formats=_FORMATS_OF_RTX,
        ),
    ),
    TargetName.RTX4090: Target(
        device="GeForce RTX 4090 24GB",
        compute_capability="8.9",
        memory_bytes=24 * GIB,
        bandwidth=1008 * GB_PER_SECOND,
        neuron_multiple=64,
        dtypes=_ADA_AND_HOPPER,
        tensorrt=(_INSTALLED,),
        sources=_sources(
            memory="NVIDIA Ada GPU Architecture 2.02, Appendix A, Table 2, as public repositories quote it; 384 bits "
            "of 21 Gb/s are as much",
            formats=_FORMATS_OF_RTX,
        ),
    ),
    TargetName.RTX5090: Target(
        device="GeForce RTX 5090 32GB",
        compute_capability="12.0",
        memory_bytes=32 * GIB,
        bandwidth=1792 * GB_PER_SECOND,
        neuron_multiple=64,
        dtypes=_BLACKWELL,
        tensorrt=(_INSTALLED,),
        sources=_sources(
            memory="NVIDIA RTX Blackwell GPU Architecture, as libertify.com/interactive-library quotes it",
            formats=_FORMATS_OF_RTX,
        ),
    ),
}
