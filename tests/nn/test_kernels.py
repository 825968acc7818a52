"""The C kernels compute what PyTorch computes: every shape, every width of vector, and the same without them."""

from __future__ import annotations

import copy
import ctypes
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.flow.model import Block
from duotone.nn import build, fused, native, winograd
from duotone.nn.conv import ConvBlock
from duotone.nn.transformer import Layer

CC = native.compiler()
pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    native.library.cache_clear()
    yield
    native.library.cache_clear()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[int, ctypes.CDLL]:
    """The kernels for vectors of 4, 8 and 16: compilers split those that the processor does not have."""
    assert CC is not None
    folder = tmp_path_factory.mktemp("kernels")
    flags = (*build.FLAGS, "-Wno-psabi")
    return {lanes: build.load(CC, folder, (*flags, f"-DLANES={lanes}")) for lanes in (4, 8, 16)}


def use(monkeypatch: pytest.MonkeyPatch, library: ctypes.CDLL | None) -> None:
    monkeypatch.setattr(native, "library", lambda: library)


def block(channels: int, condition: int | None, seed: int = 0) -> ConvBlock:
    """A block of random weights, none of them zero."""
    torch.manual_seed(seed)
    made = ConvBlock(channels, condition).to(memory_format=torch.channels_last)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return made


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


@settings(deadline=None, max_examples=40)
@given(
    lanes=st.sampled_from([4, 8, 16]),
    vectors=st.integers(1, 5),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 21), st.integers(1, 13)),
    condition=st.sampled_from(["none", "one", "each"]),
    blend=st.booleans(),
    threads=st.integers(1, 3),
)
def test_a_block_is_that_of_pytorch(
    compiled: dict[int, ctypes.CDLL],
    lanes: int,
    vectors: int,
    shape: tuple[int, int, int],
    condition: str,
    blend: bool,
    threads: int,
) -> None:
    channels = 16 * vectors if lanes == 16 else 2 * lanes * vectors
    made = block(channels, None if condition == "none" else 8)
    x, other = torch.randn(2, shape[0], channels, *shape[1:])
    x = 3 * x + 1
    cond = None if condition == "none" else torch.randn(1 if condition == "one" else shape[0], 8)
    exact = copy.deepcopy(made).double()
    want = exact(x.double(), None if cond is None else cond.double(), other.double() if blend else None)
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        use(patch, compiled[lanes])
        torch.set_num_threads(threads)
        got = made(x, cond, other if blend else None)
        torch.set_num_threads(before)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert distance(got, want) < 1e-5


