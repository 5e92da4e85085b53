"""Any plain timm ViT, given kept patches: timm's network and checkpoints, under DDP and torch.compile too."""

from __future__ import annotations

import copy
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from dataltt.artifacts_schema import ModelError
from dataltt.stages.models.prune import PrunedViT, prune
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ...helpers import randomize, run_on_two_ranks

_GRID = (3, 4)
_PATCH_PX = 8
_NUM_PATCHES = 12

_VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no CLS token": {"class_token": False, "global_pool": "avg"},
    "registers alone": {"class_token": False, "reg_tokens": 2, "global_pool": "avg", "no_embed_class": True},
    "attention pooling": {"class_token": False, "global_pool": "map"},
    "registers": {"reg_tokens": 3},
    "layer scale": {"init_values": 0.1},
}


def _vit(**kwargs: Any) -> VisionTransformer:
    defaults: dict[str, Any] = {
        "img_size": (_GRID[0] * _PATCH_PX, _GRID[1] * _PATCH_PX),
        "patch_size": _PATCH_PX,
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 2,
        "num_classes": 6,
    }
    vit = VisionTransformer(**{**defaults, **kwargs}).eval()
    randomize(vit)
    return vit


def _images(count: int = 3) -> Tensor:
    size = (_GRID[0] * _PATCH_PX, _GRID[1] * _PATCH_PX)
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def _keep(count: int = 3, num_keep: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.stack([torch.randperm(_NUM_PATCHES, generator=generator)[:num_keep] for _ in range(count)])


@pytest.mark.parametrize("variant", _VARIANTS)
def test_without_kept_patches_it_is_the_vit_and_with_all_of_them_up_to_rounding(variant: str) -> None:
    vit = _vit(**_VARIANTS[variant])
    net, images = prune(vit), _images()
    expected = vit(images)
    assert torch.equal(net(images), expected)
    torch.testing.assert_close(net(images, _keep(num_keep=_NUM_PATCHES)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", _VARIANTS)
def test_a_subset_is_the_vit_on_the_tokens_that_stay(variant: str) -> None:
    vit, images, keep = _vit(**_VARIANTS[variant]), _images(), _keep()
    tokens = vit._pos_embed(vit.patch_embed(images))
    num_prefix = vit.num_prefix_tokens
    rows = [torch.cat([t[:num_prefix], t[num_prefix + k]]) for t, k in zip(tokens, keep, strict=True)]
    expected = vit.forward_head(vit.norm(vit.blocks(vit.norm_pre(torch.stack(rows)))))
    torch.testing.assert_close(prune(vit)(images, keep), expected, rtol=0, atol=1e-5)


def test_checkpoints_go_both_ways() -> None:
    vit, other = _vit(), _vit()
    randomize(other, seed=7)
    net = prune(vit)
    assert list(net.state_dict()) == list(vit.state_dict())
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in vit.named_parameters()]
    net.load_state_dict(other.state_dict())
    assert torch.equal(net(_images()), other(_images()))
    fresh = _vit(init_values=None)
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(_images()), other(_images()))


def test_the_vit_shares_its_parameters_and_stays_as_it_is() -> None:
    vit = _vit()
    net = prune(vit)
    assert type(vit) is VisionTransformer
    assert all(a is b for a, b in zip(vit.parameters(), net.parameters(), strict=True))
    net.train()
    assert not vit.training
    net.register_forward_hook(lambda *_: pytest.fail("a hook of the pruned net ran in the plain one"))
    vit(_images())


def test_it_can_be_pruned_again_copied_and_pickled() -> None:
    net, images, keep = prune(_vit()), _images(), _keep()
    expected = net(images, keep)
    for other in (prune(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert type(other) is PrunedViT
        assert torch.equal(other(images, keep), expected)


def test_timms_switches_act_on_kept_patches_too() -> None:
    images, keep = _images(), _keep()
    net = prune(_vit())
    net(images, keep).sum().backward()
    expected = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    net.set_grad_checkpointing()
    net.train()(images, keep).sum().backward()
    found = [p.grad for p in net.parameters() if p.grad is not None]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    dropping = prune(_vit(patch_drop_rate=0.5)).train()
    seen: list[int] = []
    dropping.blocks[0].register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    dropping(images, _keep(num_keep=6))
    assert seen == [1 + 3]


@pytest.mark.parametrize(
    ("net", "sentence"),
    [
        (lambda: torch.nn.Linear(2, 2), "Linear is not timm's plain VisionTransformer"),
        (
            lambda: timm.create_model("deit_tiny_distilled_patch16_224"),
            "VisionTransformerDistilled is not timm's plain",
        ),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224"), "SwinTransformer is not timm's plain"),
        (lambda: _vit(dynamic_img_size=True), "takes images of any size"),
        (lambda: _vit(pos_embed="none"), "no absolute position embeddings"),
        (lambda: timm.create_model("vit_tiny_r_s16_p8_224"), "does not embed separate patches"),
    ],
)
def test_a_network_that_cannot_be_pruned_is_refused(net: Any, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        prune(net())
    assert "timm.create_model('deit_small_patch16_224')" in str(caught.value)


def test_shapes_that_do_not_fit_are_refused() -> None:
    net = prune(_vit())
    with pytest.raises(ModelError, match=r"images are \[3, 3, 48, 64\], and this ViT takes \[B, channels, 24, 32\]"):
        net(torch.zeros(3, 3, 48, 64), _keep())
    for keep in (_keep(2), _keep()[0]):
        with pytest.raises(ModelError, match="`keep_indices` are"):
            net(_images(), keep)


@pytest.mark.filterwarnings("default")
def test_it_compiles_without_a_break() -> None:
    net, images, keep = prune(_vit()), _images(), _keep()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images, keep), net(images, keep), rtol=0, atol=1e-5)
    torch.testing.assert_close(compiled(images), net(images), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_it_compiles_with_the_default_compiler_and_trains() -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs g++ on a CPU")
    net, images, keep = prune(_vit()), _images(), _keep()
    net(images, keep).square().sum().backward()
    expected = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    torch.compile(net)(images, keep).square().sum().backward()
    found = [p.grad for p in net.parameters() if p.grad is not None]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


_DDP = """
import sys
from pathlib import Path
import torch
from torch.nn.parallel import DistributedDataParallel
from timm.models.vision_transformer import VisionTransformer
from dataltt.stages.models.prune import prune
torch.distributed.init_process_group("gloo")
data = torch.load(sys.argv[1])
vit = VisionTransformer(**data["kwargs"])
vit.load_state_dict(data["weights"])
net = DistributedDataParallel(prune(vit))
half = slice(2 * torch.distributed.get_rank(), 2 * torch.distributed.get_rank() + 2)
net(data["images"][half], data["keep"][half]).square().mean().backward()
if torch.distributed.get_rank() == 0:
    torch.save({n: p.grad for n, p in net.module.named_parameters()}, sys.argv[2])
# gloo may abort a process that leaves while the other still talks to it, or whose reducer outlives the group.
torch.distributed.barrier()
del net
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.two_ranks
def test_two_ranks_have_the_gradients_of_one(tmp_path: Path) -> None:
    kwargs = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 6}
    vit = VisionTransformer(**kwargs)
    randomize(vit)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    keep = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i))[:5] for i in range(4)])
    data, out, script = tmp_path / "data.pt", tmp_path / "grads.pt", tmp_path / "ddp.py"
    torch.save({"kwargs": kwargs, "weights": vit.state_dict(), "images": images, "keep": keep}, data)
    script.write_text(_DDP)
    result = run_on_two_ranks(tmp_path, data, out, script=script)
    assert result.code == 0, result.err
    net = prune(vit)
    net(images, keep).square().mean().backward()
    found = torch.load(out)
    assert found.keys() == dict(net.named_parameters()).keys()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
