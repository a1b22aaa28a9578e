"""Graphs on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import ModelError, RequestError, UnsupportedModelError
from amp_export.exporters.files import exported_files
from amp_export.exporters.models.caches import WRITE_INDICES
from amp_export.exporters.models.session import Port, Session
from amp_export.exporters.onnx.builder.products import ACCURACY_LEVEL, EXACT_LEVEL
from amp_export.exporters.onnx.descriptions import read_context, read_operators, read_quantization
from amp_export.exporters.onnx.fixed_calls import CANNOT_CAPTURE, CAPTURING, NOT_CAPTURED, OnnxFixedCall, run_options
from amp_export.exporters.onnx.values import empty_value, to_float32, to_value, zero_value
from amp_export.extras import require_extra
from amp_export.options import Format, Operators

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

    from amp_export.exporters.models.session import Floats
    from amp_export.options import Dtype


CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"

ACCURACY_CONFIG = "session.qdq_matmulnbits_accuracy_level"
"""Session option for graphs whose weights are quantized by the standard's operators.
Source: onnxruntime_session_options_config_keys.h."""

_WEIGHTS_FOLDER_CONFIG = "session.model_external_initializers_file_folder_path"
"""Session option for a graph in memory: the folder of its data file."""

_ERRORS = 3
"""The severity to log from: ONNX Runtime 1.32 warns of every initializer that may be overridden, also of ours."""

PROVIDER_OPTIONS: Mapping[str, Mapping[str, str]] = {CUDA_PROVIDER: {"use_tf32": "0"}}
"""Options of execution providers. TF32 would round the mantissas of float32 to 10 bits: on an H200, a correct graph
failed parity by a hundred times the tolerance with it, and held without it."""


def require_runtime() -> None:
    """Import ONNX Runtime, so that it fails early if it is not installed.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    require_extra("onnxruntime", "onnxruntime", needed_for="Running an ONNX graph")


def exported_graphs(folder: Path) -> tuple[Path, ...]:
    """Return the graphs in a folder: see `exported_files`."""
    return exported_files(folder, Format.ONNX)


def check_providers(providers: Sequence[str]) -> None:
    """Check that the installed onnxruntime has these execution providers.

    Raises:
        RequestError: A provider is missing.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if missing := [provider for provider in providers if provider not in available]:
        raise RequestError(
            f"The installed onnxruntime has no {', '.join(missing)}.\nAvailable: {', '.join(available)}."
        )


def load_graph(
    graph: Path,
    *,
    threads: int,
    providers: Sequence[str] = (CPU_PROVIDER,),
    exact: bool = False,
    cuda_graph: bool = False,
) -> InferenceSession:
    """Load one graph.

    Args:
        graph: File of the graph.
        threads: Number of intra-op threads.
        providers: Execution providers of ONNX Runtime, in order of preference.
        exact: Whether products with quantized weights take activations as they are, instead of rounding them.
        cuda_graph: Whether the CUDA execution provider captures calls as CUDA graphs.

    Raises:
        ModelError: The graph is damaged.
        RequestError: The installed onnxruntime lacks a provider, could not start it, or cannot capture the graph.
        UnsupportedModelError: The providers do not support an operator in the graph's dtype.
    """
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplementedByRuntime

    check_providers(providers)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS
    # read where DequantizeLinear and MatMul become a MatMulNBits; graphs without quantized weights have none
    options.add_session_config_entry(ACCURACY_CONFIG, str(EXACT_LEVEL if exact else ACCURACY_LEVEL))
    source: Path | bytes = graph
    if exact and (rewritten := _with_exact_products(graph)) is not None:
        source = rewritten
        options.add_session_config_entry(_WEIGHTS_FOLDER_CONFIG, str(graph.parent))
    try:
        chosen = [(provider, _provider_options(provider, cuda_graph=cuda_graph)) for provider in providers]
        session = onnxruntime.InferenceSession(source, options, providers=chosen)
    except NotImplementedByRuntime as error:
        raise UnsupportedModelError(
            f"{', '.join(providers)} cannot run {graph}: {error}\n"
            "The CPU provider has no bfloat16 arithmetic. Export in float32 or float16 to run it here."
        ) from error
    except Exception as error:  # onnxruntime's errors have no other base class in common
        if cuda_graph and any(said in str(error) for said in CANNOT_CAPTURE):
            raise RequestError(
                f"onnxruntime cannot capture {graph} as a CUDA graph: {error}\nMeasure it without --cuda-graph."
            ) from error
        raise ModelError(f"onnxruntime cannot load {graph}: {error}\nExport it again.") from error
    # onnxruntime falls back to the CPU with a warning if the driver or libraries of a provider are missing
    if missing := [provider for provider in providers if provider not in session.get_providers()]:
        instead = ", ".join(session.get_providers())
        raise RequestError(
            f"onnxruntime could not start {', '.join(missing)} and fell back to {instead}.\n"
            "Install the versions of the GPU driver and of the provider's libraries that onnxruntime requires."
        )
    return session


def _provider_options(provider: str, *, cuda_graph: bool) -> dict[str, str]:
    captures = cuda_graph and provider == CUDA_PROVIDER
    return {**PROVIDER_OPTIONS.get(provider, {}), **(CAPTURING if captures else {})}


def _with_exact_products(graph: Path) -> bytes | None:
    """Return a graph whose MatMulNBits do not round activations; None if it has none."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(graph, load_external_data=False)
    except DecodeError:
        return None  # the runtime says what is wrong with it
    levels = [
        attribute
        for node in model.graph.node
        for attribute in node.attribute
        if node.op_type == "MatMulNBits" and attribute.name == "accuracy_level"
    ]
    for attribute in levels:
        attribute.i = EXACT_LEVEL
    return model.SerializeToString() if levels else None


