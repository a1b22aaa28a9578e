from __future__ import annotations

import pytest

from amp_export.benchmarking.setup import CAPTURING, ON_CPU, choose_setup
from amp_export.errors import RequestError
from amp_export.options import BenchmarkDevice, Provider, Runtime
from amp_export.verb_options import BenchmarkOptions


@pytest.mark.parametrize("runtime", Runtime)
def test_a_gpu_is_for_runtimes_that_run_on_one(runtime: Runtime) -> None:
    options = BenchmarkOptions(runtime=runtime, device=BenchmarkDevice.CUDA)
    if runtime in ON_CPU:
        with pytest.raises(RequestError, match=f"--runtime {runtime} runs on the CPU here"):
            choose_setup(options)
    else:
        assert choose_setup(options).on_gpu
    assert not choose_setup(BenchmarkOptions(runtime=Runtime.LLAMA_CPP)).on_gpu


@pytest.mark.parametrize("runtime", Runtime)
def test_a_cuda_graph_is_for_runtimes_that_can_capture_one(runtime: Runtime) -> None:
    options = BenchmarkOptions(runtime=runtime, device=BenchmarkDevice.CUDA, cuda_graph=True)
    if runtime in CAPTURING:
        setup = choose_setup(options)
        assert setup.cuda_graph
        assert setup.name == f"{runtime}-cuda-graph"
    else:
        with pytest.raises(RequestError, match=r"--cuda-graph is for|runs on the CPU here"):
            choose_setup(options)


@pytest.mark.parametrize("runtime", CAPTURING)
def test_a_cuda_graph_needs_a_gpu(runtime: Runtime) -> None:
    with pytest.raises(RequestError, match=r"this benchmark runs on the CPU.\nAdd --device cuda"):
        choose_setup(BenchmarkOptions(runtime=runtime, cuda_graph=True))


def test_a_cuda_graph_is_captured_by_the_provider_cuda() -> None:
    assert choose_setup(BenchmarkOptions(provider=Provider.CUDA, cuda_graph=True)).cuda_graph
    with pytest.raises(RequestError, match="for the execution provider cuda, and --provider tensorrt was given"):
        choose_setup(BenchmarkOptions(provider=Provider.TENSORRT, cuda_graph=True))
