"""The contract of every head in the registry. A new head is tested without a change here."""

import pytest
import torch
from small_heads import C, D, N, build, drawer, steps_of
from torch.utils.flop_counter import FlopCounterMode

from dear.heads import HEADS
from dear.toy import MOST_STEPS, ToyTraining

# The defaults of every kind, and further settings of some.
SETTINGS = {kind: {"kind": kind} for kind in HEADS}
SETTINGS |= {
    "energy-noise-as-condition": {"kind": "energy", "noise_as": "condition", "samples": 3},
    "energy-groups": {"kind": "energy", "groups": (1, 3, 2)},
    "energy-relative": {"kind": "energy", "groups": (1, 5), "relative": True, "channels": 2.0},
    "energy-direct": {"kind": "energy", "direct_noise": True, "mixed_noise": True, "direct_context": True},
    "energy-modes": {"kind": "energy", "modes": 4, "mode_channels": 2, "direct_noise": True},
    "diffusion-ddim": {"kind": "diffusion", "eta": 0.0},
    "diffusion-velocity": {"kind": "diffusion", "prediction": "velocity"},
    "diffusion-velocity-ddim": {"kind": "diffusion", "prediction": "velocity", "eta": 0.0},
    "diffusion-learned-variance": {"kind": "diffusion", "variance": "learned"},
    "diffusion-velocity-learned-variance": {"kind": "diffusion", "prediction": "velocity", "variance": "learned"},
    "diffusion-representation": {"kind": "diffusion", "guidance_level": "representation"},
    "flow-uniform": {"kind": "flow", "times": "uniform"},
    "flow-representation": {"kind": "flow", "guidance_level": "representation"},
    "meanflow-uniform": {"kind": "meanflow", "times": "uniform", "flow_share": 0.5, "adaptive_power": 0.0},
    "meanflow-representation": {"kind": "meanflow", "guidance_level": "representation"},
    "shortcut-representation": {"kind": "shortcut", "guidance_level": "representation", "max_steps": 16},
}


@pytest.mark.parametrize("kind", HEADS)
class TestRegistry:
    def test_the_class_states_what_other_rooms_need(self, kind):
        head = HEADS[kind]
        assert head.Config.kind == head.Config().kind == kind
        assert head.title and head.toy_iterations > 0
        assert set(head.guidance_levels) <= {"prediction", "representation"}
        assert 1 <= build(kind).max_steps <= 1000

    def test_the_work_of_a_loss_is_what_torch_counts(self, kind, target, context):
        """Up to the passes without a backward pass, which ``train_passes`` counts."""
        head = build(kind)
        with FlopCounterMode(display=False) as counter:
            head.loss(target, context, torch.Generator().manual_seed(0))
        assert 0.999 <= counter.get_total_flops() / (N * head.loss_flops()) <= 2 * (head.train_passes - 2)

    def test_it_learns_a_toy(self, kind):
        training = ToyTraining(kind, "gaussians", 0, iterations=2)
        training.train(2)
        points = training.draw(MOST_STEPS)
        assert points.isfinite().all() and training.steps_taken(MOST_STEPS) == min(MOST_STEPS, training.head.max_steps)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
