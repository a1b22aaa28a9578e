from __future__ import annotations

import pytest

from amp_export.benchmarking.setup import ON_CPU, choose_setup
from amp_export.errors import RequestError
from amp_export.options import BenchmarkDevice, Runtime
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