@pytest.mark.parametrize(("outputs", "inputs"), [(16, 32), (48, 8), (8, 8), (40, 24)])
def test_a_convolution_may_change_the_width(
    compiled: dict[int, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch, outputs: int, inputs: int
) -> None:
    use(monkeypatch, compiled[8])
    x, weight = torch.randn(2, inputs, 9, 6), torch.randn(outputs, inputs, 3, 3)
    with torch.no_grad():
        got = winograd.convolve(x, winograd.Kernel(), weight, silu=True)
    assert distance(got, F.silu(F.conv2d(x.double(), weight.double(), padding=1))) < 1e-5


def test_the_norm_stands_far_from_zero(compiled: dict[int, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, compiled[8])
    x = torch.randn(2, 32, 40, 16) + 300 * torch.randn(1, 32, 1, 1)
    weight = torch.rand(32)
    normed, scale, shift = winograd.norm(x, 32, weight, 1e-5)
    got = normed * scale[:, :, None, None] + shift[:, :, None, None]
    want = F.group_norm(x.double(), 32, weight.double(), None, 1e-5)
    assert torch.equal(normed, x) and distance(got, want) < 1e-4  # the shift itself is rounded at 300


def test_neighbours_and_threads_change_no_bit(
    compiled: dict[int, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, compiled[8])
    made, x = block(48, None), torch.randn(5, 48, 37, 11)
    before = torch.get_num_threads()
    with torch.no_grad():
        whole = made(x)
        torch.set_num_threads(1)
        singles = torch.cat([made(p[None]) for p in x])
        torch.set_num_threads(before)
    assert torch.equal(whole, singles)


def test_feature_maps_to_blend_may_lie_apart(compiled: dict[int, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, compiled[8])
    made, x = block(16, None), torch.randn(2, 16, 8, 8)
    many = torch.randn(5, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(made(x, None, many[1:5:3]), made(x, None, many[1:5:3].contiguous()))


def test_new_weights_are_noticed(compiled: dict[int, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, compiled[8])
    made, x = block(16, None).eval(), torch.randn(1, 16, 8, 8)

    def agree() -> bool:
        with torch.no_grad():
            got = made(x)
            return distance(got, copy.deepcopy(made).double()(x.double())) < 1e-5

    assert agree()
    with torch.no_grad():
        made.conv1.weight.mul_(2)
    assert agree()
    made.load_state_dict(block(16, None, seed=1).state_dict())
    assert agree()
    made.conv2.weight = torch.nn.Parameter(torch.randn(16, 16, 3, 3))
    assert agree()
    twin = copy.deepcopy(made)
    with torch.no_grad():
        twin.conv1.weight.zero_()
        assert torch.allclose(twin(x), x)
    assert agree()
    made.double().float()
    assert agree()
    made.train()
    for conv in (made.conv1, made.conv2):  # behind the counter of versions, as FSDP gathers weights
        with torch.autograd._unsafe_preserve_version_counter(conv.weight), torch.no_grad():
            conv.weight.mul_(2)
        assert agree()


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.data.mul_(1.5),
        lambda p: p.data.neg_(),
        lambda p: p.data.copy_(p.data.flip(0)),  # the same numbers in another order
        lambda p: p.data[3, 5, 1, 2].add_(1),
        lambda p: p.detach().numpy().__imul__(2),
        lambda p: setattr(p, "data", p.data.roll(1, 1)),
    ],
    ids=["scaled", "negated", "turned", "one", "numpy", "replaced"],
)
@pytest.mark.parametrize("inference", [False, True])
def test_weights_changed_behind_the_version_counter_are_noticed(
    compiled: dict[int, ctypes.CDLL],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[torch.nn.Parameter], object],
    inference: bool,
) -> None:
    use(monkeypatch, compiled[8])
    with torch.inference_mode(inference), torch.no_grad():
        made, x = block(16, None).eval(), torch.randn(1, 16, 8, 8)
        made(x)
        change(made.conv1.weight)
        change(made.conv2.weight)
        assert winograd.applies(x, made.conv1, made.conv2)
        got = made(x)
        with native.declined():
            want = made(x)
    assert distance(got, want) < 1e-5


def test_packed_weights_are_kept_while_nothing_changes(
    compiled: dict[int, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, compiled[8])
    kernel, weight = winograd.Kernel(), torch.randn(16, 16, 3, 3)
    assert kernel.packed(weight, 8) is kernel.packed(weight, 8)
    assert kernel.packed(weight.clone(), 8) is kernel.packed(weight, 8)  # the numbers count, not where they lie


@given(st.integers(1, 400), st.sampled_from([4, 8, 16]), st.data())
def test_any_change_of_one_number_changes_the_checksum(
    compiled: dict[int, ctypes.CDLL], size: int, lanes: int, data: st.DataObject
) -> None:
    at, bit = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 31))
    weight = torch.randn(size, 1, 1, 1, generator=torch.Generator().manual_seed(size))
    with pytest.MonkeyPatch.context() as patch:
        use(patch, compiled[lanes])
        before = winograd.checksum(weight)
        words = weight.view(torch.int32)
        words[at] ^= torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
        assert winograd.checksum(weight) != before


def test_the_checksum_sees_order_and_pairs_of_signs_and_does_not_depend_on_threads(
    compiled: dict[int, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, compiled[8])
    weight = torch.randn(512, 300, 3, 3, generator=torch.Generator().manual_seed(0))  # several slices
    found = [winograd.checksum(weight), winograd.checksum(weight.flip(0)), winograd.checksum(-weight)]
    weight[0, 0, 0, 0] *= -1
    weight[511, 299, 2, 2] *= -1
    found.append(winograd.checksum(weight))
    assert len(set(found)) == 4
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    found.append(winograd.checksum(weight))
    torch.set_num_threads(before)
    assert found[4] == found[3]


@settings(deadline=None, max_examples=30)
@given(
    lanes=st.sampled_from([4, 8, 16]),
    widths=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 21), st.integers(1, 13)),
    wanted=st.sampled_from(["both", "x", "weight"]),
    threads=st.integers(1, 3),
)
def test_gradients_are_those_of_pytorch(
    compiled: dict[int, ctypes.CDLL],
    lanes: int,
    widths: tuple[int, int],
    shape: tuple[int, int, int],
    wanted: str,
    threads: int,
) -> None:
    inputs, outputs = (16 * w for w in widths)
    x = torch.randn(shape[0], inputs, *shape[1:], requires_grad=wanted != "weight")
    conv = torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    weight = conv.weight.requires_grad_(wanted != "x")
    above = torch.randn(shape[0], outputs, *shape[1:])
    of = [t for t in (x, weight) if t.requires_grad]
    want = torch.autograd.grad(F.conv2d(x.double(), weight.double(), padding=1), of, above.double())
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        use(patch, compiled[lanes])
        torch.set_num_threads(threads)
        got = torch.autograd.grad(winograd.conv3x3(x, conv), of, above)
        torch.set_num_threads(before)
    for one, other in zip(got, want, strict=True):
        assert distance(one, other) < 1e-5


def test_gradients_of_wide_kernels_and_of_a_block(
    compiled: dict[int, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, other, cond = torch.randn(2, 416, 6, 5), torch.randn(2, 416, 6, 5), torch.randn(2, 8)
    found = []
    for library in (compiled[8], None):
        use(monkeypatch, library)
        made = block(416, 8)
        made(x, cond, other).square().mean().backward()
        found.append([p.grad for p in made.parameters()])
    for one, reference in zip(*found, strict=True):
        assert one is not None and reference is not None and distance(one, reference) < 1e-5


def test_only_what_they_are_for(compiled: dict[int, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, compiled[8])
    x, conv, narrow = torch.randn(1, 16, 4, 4), torch.nn.Conv2d(16, 16, 3), torch.nn.Conv2d(16, 12, 3)
    assert winograd.applies(x, conv, conv)
    assert not fused.applies(torch.randn(1, 4, 16), 16)  # gradients are wanted
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.applies(x, conv)
    assert not winograd.applies(x.bfloat16(), conv)
    assert not winograd.applies(x, copy.deepcopy(conv).bfloat16())
    assert not winograd.applies(x, narrow) and not winograd.applies(x[:, :12], conv)
    assert not winograd.applies(x[:0], conv)
    with torch.inference_mode():
        assert winograd.applies(x, conv) and winograd.applies(x, copy.deepcopy(conv))
    use(monkeypatch, None)
    assert not winograd.applies(x, conv)


@settings(deadline=None, max_examples=20)
@given(
    lanes=st.sampled_from([4, 8, 16]),
    shape=st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(1, 3)),
    wanted=st.sampled_from([None, slice(0), slice(1, 2)]),
    past=st.booleans(),
)
def test_a_transformer_layer_is_that_of_pytorch(
    compiled: dict[int, ctypes.CDLL], lanes: int, shape: tuple[int, int, int], wanted: slice | None, past: bool
) -> None:
    batch, tokens, heads = shape
    layer, x = Layer(16 * heads, heads, 2, None), 3 * torch.randn(batch, tokens, 16 * heads)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    before = (torch.randn(batch, heads, 4, 16), torch.randn(batch, heads, 4, 16)) if past else None
    exact = copy.deepcopy(layer).double()
    exact_before = (before[0].double(), before[1].double()) if before else None
    want, want_own = exact(x.double(), None, exact_before, wanted)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        use(patch, compiled[lanes])
        got, own = layer(x, None, before, wanted)
    assert got.shape == want.shape and (want.numel() == 0 or distance(got, want) < 1e-5)
    assert distance(own[0], want_own[0]) < 1e-5 and distance(own[1], want_own[1]) < 1e-5


@settings(deadline=None, max_examples=30)
@given(
    lanes=st.sampled_from([4, 8, 16]),
    rows=st.sampled_from([(1,), (3,), (2, 4)]),
    tokens=st.integers(1, 5),
    heads=st.integers(1, 3),
    modulated=st.sampled_from(["one for all", "one for each", "one for each token", "sliced"]),
    turned=st.sampled_from(["by token", "by row and token"]),
)
def test_a_layer_of_the_flow_is_that_of_pytorch(
    compiled: dict[int, ctypes.CDLL],
    lanes: int,
    rows: tuple[int, ...],
    tokens: int,
    heads: int,
    modulated: str,
    turned: str,
) -> None:
    dim = 16 * heads
    block, x = Block(dim, heads, 8), 3 * torch.randn(*rows, tokens, dim)
    leading = {
        "one for all": (1,),
        "one for each": (*rows, 1),
        "one for each token": (*rows, tokens),
        "sliced": (*rows, 1),
    }
    vectors = torch.randn(*leading[modulated], 6 * dim)
    parts = vectors.chunk(6, -1) if modulated == "sliced" else tuple(v.contiguous() for v in vectors.chunk(6, -1))
    angles = torch.randn(*(rows[-1:] if turned == "by row and token" else ()), tokens, 8).repeat_interleave(2, -1)
    signs = torch.tensor([-1.0, 1.0]).repeat(8)
    turn = angles.cos(), angles.sin() * signs

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(*(t.transpose(-2, -3) for t in (q, k, v))).transpose(-2, -3)

    exact = tuple(tuple(t.double() for t in each) for each in (parts, turn))
    want = copy.deepcopy(block).double()(x.double(), *exact, attend)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        use(patch, compiled[lanes])
        got = block(x, parts, turn, attend)
    assert distance(got, want) < 1e-5


def test_which_vectors_the_fused_norms_take() -> None:
    x, whole = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    assert fused.shares(x, torch.ones(1, 16)) and fused.shares(x, torch.ones(2, 1, 16))
    assert not fused.shares(x, whole) and not fused.shares(x, torch.ones(1, 1, 8))
    assert not fused.shares(x, torch.ones(1, 32)[:, ::2])
    assert fused.turns(x, whole[0, :, :8].contiguous(), whole[1, :, :8].contiguous())
    assert not fused.turns(x, whole[0, :, :8], whole[1, :, :8])
    assert not fused.turns(x, torch.ones(2, 8), torch.ones(2, 8)) and not fused.turns(
        x, torch.ones(1, 2, 3, 8), torch.ones(1, 2, 3, 8)
    )


def test_large_and_missing_numbers_pass_the_activation(
    compiled: dict[int, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, compiled[8])
    gate = torch.tensor([-1e30, -200.0, -87.5, -3.0, 0.0, 3.0, 200.0, 1e30])
    got = fused.swiglu(torch.cat([gate, torch.ones(8)])[None])
    torch.testing.assert_close(got[0], F.silu(gate), rtol=1e-6, atol=1e-8)
    assert torch.isnan(fused.swiglu(torch.cat([gate * float("nan"), torch.ones(8)])[None])).all()


def test_declined_for_a_while(compiled: dict[int, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, compiled[8])
    x, conv = torch.randn(1, 16, 4, 4), torch.nn.Conv2d(16, 16, 3)
    with native.declined():
        assert not winograd.applies(x, conv)
    assert winograd.applies(x, conv)


def test_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUOTONE_NATIVE", "0")
    assert native.library() is None


def test_without_a_compiler_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.library() is None


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo cc: a first line; echo error: no omp.h >&2; exit 1", "no omp.h"),
        ("exit 1", "status 1"),
        ("true", "No such file"),
    ],
)
def test_a_compiler_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, said: str
) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text(f"#!/bin/sh\n{script}\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("DUOTONE_CACHE", str(tmp_path / "cache"))
    with pytest.warns(RuntimeWarning, match=f"broken-cc.*{said}.*DUOTONE_NATIVE=0"):
        assert native.library() is None


def test_without_a_cache_folder_they_are_compiled_for_this_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(native, "cache_folder", lambda: None)
        assert native.library() is not None
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(native, "cache_folder", lambda: tmp_path / "file" / "below")
        native.library.cache_clear()
        assert native.library() is not None
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
