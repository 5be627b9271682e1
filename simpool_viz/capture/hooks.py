"""Captures queries and keys of an ordinary fused forward at the call of the attention kernel.

A `TorchFunctionMode` intercepts each call of `F.scaled_dot_product_attention`, that is after the norms and rotary
embeddings of queries and keys, with bias and scale. Keeping references costs nothing, and any row of any attention
matrix follows from them exactly. The call then runs the same kernel as without the mode, in a form that also returns
the log-sum-exp of the rows, with which roll-outs need no attention matrix. Where the mean over the heads is all that is
asked for, and not much larger than queries and keys, that mean is kept in their place, and the call's output is that of
the kernel up to rounding (see averages.py). A mode slows every function that runs under it by some microseconds, so it
is active only inside the attention of the blocks that a map needs.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from simpool_viz.capture.averages import averaged_attention, keeps_mean
from simpool_viz.capture.block_attention import Attention
from simpool_viz.capture.kernels import find_kernel
from simpool_viz.errors import CheckpointError

# The module that runs next after the attention's sum takes that sum: the second norm, or the MLP where norms follow it.
AFTER_THE_SUM = ("norm2", "layernorm_after", "layer_norm2", "ln_2", "mlp", "intermediate")


def skip_shares(before: Tensor, after: Tensor) -> Tensor:
    """How much of a block's sum is its skip connection: the mean over the tokens of |x| / (|x| + |z|).

    x enters the block and x + z is what the attention's branch makes of it, its LayerScale included. So a block whose
    LayerScale is small counts little in a roll-out without any choice by eye. After the mixing ratio of Kobayashi et
    al., EMNLP 2021, section 3, with the attention's whole output as what mixes.

    Args:
        before: x (B, N, D).
        after: x + z, of the same shape.

    Returns:
        (B,) in [0, 1], float32.
    """
    skipped = torch.linalg.vector_norm(before, dim=-1, dtype=torch.float32)
    added = torch.linalg.vector_norm(after - before, dim=-1, dtype=torch.float32)
    return (skipped / (skipped + added).clamp(min=torch.finfo(torch.float32).tiny)).mean(1)


@dataclass(frozen=True)
class Keep:
    """What a forward keeps of its attention.

    Attributes:
        blocks: numbers of the blocks whose queries and keys are kept; None for all.
        means: numbers of blocks of which the mean over the heads is enough, unless they are among `blocks`; it is kept
            where it is small (`keeps_mean`), else queries and keys are.
        skip_shares: whether their `skip_shares` are measured, which only a roll-out with measured residual weights
            needs, and which takes a few per cent of the forward of a short sequence.
    """

    blocks: frozenset[int] | None = None
    means: frozenset[int] = frozenset()
    skip_shares: bool = True

    @classmethod
    def of(cls, keep: Keep | Collection[int] | None) -> Keep:
        """What is given as numbers of blocks, or None for all, with the skip shares of these."""
        return keep if isinstance(keep, Keep) else cls(None if keep is None else frozenset(keep))

    def __contains__(self, block: int) -> bool:
        return self.operands(block) or block in self.means

    def operands(self, block: int) -> bool:
        """Whether the queries and keys of a block are kept."""
        return self.blocks is None or block in self.blocks

    def __or__(self, other: Keep) -> Keep:
        """What either keeps."""
        blocks = None if self.blocks is None or other.blocks is None else self.blocks | other.blocks
        return Keep(blocks, self.means | other.means, self.skip_shares or other.skip_shares)


def one_of(batch: Tensor, index: int) -> Tensor:
    """The part of one picture (...) of a batch (B, ...), copied so that the rest of the batch can be freed."""
    return batch[index].clone() if len(batch) > 1 else batch[index]


@dataclass(frozen=True)
class Call:
    """One captured fused attention call of a batch.

    Attributes:
        query: (B, H, Nq, d).
        key: (B, H, N, d).
        bias: four dimensions that broadcast to (B, H, Nq, N), added to the logits, or None.
        scale: factor of the logits.
        lse: (B, H, Nq), log-sum-exp of the logits, or None where the kernel does not return it.
        mean: (B, N, N), the mean over the heads of the softmax, or None where it was not computed.
    """

    query: Tensor
    key: Tensor
    bias: Tensor | None
    scale: float
    lse: Tensor | None
    mean: Tensor | None = None

    def of(self, index: int) -> Attention:
        """The attention of the picture with this index in the batch."""
        query, key, lse = (None if x is None else one_of(x, index) for x in (self.query, self.key, self.lse))
        assert query is not None and key is not None
        bias = self.bias
        if bias is not None:
            bias = bias.expand(len(self.query), bias.shape[-3], query.shape[1], key.shape[1])[index]
        return Attention(query, key, bias, self.scale, lse)


class AttentionCapture(TorchFunctionMode):
    """A context that captures the fused attention calls made inside it.

    Args:
        means: whether the mean over the heads is computed where it is small (`keeps_mean`).

    Attributes:
        calls: one entry per call, in order.
    """

    def __init__(self, means: bool = False) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._means = means

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self._attend(*args, **(kwargs or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """The call's output (B, H, Nq, d), from a kernel that also returns the log-sum-exp where one fits."""
        if is_causal or enable_gqa or query.ndim != 4:
            raise CheckpointError(
                "this model's attention is causal, grouped or not over one sequence of tokens; its maps cannot be shown"
            )
        bias, factor = _as_bias(attn_mask, query), query.shape[-1] ** -0.5 if scale is None else scale
        kernel = find_kernel(query.device, query.dtype, query.shape[-1], bias is not None)
        differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
        lse = mean = None
        if kernel is None or differentiated or dropout_p or value.shape[-1] != query.shape[-1]:
            output = F.scaled_dot_product_attention(query, key, value, bias, dropout_p, scale=scale)
        elif self._means and keeps_mean(query, key, value):
            output, mean = averaged_attention(query, key, value, bias, factor)
        else:
            output, lse = kernel(query, key, value, bias, factor)
        self.calls.append(Call(query, key, bias, factor, lse, mean))
        return output


