"""Group normalisation for channels-last tensors on a CPU, where torch's own takes much of a small network's step."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _GroupNormFunction(torch.autograd.Function):
    """y = a·x + b with a, b per sample and channel from float32 statistics: two reductions and one pass each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels = x.shape[:2]
        count = x[0, 0].numel() * (channels // groups)
        sums = x.sum((2, 3), dtype=torch.float32).view(batch, groups, -1).sum(-1)
        squares = (x * x).sum((2, 3), dtype=torch.float32).view(batch, groups, -1).sum(-1)
        mean = sums / count
        inverse_std = (squares / count - mean.square()).clamp(min=0).add(eps).rsqrt()
        mean, inverse_std = (part.repeat_interleave(channels // groups, 1) for part in (mean, inverse_std))
        scale = inverse_std * weight.float()
        ctx.save_for_backward(x, weight, mean, inverse_std)
        ctx.groups, ctx.count = groups, count
        return torch.addcmul(_spread(bias.float() - mean * scale, x), x, _spread(scale, x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight, mean, inverse_std = ctx.saved_tensors
        batch, channels = x.shape[:2]
        grad_sum = grad.sum((2, 3), dtype=torch.float32)
        product_sum = ((grad * x).sum((2, 3), dtype=torch.float32) - mean * grad_sum) * inverse_std

        def share(per_channel: Tensor) -> Tensor:
            grouped = (per_channel * weight.float()).view(batch, ctx.groups, -1).sum(-1) / ctx.count
            shared: Tensor = grouped.repeat_interleave(channels // ctx.groups, 1)
            return shared

        along = -share(product_sum) * inverse_std.square()
        offset = -share(grad_sum) * inverse_std - along * mean
        grad_x = torch.addcmul(_spread(offset, x), x, _spread(along, x)).addcmul_(
            grad, _spread(inverse_std * weight.float(), x)
        )
        needs_weight = ctx.needs_input_grad[1]
        return (
            grad_x,
            product_sum.sum(0).to(weight.dtype) if needs_weight else None,
            grad_sum.sum(0).to(weight.dtype) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )


def _spread(per_channel: Tensor, x: Tensor) -> Tensor:
    return per_channel.to(x.dtype)[:, :, None, None]


class ChannelsLastGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` for affine (B,C,H,W) inputs; other inputs take torch's own path."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B,C,H,W)."""
        if input.ndim != 4 or input.device.type != "cpu":
            return super().forward(input)
        apply: Any = _GroupNormFunction.apply
        output: Tensor = apply(input, self.weight, self.bias, self.num_groups, self.eps)
        return output


def speed_up_group_norms(module: nn.Module) -> None:
    """Let every affine `nn.GroupNorm` inside `module` compute by `ChannelsLastGroupNorm`.

    Parameters and names stay as they are, so checkpoints do too. Worth it for training in bfloat16 and channels-last
    memory; float32 in torch's own memory format gains nothing.
    """
    for part in module.modules():
        if type(part) is nn.GroupNorm and part.affine:
            part.__class__ = ChannelsLastGroupNorm
