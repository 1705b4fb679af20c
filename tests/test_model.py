import dataclasses

import pytest
import torch
from factory import tiny_config
from small_models import new_model as build
from small_models import two_items

from dear.attended import take
from dear.conditioning import Conditioning
from dear.config import ConfigError, HeadConfig, SamplingConfig, VariantConfig
from dear.distillation import Distillation, representation_loss, student_from_teacher
from dear.heads import HEADS
from dear.model import MaskedModel
from dear.pipeline import AudioDEAR
from dear.presets import preset
from dear.randomness import generator_on
from dear.sampling import generate


@pytest.fixture
def batch():
    return two_items()


def size(model):
    return sum(p.numel() for p in model.parameters())


def meta(config, variant=None):
    with torch.device("meta"):
        return MaskedModel(config, variant)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("base", 191_201_920),
        ("base-teacher", 192_645_888),
        ("base-visible", 190_096_768),
        ("base-visible-teacher", 191_540_736),
    ],
)
def test_the_paper_s_models_have_its_sizes_and_shapes(name, count):
    config = preset(name)
    model = meta(config)
    assert all(p.is_meta for p in model.parameters())
    assert size(model) == count
    assert (model.length, model.token_dim) == (256, 128)
    assert (config.conditioning.max_tokens, model.null.vector.shape) == (78, (1024,))
    assert len(model.backbone.blocks) == 24
    assert model.backbone.token_in.weight.shape == (768, 128)
    assert model.backbone.conditioning_in.weight.shape == (768, 1024)
    assert len(model.head.net.blocks) == 3
    assert model.head.net.input.weight.shape == (1024, 128)
    assert model.head.net.output.weight.shape == (256 if "teacher" in name else 128, 1024)
    assert model.head.context_in.weight.shape == (1024, 768)
    with torch.device("meta"):
        tokens, known = torch.zeros(2, 256, 128), torch.zeros(2, 256, dtype=torch.bool, device="cpu")
        conditioning = Conditioning(torch.zeros(2, 78, 1024), torch.ones(2, 78, dtype=torch.bool))
        assert model.context(tokens, known, conditioning).shape == (2, 256, 768)


@pytest.mark.parametrize(
    ("kind", "stated", "count"),
    [
        ("energy", 191, 191_201_920),
        ("diffusion", 193, 192_645_888),
        ("flow", 193, 192_514_688),
        ("meanflow", 194, 193_827_456),
        ("shortcut", 194, 193_827_456),
    ],
)
def test_parameter_counts_of_table_4_to_the_rounded_million(kind, stated, count):
    options = {"variance": "learned"} if kind == "diffusion" else {}
    variant = VariantConfig(head=HEADS[kind].Config(width=1024, **options))
    model = meta(dataclasses.replace(preset("base"), variants={kind: variant}))
    assert size(model) == count
    assert round(size(model) / 1e6) == stated


def test_the_bundled_models_stay_small():
    for variant in ("student", "teacher"):
        assert size(meta(preset("mini"), variant)) <= 8e6


JOINT = {"attention": "joint", "masked_attention": "full", "positions": "learned", "conv_width": 0}


@pytest.mark.parametrize("backbone", [{"masked_attention": "visible"}, {"masked_attention": "full"}, JOINT])
def test_hidden_values_never_reach_a_context(batch, backbone):
    model, (tokens, known, conditioning) = build(**backbone), batch
    changed = torch.where(known[..., None], tokens, tokens + 5)
    assert torch.equal(model.context(tokens, known, conditioning), model.context(changed, known, conditioning))


