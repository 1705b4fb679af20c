import pytest
import torch
from torch.nn import functional as F

from dear.layers import GELU, AdaLNMLP, Attention, LocalMixing, init_weights, rotary_angles, rotate, shapes_alone


def test_rotary_scores_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0))

    def score(i, j):
        a, b = (rotate(x, rotary_angles(torch.tensor([[at]]), 16)) for x, at in ((q, i), (k, j)))
        return (a * b).sum()

    torch.testing.assert_close(score(3, 10), score(53, 60), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(score(3, 10), score(3, 11))
    torch.testing.assert_close(score(0, 0), (q * k).sum())


def mixing(taps=5, width=6):
    torch.manual_seed(0)
    layer = LocalMixing(width, taps).double()
    init_weights(layer)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    return layer


def test_where_all_is_shown_local_mixing_is_the_depthwise_convolution():
    layer, x = mixing(), torch.randn(2, 9, 6, dtype=torch.float64)
    wanted = F.conv1d(x.transpose(1, 2), layer.weight.T[:, None], layer.bias, padding=2, groups=6).transpose(1, 2)
    torch.testing.assert_close(layer(x, torch.ones(2, 9, dtype=torch.bool)), wanted)


def test_hidden_neighbours_count_as_zeros_and_everyone_sees_itself():
    layer, x = mixing(), torch.randn(1, 9, 6, dtype=torch.float64)
    shown = torch.tensor([[1, 0, 1, 0, 0, 1, 1, 0, 1]], dtype=torch.bool)
    got = layer(x, shown)
    for i in range(9):
        alone = torch.where((shown[0] | (torch.arange(9) == i))[:, None], x[0], 0.0)[None]
        torch.testing.assert_close(got[0, i], layer(alone, torch.ones(1, 9, dtype=torch.bool))[0, i])


def test_the_conditioned_mlp_listens_to_input_and_condition():
    torch.manual_seed(0)
    net = AdaLNMLP(4, 3, 16, 2)
    init_weights(net)
    x, condition = torch.randn(5, 4), torch.randn(5, 16)
    out = net(x, condition)
    assert out.shape == (5, 3)
    assert not torch.allclose(out, net(x + 1, condition))
    assert not torch.allclose(out, net(x, condition + 1))
    # The condition of each row reaches that row alone.
    changed = condition.clone()
    changed[2] += 1
    same = torch.arange(5) != 2
    torch.testing.assert_close(net(x, changed)[same], out[same])


def test_a_network_of_shapes_alone_has_no_values_and_draws_no_random_numbers():
    def build():
        net = torch.nn.Sequential(AdaLNMLP(4, 3, 16, 2), LocalMixing(6, 5))
        init_weights(net)
        return net

    state = torch.get_rng_state()
    with shapes_alone():
        net = build()
    assert torch.equal(torch.get_rng_state(), state)
    assert {value.device.type for value in net.state_dict().values()} == {"meta"}
    filled = build()
    assert {name: value.shape for name, value in net.state_dict().items()} == {
        name: value.shape for name, value in filled.state_dict().items()
    }
    net.load_state_dict(filled.state_dict(), assign=True)
    assert torch.equal(net[1].weight, filled[1].weight)
    assert filled[1].weight.std() > 0  # outside the block, networks are initialised again


@pytest.mark.parametrize("added", [False, True])
def test_attention_is_the_same_with_and_without_gradients(added):
    torch.manual_seed(0)
    attention = Attention(12, 3).double()
    parts = [torch.randn(2, 3, count, 4, dtype=torch.float64, requires_grad=True) for count in (5, 7, 7)]
    visible = torch.rand(2, 1, 5, 7) < 0.6
    visible[..., 0] = True
    if added:
        visible = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, -torch.inf)
    trained = attention.attend(*parts, visible)
    with torch.no_grad():
        torch.testing.assert_close(attention.attend(*parts, visible), trained, rtol=0, atol=1e-12)
    fused = attention.out(F.scaled_dot_product_attention(*parts, attn_mask=visible).transpose(1, 2).flatten(2))
    for one, other in zip(*(torch.autograd.grad(y.square().sum(), parts) for y in (trained, fused)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_gelu_is_that_of_torch_with_and_without_gradients():
    x = torch.cat((torch.linspace(-12, 12, 4801), torch.tensor([-1e4, 1e4])))
    expected = F.gelu(x, approximate="tanh")
    assert torch.equal(GELU()(x), expected)  # as training computes it
    with torch.no_grad():
        torch.testing.assert_close(GELU()(x), expected, rtol=1e-6, atol=2e-6)
        assert torch.equal(GELU()(x.double()), F.gelu(x.double(), approximate="tanh"))