class HookScope:
    """A context for hooks on modules, which are removed at its end, also after an exception.

    The hooks act on forwards of the thread that entered the context.
    """

    def __init__(self) -> None:
        self._hooks: list[RemovableHandle] = []

    def _begin(self) -> None:
        """Let the hooks act on forwards of this thread from now on."""
        self._thread = threading.get_ident()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _is_mine(self) -> bool:
        """Whether the running forward belongs to the thread that entered the context."""
        return threading.get_ident() == self._thread


class BlockCapture(HookScope):
    """A context with an `AttentionCapture` that is active only while the attention of chosen blocks runs.

    It acts on forwards of the thread that entered it.

    Args:
        blocks: the transformer blocks of a backbone, from first to last.
        keep: what is captured; the attention of all blocks by default.
        first: number of the first of `blocks`, where some before it are left out.
    """

    def __init__(self, blocks: Sequence[nn.Module], keep: Keep | Collection[int] | None = None, first: int = 0) -> None:
        super().__init__()
        self._keep = keep = Keep.of(keep)
        self._modules = {i: getattr(block, "attn", block) for i, block in enumerate(blocks, first) if i in keep}
        self._made = dict.fromkeys(self._modules, 0)  # calls of each block
        self._calls: dict[int, Call] = {}
        self._means: dict[int, Tensor] = {}
        self._sums = {
            i: block
            for i, block in enumerate(blocks, first)
            if keep.skip_shares and i in self._modules and hasattr(block, "attn")
        }
        self._entering: dict[int, Tensor] = {}
        self._shares: dict[int, Tensor] = {}
        self.first, self._numbers = first, range(first, first + len(blocks))
        self._inside: tuple[int, AttentionCapture] | None = None

    def calls(self, name: str) -> list[Call | None]:
        """The captured calls, one entry per block; None for blocks that were not captured, or as their mean alone.

        Args:
            name: the checkpoint's, for messages.

        Raises:
            CheckpointError: a block that did not make exactly one fused call, so its maps would be wrong.
        """
        for i, made in self._made.items():
            check_calls(f"{name}, block {i}", made, 1)
        return [self._calls.get(i) for i in self._numbers]

    def mean(self, block: int, picture: int) -> Tensor | None:
        """The mean over the heads of a block's attention (N, N) for one picture; None where it was not kept.

        Args:
            block: its number.
            picture: index in the batch.
        """
        return one_of(self._means[block], picture) if block in self._means else None

    def skip_share(self, block: int, picture: int) -> Tensor | None:
        """That of `skip_shares` for one picture; None where none is measured or the block does not show its sum.

        Args:
            block: its number.
            picture: index in the batch.
        """
        return self._shares[block][picture] if block in self._shares else None

    def __enter__(self) -> BlockCapture:
        self._begin()
        for i, module in self._modules.items():
            self._hooks.append(module.register_forward_pre_hook(partial(self._open, i)))
            self._hooks.append(module.register_forward_hook(self._close, always_call=True))
        for i, block in self._sums.items():
            self._hooks.append(block.register_forward_pre_hook(partial(self._enter_block, i)))
            for behind in _behind_the_sum(block):
                self._hooks.append(behind.register_forward_pre_hook(partial(self._measure, i)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._leave()

    def _open(self, number: int, module: nn.Module, inputs: Any) -> None:
        if self._is_mine():
            mode = AttentionCapture(number in self._keep.means and not self._keep.operands(number))
            mode.__enter__()
            self._inside = number, mode

    def _close(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._is_mine():
            self._leave()

    def _enter_block(self, number: int, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._is_mine() and inputs:
            self._entering[number] = inputs[0]

    def _measure(self, number: int, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        before = self._entering.pop(number, None) if self._is_mine() else None
        if before is not None and inputs and before.shape == inputs[0].shape:
            self._shares[number] = skip_shares(before, inputs[0])

    def _leave(self) -> None:
        if self._inside is None:
            return
        (number, mode), self._inside = self._inside, None
        mode.__exit__(None, None, None)
        self._made[number] += len(mode.calls)
        for call in mode.calls:
            if call.mean is None:
                self._calls[number] = call
            else:
                self._means[number] = call.mean


def _behind_the_sum(block: nn.Module) -> list[nn.Module]:
    """The modules of which the first to run takes the sum of a block's skip connection and attention."""
    if "Parallel" in type(block).__name__:  # its MLP runs beside the attention
        return []
    found = (getattr(block, name, None) for name in AFTER_THE_SUM)
    return [module for module in found if isinstance(module, nn.Module)]


def _as_bias(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """The bias of the logits, with four dimensions; 0 or -inf for a boolean mask."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device=query.device, dtype=query.dtype).masked_fill(~mask, float("-inf"))
    return mask.reshape((1,) * (4 - mask.ndim) + mask.shape)


def check_calls(where: str, captured: int, expected: int) -> None:
    """Check that a checkpoint, or a part of it, made the expected number of fused attention calls.

    Args:
        where: the checkpoint or the part, for the message.
        captured: the number of calls that were captured.
        expected: the number of calls that such a model makes.

    Raises:
        CheckpointError: another number.
    """
    if captured != expected:
        raise CheckpointError(
            f"{where}: fused attention calls were seen {captured} times and expected {expected} times, "
            "so this model's attention cannot be shown exactly; choose another backbone"
        )
