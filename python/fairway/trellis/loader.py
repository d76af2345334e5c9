"""Layers of a model directory: single trellis-coded matrices and whole MoE layers."""

from __future__ import annotations

import os
from typing import List, Optional, Tuple, Union

import numpy as np
import numpy.typing as npt

from fairway import _fairway

__all__ = ["TrellisLinear", "TrellisModelLoader", "TrellisMoELayer"]


class TrellisLinear:
    """y[M, out_features] = x[M, in_features] W + bias, with a trellis-coded W.

    The codes stay in the mapped file; nothing is decoded ahead of a call.
    """

    def __init__(self, handle: _fairway.Linear) -> None:
        self._handle = handle

    @property
    def name(self) -> str:
        """Module name, "model.layers.0.mlp.gate_proj"."""
        return self._handle.name

    @property
    def file(self) -> str:
        return self._handle.file

    @property
    def in_features(self) -> int:
        return self._handle.in_features

    @property
    def out_features(self) -> int:
        return self._handle.out_features

    @property
    def bits(self) -> int:
        """Bits of a weight, 1 to 8."""
        return self._handle.bits

    @property
    def codebook(self) -> str:
        """"3inst", "mcg" or "mul1"."""
        return self._handle.codebook

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, without scales."""
        return self._handle.nbytes

    def forward(
        self,
        x: npt.ArrayLike,
        kernel_name: str = "",
        tile: Tuple[int, int, int] = (0, 0, 0),
    ) -> npt.NDArray[np.float32]:
        """x [M, in_features], float32 -> [M, out_features], float32.

        kernel_name: id of a trellis_linear kernel row as `fairway kernels` lists them; empty: the
        default of this machine. tile: (tile_size_m, tile_size_n, simdgroups); zeros: the row's own.
        Raises FairwayValueError for a wrong shape, an unknown row or a tile that it does not take.
        """
        return self._handle.apply(x, kernel_name, *tile)

    __call__ = forward

    def __repr__(self) -> str:
        return (
            f"TrellisLinear({self.name}, {self.in_features} -> {self.out_features}, "
            f"{self.bits} bits, {self.codebook})"
        )


class TrellisMoELayer:
    """One layer with routed experts; fairway.trellis.moe_dispatch runs it."""

    def __init__(self, handle: _fairway.MoeLayer) -> None:
        self._handle = handle

    @property
    def index(self) -> int:
        """Number of the layer in the model, from 0."""
        return self._handle.layer

    @property
    def hidden_size(self) -> int:
        return self._handle.hidden_size

    @property
    def num_experts(self) -> int:
        return self._handle.num_experts

    @property
    def top_k(self) -> int:
        """Experts of a token."""
        return self._handle.top_k

    @property
    def expert_bit_tuples(self) -> List[Tuple[int, int, int]]:
        """(gate, up, down) bits of every routed expert; zeros for one that is not trellis-coded."""
        return self._handle.expert_bits

    @property
    def expert_bits(self) -> List[int]:
        """Mean bits of every routed expert, rounded to the nearest width."""
        return [round(sum(bits) / 3) for bits in self.expert_bit_tuples]

    def __repr__(self) -> str:
        return (
            f"TrellisMoELayer({self.index}, hidden {self.hidden_size}, "
            f"{self.top_k} of {self.num_experts} experts)"
        )


class TrellisModelLoader:
    """Opens a model directory as Hugging Face lays it out.

    Raises FairwayValueError if config.json or a tensor file is missing or malformed, and
    FairwayRuntimeError for an architecture that is not supported.
    """

    def __init__(self, model_dir: Union[str, os.PathLike[str]]) -> None:
        self._loader = _fairway.Loader(os.fspath(model_dir))
        self._model: Optional[_fairway.Model] = None

    @property
    def model_dir(self) -> str:
        return self._loader.directory

    def weight_names(self) -> List[str]:
        """All trellis-coded linear layers, in the order in which a token meets them."""
        return self._loader.linears()

    def load_weight(self, name: str) -> TrellisLinear:
        """The linear layer `name`: "layers.0.mlp.gate_proj", the name of its module in the file
        ("model.layers.0.mlp.gate_proj"), or that of one of its tensors
        ("model.layers.0.mlp.gate_proj.trellis").

        Raises FairwayValueError if the model has no such layer or its tensors are malformed, and
        FairwayRuntimeError if it is stored as plain floats; messages name the file and the tensor.
        """
        return TrellisLinear(self._loader.linear(name))

    def moe_layers(self) -> List[int]:
        """Numbers of the layers with routed experts."""
        return self._loaded().moe_layers()

    def load_moe_layer(self, layer: int) -> TrellisMoELayer:
        """The experts and the router of layer `layer`; the first call loads the whole model."""
        return TrellisMoELayer(self._loaded().moe_layer(layer))

    def _loaded(self) -> _fairway.Model:
        if self._model is None:
            self._model = _fairway.Model(self.model_dir)
        return self._model