def test_visible_hidden_tokens_are_seen_by_themselves_alone(batch):
    """So a computation that leaves other hidden tokens out is exact."""
    model, (tokens, known, conditioning) = build(masked_attention="visible"), batch
    # Item 0: known 0, 3, 4, 6 and hidden 2; item 1: known 2, 7 and hidden 0, 1, 3.
    position = torch.tensor([[0, 3, 4, 6, 2], [2, 7, 0, 1, 3]])
    prefix = model.backbone.prefix(conditioning.tokens, conditioning.mask)
    whole = model.backbone(tokens, known, prefix)
    for item, count in enumerate(known.sum(dim=1).tolist()):
        own = model.backbone.prefix(conditioning.tokens[item : item + 1], conditioning.mask[item : item + 1])
        order = position[item : item + 1]
        part = model.backbone.decode(
            tokens[item : item + 1], order, model.backbone.cache(own), slice(0, 5), count, slice(count, 5), 5
        )
        torch.testing.assert_close(part[0], whole[item, order[0, count:]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("conv_width", [0, 3])
def test_contexts_of_some_positions_are_those_of_a_pass_over_all(batch, conv_width):
    model, (tokens, known, conditioning) = build(masked_attention="visible", conv_width=conv_width), batch
    # Hidden and known ones, of items that know different numbers of tokens.
    wanted = torch.tensor([[2, 5, 3], [0, 7, 6]])
    for shown in (known, torch.zeros_like(known)):
        whole = model.context(tokens, shown, conditioning)
        some = model.context(tokens, shown, conditioning, wanted)
        torch.testing.assert_close(some, take(whole, wanted), rtol=0, atol=1e-12)
    other = build(masked_attention="full", conv_width=conv_width)
    some = other.context(tokens, known, conditioning, wanted)
    torch.testing.assert_close(some, take(other.context(tokens, known, conditioning), wanted), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match='sparse needs masked_attention="visible"'):
        other.backbone.sparse(tokens, known, other.backbone.prefix(conditioning.tokens, conditioning.mask), wanted)


@pytest.mark.parametrize("neighbours", [0, 2])
def test_the_loss_of_all_hidden_positions_is_that_of_the_mask(batch, neighbours):
    model, (tokens, _, conditioning) = build(neighbours=neighbours), batch
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
    mask[:, 3] = False
    wanted = mask.nonzero()[:, 1].view(len(tokens), -1)
    whole = model.loss(tokens, conditioning, mask, torch.Generator().manual_seed(0))
    some = model.loss(tokens, conditioning, mask, torch.Generator().manual_seed(0), wanted)
    torch.testing.assert_close(some, whole, rtol=0, atol=1e-12)


def test_full_attention_lets_the_number_of_hidden_tokens_show(batch):
    model, (tokens, known, conditioning) = build(masked_attention="full", conv_width=0), batch
    more = known.clone()
    more[0, 1] = True
    before, after = model.context(tokens, known, conditioning), model.context(tokens, more, conditioning)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=1e-12)


def test_the_condition_is_listened_to_and_its_padding_is_not(batch):
    model, (tokens, known, conditioning) = build(), batch
    wanted = model.context(tokens, known, conditioning)
    padded = conditioning.tokens + 9.0 * ~conditioning.mask[..., None]
    again = model.context(tokens, known, Conditioning(padded, conditioning.mask))
    torch.testing.assert_close(again, wanted, rtol=0, atol=1e-12)
    other = model.context(tokens, known, Conditioning(-conditioning.tokens, conditioning.mask))
    assert not torch.allclose(other, wanted)


@pytest.mark.parametrize(("positions", "ordered"), [("rotary", False), ("learned", False), ("both", True)])
def test_the_order_of_words_is_heard_with_positions_among_them(batch, positions, ordered):
    model, (tokens, known, conditioning) = build(positions=positions), batch
    swapped = Conditioning(conditioning.tokens[:, [1, 0, *range(2, conditioning.tokens.shape[1])]], conditioning.mask)
    before, after = (model.context(tokens, known, each) for each in (conditioning, swapped))
    assert torch.allclose(before, after, rtol=0, atol=1e-12) != ordered


def test_a_prefix_depends_on_its_own_item_alone(batch):
    model, (_, _, conditioning) = build(), batch
    together = model.backbone.prefix(conditioning.tokens, conditioning.mask).blocks
    alone = model.backbone.prefix(conditioning.tokens[1:, :2], conditioning.mask[1:, :2]).blocks
    for (keys, values), (own_keys, own_values) in zip(together, alone, strict=True):
        torch.testing.assert_close(own_keys[0], keys[1, :, :2], rtol=0, atol=1e-12)
        torch.testing.assert_close(own_values[0], values[1, :, :2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("backbone", [{}, JOINT, {"neighbours": 1}])
def test_loss_is_one_value_per_hidden_token_and_reaches_every_parameter(batch, backbone):
    for variant in ("student", "teacher"):
        model, (tokens, known, conditioning) = build(variant, **backbone), batch
        conditioning = model.null(conditioning, torch.tensor([False, True]))
        loss = model.loss(tokens, conditioning, ~known, torch.Generator().manual_seed(0))
        assert loss.shape == ((~known).sum(),)
        loss.mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_an_unknown_variant_or_head_is_refused():
    with pytest.raises(ValueError, match="variant must be one of student, teacher, got 'dean'"):
        MaskedModel(tiny_config(), "dean")
    Magic = dataclasses.make_dataclass("Magic", [("kind", str, "magic")], bases=(HeadConfig,), frozen=True)
    variant = VariantConfig(head=Magic(), sampling=SamplingConfig(iterations=3))
    config = dataclasses.replace(tiny_config(), variants={"student": variant})
    with pytest.raises(ConfigError, match=f"head.kind must be one of {', '.join(HEADS)}, got 'magic'"):
        MaskedModel(config)


def test_an_unknown_head_is_refused_before_a_checkpoint_is_built(own_folder, monkeypatch):
    text = (own_folder / "config.json").read_text().replace('"energy"', '"magic"')
    (own_folder / "config.json").write_text(text)
    monkeypatch.setattr(torch.nn.Linear, "__init__", lambda *_, **__: pytest.fail("a network was built"))
    with pytest.raises(ConfigError, match="head.kind must be one of energy, .*, got 'magic'"):
        AudioDEAR.from_pretrained(own_folder, device="cpu")


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_trains_and_samples_within_a_model(kind, batch):
    tokens, known, conditioning = batch
    variant = VariantConfig(head=HEADS[kind].Config(width=32, depth=1), sampling=SamplingConfig(iterations=3))
    torch.manual_seed(0)
    model = MaskedModel(dataclasses.replace(tiny_config(), variants={"any": variant})).double()
    loss = model.loss(tokens, conditioning, ~known, torch.Generator().manual_seed(0))
    assert loss.shape == ((~known).sum(),)
    loss.mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p is not model.null.vector)
    together = list(generate(model, conditioning, [5, 6], variant.sampling))[-1].tokens
    alone = list(generate(model, conditioning.select([1]), [6], variant.sampling))[-1].tokens
    torch.testing.assert_close(alone[0], together[1], rtol=1e-8, atol=1e-8)


KEPT = torch.tensor([False, False])


class TestDistillation:
    def test_loss_is_equation_4(self):
        student, teacher = torch.randn(2, 3, 8, 5)
        wanted = (student - teacher).square().sum() / (3 * 8)
        torch.testing.assert_close(representation_loss(student, teacher, "sum"), wanted)
        torch.testing.assert_close(representation_loss(student, teacher, "mean"), wanted / 5)
        with pytest.raises(ValueError, match="channels must be one of mean, sum, got 'max'"):
            representation_loss(student, teacher, "max")

    def test_total_is_equation_5_over_all_positions(self, batch):
        tokens, known, conditioning = batch
        student, teacher = build("student", 0), build("teacher", 1)
        distillation = Distillation(student, teacher, weight=10.0)
        values = distillation(tokens, conditioning, KEPT, ~known, torch.Generator().manual_seed(0))
        head = student.loss(tokens, conditioning, ~known, torch.Generator().manual_seed(0)).mean()
        gap = student.context(tokens, known, conditioning) - teacher.context(tokens, known, conditioning)
        torch.testing.assert_close(values["loss"], head + 10.0 * gap.float().square().mean(), check_dtype=False)
        assert values["representation"] > 0

    def test_the_teacher_is_frozen_and_no_part_of_the_student(self, batch):
        tokens, known, conditioning = batch
        student, teacher = build("student", 0), build("teacher", 1)
        distillation = Distillation(student, teacher, weight=1.0)
        loss = distillation(tokens, conditioning, KEPT, ~known, torch.Generator().manual_seed(0))["loss"]
        loss.backward()
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
        assert student.backbone.mask_token.grad.abs().sum() > 0
        assert not any(parameter.requires_grad for parameter in teacher.parameters())

    def test_a_student_that_starts_from_its_teacher_has_no_representation_loss(self, batch):
        tokens, known, conditioning = batch
        student, teacher = build("student", 0), build("teacher", 1)
        student_from_teacher(teacher, student)
        distillation = Distillation(student, teacher, weight=1000.0)
        values = distillation(tokens, conditioning, KEPT, ~known, torch.Generator().manual_seed(0))
        assert values["representation"] == 0
        torch.testing.assert_close(values["loss"], values["head"])

    def test_a_dropped_condition_is_each_model_s_own_null(self, batch):
        tokens, known, conditioning = batch
        student, teacher = build("student", 0), build("teacher", 1)
        student_from_teacher(teacher, student)
        student.null.vector.data.add_(1.0)
        drop = torch.tensor([True, False])
        values = Distillation(student, teacher, weight=1.0)(
            tokens, conditioning, drop, ~known, torch.Generator().manual_seed(0)
        )
        contexts = [m.context(tokens, known, m.null(conditioning, drop)) for m in (student, teacher)]
        torch.testing.assert_close(values["representation"], representation_loss(*contexts))
        assert values["representation"] > 1e-6

    def test_a_negative_weight_is_refused(self):
        with pytest.raises(ValueError, match="weight must be a number from 0 on, got -1"):
            Distillation(build(), build("teacher"), weight=-1)


def test_noise_of_a_loss_is_drawn_where_the_tokens_are(monkeypatch):
    """With a stand-in for a device's generator, as there is none here."""
    on_cpu = torch.Generator().manual_seed(3)
    assert generator_on(torch.device("cpu"), on_cpu) is on_cpu

    class Elsewhere(torch.Generator):
        def __new__(cls, device):
            made = super().__new__(cls)
            made.asked = device
            return made

    monkeypatch.setattr("dear.randomness.torch.Generator", Elsewhere)
    device = torch.device("cuda", 1)
    first, second = generator_on(device, on_cpu), generator_on(device, on_cpu)
    assert first.asked == second.asked == device
    assert first.initial_seed() != second.initial_seed()
    assert generator_on(device, on_cpu.manual_seed(3)).initial_seed() == first.initial_seed()
