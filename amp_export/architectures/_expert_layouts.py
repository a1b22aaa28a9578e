"""Layouts of experts whose routers are known, which several families share."""

from __future__ import annotations

from collections.abc import Mapping

from amp_export.architectures._blocks import Block, Projection, SharedExpert
from amp_export.architectures._experts import Experts
from amp_export.architectures._layouts import expert_mlp

W1_TO_W3: Mapping[str, tuple[str, ...]] = {
    "mlp.experts.gate_up_proj": ("block_sparse_moe.experts.*.w1.weight", "block_sparse_moe.experts.*.w3.weight"),
    "mlp.experts.down_proj": ("block_sparse_moe.experts.*.w2.weight",),
}
GATE_UP_DOWN: Mapping[str, tuple[str, ...]] = {
    "mlp.experts.gate_up_proj": ("mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"),
    "mlp.experts.down_proj": ("mlp.experts.*.down_proj.weight",),
}
"""Names of experts in files, as Mixtral and as Qwen2 name them: `conversion_mapping.py`, transformers 5.24."""


def routed_experts(
    count: str,
    *,
    router: str,
    in_files: Mapping[str, tuple[str, ...]],
    module: str = "mlp.experts",
    chosen: int | str = "num_experts_per_tok",
    adds_to_one: bool | str = True,
    sparse_mixer: str | None = None,
    shared_expert: SharedExpert | None = None,
) -> Experts:
    """Return experts as `expert_mlp` does, with their router.

    Args:
        count: The config field with the number of experts.
        router: Module path of the router, relative to the layer.
        in_files: See `Experts`.
        module: Module path of the experts, relative to the layer.
        chosen: See `Experts`.
        adds_to_one: See `Experts`.
        sparse_mixer: See `Experts`.
        shared_expert: See `Block`.
    """
    plain = expert_mlp(count, module=module)
    return Experts(
        module=plain.module,
        inputs=plain.inputs,
        output=plain.output,
        attributes=plain.attributes,
        router=Projection(router, writes=count),
        chosen=chosen,
        adds_to_one=adds_to_one,
        sparse_mixer=sparse_mixer,
        shared_expert=shared_expert,
        in_files=in_files,
    )


def gated_shared_expert(width: str) -> SharedExpert:
    """Return a shared expert that has a gate and stays: `Qwen2MoeSparseMoeBlock`, `modeling_qwen2_moe.py`, 5.24.

    Args:
        width: The config field with the number of its neurons.
    """
    mlp = Block(
        module="mlp.shared_expert",
        inputs=(
            Projection("mlp.shared_expert.gate_proj", writes=width),
            Projection("mlp.shared_expert.up_proj", writes=width),
        ),
        output=Projection("mlp.shared_expert.down_proj", reads=width),
    )
    return SharedExpert(mlp, gate=Projection("mlp.shared_expert_gate", writes=1))
