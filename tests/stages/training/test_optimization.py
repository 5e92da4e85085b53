"""The optimiser against updates by hand, and the clipping of gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.optimization import clip_gradients, create_optimizer, scaled_lr
from torch import Tensor, nn


def _config(**changes: Any) -> TrainConfig:
    return TrainConfig.of(out=Path("run"), batch_size=64, **changes)


def _layer(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(*reversed(weight.shape))
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.zero_()
    return layer


def _give_gradients(layer: nn.Linear, gradient: Tensor) -> None:
    layer.weight.grad, layer.bias.grad = gradient.clone(), torch.ones_like(layer.bias)


def test_the_learning_rate_is_scaled_by_the_global_batch() -> None:
    assert scaled_lr(_config(lr=5e-4), world_size=8) == pytest.approx(5e-4)
    assert scaled_lr(_config(lr=5e-4), world_size=1) == pytest.approx(5e-4 / 8)


def test_sgd_steps_as_by_hand() -> None:
    """Nesterov momentum (Sutskever et al. 2013): velocity v ← m v + g, step g + m v; only weights are decayed."""
    config = _config(opt="sgd", momentum=0.8, lr=0.4, weight_decay=0.1)
    lr, momentum, decay = 0.4 * 64 / 512, 0.8, 0.1
    weight = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    layer = _layer(weight)
    optimizer = create_optimizer(config, layer, world_size=1)
    velocity, bias_velocity, bias = torch.zeros(2, 2), torch.zeros(2), torch.zeros(2)
    for i in range(3):
        given = torch.tensor([[0.3, -0.1], [0.2, 0.4]]) * (i + 1)
        _give_gradients(layer, given)
        optimizer.step()
        gradient = given + decay * weight
        velocity = momentum * velocity + gradient
        weight = weight - lr * (gradient + momentum * velocity)
        bias_velocity = momentum * bias_velocity + 1
        bias = bias - lr * (1 + momentum * bias_velocity)
    torch.testing.assert_close(layer.weight.detach(), weight)
    torch.testing.assert_close(layer.bias.detach(), bias)


def test_adamw_takes_its_first_step_by_the_sign() -> None:
    """The first step of Adam is the learning rate in each direction; weights decay by lr · decay beside it."""
    layer = _layer(torch.tensor([[1.0, -2.0]]))
    optimizer = create_optimizer(_config(lr=0.08, weight_decay=0.5), layer, world_size=1)
    _give_gradients(layer, torch.tensor([[0.3, -0.1]]))
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[1.0 * 0.995 - 0.01, -2.0 * 0.995 + 0.01]]))
    torch.testing.assert_close(layer.bias.detach(), torch.tensor([-0.01]))


def test_gradients_are_clipped_to_a_joint_norm() -> None:
    layer = _layer(torch.zeros(1, 2))
    _give_gradients(layer, torch.tensor([[2.0, 2.0]]))  # with the bias's 1 a norm of 3
    clip_gradients(_config(clip_grad=1.5), layer)
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(layer.bias.grad, torch.tensor([0.5]))


@pytest.mark.parametrize("clip_grad", [None, 3.5])
def test_small_gradients_stay_as_they_are(clip_grad: float | None) -> None:
    layer = _layer(torch.zeros(1, 2))
    _give_gradients(layer, torch.tensor([[2.0, 2.0]]))
    clip_gradients(_config(clip_grad=clip_grad), layer)
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, torch.tensor([[2.0, 2.0]]))