def describe_runtime(session: InferenceSession) -> str:
    """Return name and version of ONNX Runtime, and the session's provider unless it is the CPU's."""
    import onnxruntime

    provider = session.get_providers()[0]
    return f"ONNX Runtime {onnxruntime.__version__}" + (f" ({provider})" if provider != CPU_PROVIDER else "")


class OnnxSession(Session):
    """A graph on ONNX Runtime."""

    def __init__(self, session: InferenceSession, *, threads: int, exact: bool = False) -> None:
        self._session = session
        self.inputs = {entry.name: _port(entry) for entry in session.get_inputs()}
        self.outputs = {entry.name: _port(entry) for entry in session.get_outputs()}
        self.options = frozenset(entry.name for entry in session.get_overridable_initializers())
        self.threads = threads
        self.description = describe_runtime(session)
        metadata = session.get_modelmeta().custom_metadata_map
        self.context = read_context(metadata)
        operators = read_operators(metadata)
        self.takes_padding = operators is Operators.STANDARD
        provider = session.get_providers()[0]
        self._on_gpu = provider != CPU_PROVIDER
        self._device = "cuda" if self._on_gpu else "cpu"
        # GroupQueryAttention and TensorScatter write in place where past and present are the same memory
        writes = operators is Operators.ONNXRUNTIME or WRITE_INDICES in self.inputs
        self.fills_cache = writes and provider in (CPU_PROVIDER, CUDA_PROVIDER)
        self._uncaptured, self._fixed_calls = run_options(NOT_CAPTURED), 0
        quantization = read_quantization(metadata)
        if quantization is not None and not exact and not self._on_gpu:
            self.activation_block = quantization.block_size

    def to_value(self, array: Any, dtype: Dtype | None = None) -> OrtValue:
        """See `Session.to_value`."""
        return to_value(array, dtype)

    def to_float32(self, value: OrtValue) -> Floats:
        """See `Session.to_float32`."""
        return to_float32(value)

    def run(
        self, outputs: Sequence[str], values: Mapping[str, OrtValue], *, keep: Collection[str] = ()
    ) -> list[OrtValue]:
        """See `Session.run`."""
        found: list[OrtValue]
        if not self._on_gpu:
            found = self._session.run_with_ort_values(list(outputs), values)
            return found
        binding = self._bind(values)
        self._bind_outputs(binding, outputs, keep)
        self._session.run_with_iobinding(binding, self._uncaptured)
        found = binding.get_outputs()
        return found

    def _bind(self, values: Mapping[str, OrtValue]) -> Any:
        """Return a binding of the session with its inputs."""
        binding = self._session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        return binding

    def _bind_outputs(self, binding: Any, outputs: Sequence[str], keep: Collection[str]) -> None:
        for name in outputs:
            binding.bind_output(name, self._device if name in keep else "cpu")

    def new_value(self, shape: Sequence[int], dtype: Dtype, *, zeros: bool = False) -> OrtValue:
        """See `Session.new_value`."""
        return (zero_value if zeros else empty_value)(shape, dtype, self._device)

    def run_into(
        self,
        outputs: Sequence[str],
        values: Mapping[str, OrtValue],
        into: Mapping[str, OrtValue],
        *,
        keep: Collection[str] = (),
    ) -> list[OrtValue]:
        """See `Session.run_into`."""
        binding = self._bind(values)
        self._bind_outputs(binding, outputs, keep)
        for name, value in into.items():
            binding.bind_ortvalue_output(name, value)
        self._session.run_with_iobinding(binding, self._uncaptured)
        found: list[OrtValue] = binding.get_outputs()[: len(outputs)]
        return found

    def fix_call(
        self, arrays: Mapping[str, Any], values: Mapping[str, OrtValue], into: Mapping[str, OrtValue]
    ) -> OnnxFixedCall:
        """See `Session.fix_call`."""
        from onnxruntime import OrtValue

        # an option is read on the CPU, where a copy from the GPU would keep the call from being captured
        owned = {
            name: OrtValue.ortvalue_from_numpy(array.copy(), "cpu" if name in self.options else self._device)
            for name, array in arrays.items()
        }
        binding = self._bind({**owned, **values})
        for name, value in into.items():
            binding.bind_ortvalue_output(name, value)
        self._fixed_calls += 1
        return OnnxFixedCall(self._session, binding, owned, number=self._fixed_calls)


def open_session(
    graph: Path,
    *,
    threads: int,
    providers: Sequence[str] = (CPU_PROVIDER,),
    exact: bool = False,
    cuda_graph: bool = False,
) -> OnnxSession:
    """Load one graph: see `load_graph`."""
    session = load_graph(graph, threads=threads, providers=providers, exact=exact, cuda_graph=cuda_graph)
    return OnnxSession(session, threads=threads, exact=exact)


def _port(entry: Any) -> Port:
    """Return the port of an input or output that `InferenceSession` lists."""
    dtype = entry.type.removeprefix("tensor(").removesuffix(")")
    return Port({"float": "float32", "double": "float64"}.get(dtype, dtype), tuple(entry.shape))