class TestContract:
    def test_a_loss_is_one_finite_value_per_row_and_repeats_with_its_generator(self, setting, context, target):
        head = build(**setting)
        first, again = (head.loss(target, context, torch.Generator().manual_seed(3)) for _ in range(2))
        assert first.shape == (N,) and first.isfinite().all()
        assert torch.equal(first, again)

    def test_every_parameter_and_the_context_get_a_finite_gradient(self, setting, context, target):
        head = build(**setting)
        context = context.requires_grad_()
        head.loss(target, context, torch.Generator().manual_seed(0)).mean().backward()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name
        assert context.grad.isfinite().all()
        assert context.grad.abs().sum(dim=1).gt(0).all()

    def test_a_row_s_loss_reaches_its_own_context_alone(self, setting, context, target):
        head, context = build(**setting), context.requires_grad_()
        head.loss(target, context, torch.Generator().manual_seed(0))[4].backward()
        reached = context.grad.abs().sum(dim=1).gt(0)
        assert reached.tolist() == [row == 4 for row in range(N)]

    def test_samples_have_the_shape_and_repeat_with_their_noise(self, setting, context):
        head = build(**setting)
        options = {"cfg_scale": 1.0, "steps": steps_of(head), "temperature": 1.0}
        first = head.sample(context, None, draw=drawer(0), **options)
        assert first.shape == (N, D) and first.dtype == torch.float64
        assert torch.equal(first, head.sample(context, None, draw=drawer(0), **options))
        assert not torch.allclose(first, head.sample(context, None, draw=drawer(1), **options))

    def test_a_row_does_not_depend_on_its_batch(self, setting, context):
        head = build(**setting)
        null = torch.zeros_like(context)
        options = {"cfg_scale": 3.0, "steps": steps_of(head), "temperature": 0.8}
        whole = head.sample(context, null, draw=drawer(0), **options)
        draw = drawer(0)
        alone = head.sample(context[4:5], null[4:5], draw=lambda: draw()[4:5], **options)
        torch.testing.assert_close(alone, whole[4:5], rtol=0, atol=1e-11)

    def test_scale_one_is_no_guidance_and_scale_zero_is_the_null_condition(self, setting, context):
        head, null = build(**setting), torch.ones(N, C, dtype=torch.float64)
        options = {"steps": steps_of(head), "temperature": 1.0}
        free = head.sample(context, None, cfg_scale=1.0, draw=drawer(0), **options)
        assert torch.equal(head.sample(context, null, cfg_scale=1.0, draw=drawer(0), **options), free)
        dropped = head.sample(null, None, cfg_scale=1.0, draw=drawer(0), **options)
        nothing = head.sample(context, null, cfg_scale=0.0, draw=drawer(0), **options)
        torch.testing.assert_close(nothing, dropped, rtol=0, atol=1e-9)
        guided = head.sample(context, null, cfg_scale=3.0, draw=drawer(0), **options)
        assert not torch.allclose(guided, free)

    def test_guidance_mixes_representations_or_the_predictions(self, setting, context):
        """One step from the first noise is affine in the prediction, so samples mix as predictions do."""
        head, null = build(**setting), torch.ones(N, C, dtype=torch.float64)
        if setting.get("modes"):
            torch.nn.init.zeros_(head.pick[-1].weight)  # modes are guided at their logits, which are now all equal
        options = {"steps": 1, "temperature": 1.0}
        guided = head.sample(context, null, cfg_scale=2.5, draw=drawer(0), **options)
        if head.guidance_level == "representation":
            wanted = head.sample(2.5 * context - 1.5 * null, None, cfg_scale=1.0, draw=drawer(0), **options)
        else:
            both = [head.sample(given, None, cfg_scale=1.0, draw=drawer(0), **options) for given in (context, null)]
            wanted = 2.5 * both[0] - 1.5 * both[1]
        torch.testing.assert_close(guided, wanted, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("steps", [0, -1])
    def test_no_steps_are_refused_by_name(self, setting, context, steps):
        with pytest.raises(ValueError, match=rf"steps must be .*got {steps}"):
            build(**setting).sample(context, None, cfg_scale=1.0, steps=steps, temperature=1.0, draw=drawer(0))

    def test_half_precision_samples_and_scores(self, setting, context, target):
        head = build(**setting).bfloat16()
        context, target = context.bfloat16(), target.bfloat16()
        options = {"cfg_scale": 2.0, "steps": steps_of(head), "temperature": 1.0}
        sample = head.sample(context, -context, draw=lambda: drawer(0)().bfloat16(), **options)
        assert sample.dtype == torch.bfloat16 and sample.isfinite().all()
        assert head.loss(target, context, torch.Generator().manual_seed(0)).isfinite().all()

    def test_built_on_the_meta_device_it_becomes_what_it_is_given(self, setting, context, target):
        wanted = head = build(**setting)
        with torch.device("meta"):
            head = HEADS[setting["kind"]](wanted.config, D, C)
        assert all(parameter.is_meta for parameter in head.parameters())
        head.load_state_dict(wanted.state_dict(), assign=True)
        options = {"cfg_scale": 1.0, "steps": steps_of(head), "temperature": 1.0}
        samples = [one.sample(context, None, draw=drawer(0), **options) for one in (head, wanted)]
        assert torch.equal(*samples)
        losses = [one.loss(target, context, torch.Generator().manual_seed(0)) for one in (head, wanted)]
        assert torch.equal(*losses)

    @pytest.mark.parametrize("steps", [1, 3, 16, 17, 129, 1001])
    def test_steps_are_honoured_or_refused(self, setting, context, steps):
        head = build(**setting)
        options = {"cfg_scale": 1.0, "steps": steps, "temperature": 1.0}
        if steps <= head.max_steps:
            head.check_steps(steps)
            assert head.sample(context[:1], None, draw=drawer(0, 1), **options).isfinite().all()
        else:
            message = f"steps must be .*{head.max_steps} for the {setting['kind']} head.*{steps}"
            with pytest.raises(ValueError, match=message):
                head.sample(context[:1], None, draw=drawer(0, 1), **options)
