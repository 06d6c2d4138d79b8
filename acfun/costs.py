"""What a stretch of code costs, counted: bytes that torch allocates, and floating-point operations."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten

# How torch counts the operations of a kernel: (shapes and values of its arguments, out_val) → number.
COUNTERS: dict[Any, Callable[..., int]] = flop_registry | {
    # What it leaves out: the attention of CPUs.
    aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(
        query.shape, key.shape, value.shape
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, query, key, value, *_, **__: (
        sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)
    ),
}


class CostMeter(TorchDispatchMode):
    """Counts what is done inside, on whatever device: on "meta" nothing is computed.

    Of memory it sees tensors, views once with what they look at, and not what kernels take for themselves while they
    run. Of operations it sees products of matrices, convolutions and attention, in passes forward and backward.

    Attributes:
        live: bytes of the tensors that were made inside and are alive now.
        peak: the most that were alive at a time.
        flops: operations so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.peak, self.flops = 0, 0, 0
        self._seen = weakref.WeakSet[torch.UntypedStorage]()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        outputs = func(*args, **kwargs)
        for leaf in tree_leaves(outputs):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                self._note(leaf.untyped_storage())
        count = COUNTERS.get(func._overloadpacket)
        self.flops += 0 if count is None else int(count(*args, **kwargs, out_val=outputs))
        return outputs

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size
