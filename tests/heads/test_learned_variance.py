"""A diffusion head whose network also predicts how much noise a step adds."""

import math

import pytest
import torch
from small_heads import D, N, build, drawer

from dear.heads.diffusion import cosine_signal


class TestLearnedVariance:
    """A diffusion head whose network also predicts how much noise a step adds."""

    @staticmethod
    def saying(share, **options):
        """A head that predicts no noise and ``share`` everywhere."""
        head = build("diffusion", variance="learned", timesteps=50, **options)
        head.denoise = lambda x, time, context: torch.cat((torch.zeros_like(x), torch.full_like(x, share)), dim=1)
        return head

    def test_the_least_variance_is_the_fixed_one(self, context):
        options = {"cfg_scale": 1.0, "steps": 7, "temperature": 0.8}
        fixed = build("diffusion", timesteps=50)
        fixed.denoise = lambda x, time, context: torch.zeros_like(x)
        wanted = fixed.sample(context, None, draw=drawer(0), **options)
        got = self.saying(-1.0).sample(context, None, draw=drawer(0), **options)
        torch.testing.assert_close(got, wanted)

    def test_a_step_adds_the_posterior_s_or_its_own_noise_at_the_ends(self, context):
        """Two steps from timestep 49 to 0; the first adds noise."""
        now, then = cosine_signal(50)[[49, 0]].tolist()
        options = {"cfg_scale": 1.0, "steps": 2, "draw": drawer(0)}
        for share, variance in ((-1.0, (1 - then) / (1 - now) * (1 - now / then)), (1.0, 1 - now / then)):
            head, seen = self.saying(share), []
            denoise = head.denoise
            head.denoise = lambda x, *rest, seen=seen, denoise=denoise: (seen.append(x), denoise(x, *rest))[1]
            for temperature in (0.0, 1.0):
                head.sample(context, None, temperature=temperature, **options | {"draw": drawer(0)})
            draw = drawer(0)
            draw()
            torch.testing.assert_close(seen[3] - seen[1], variance**0.5 * draw())

    def test_guidance_mixes_the_noise_and_keeps_the_conditional_variance(self, context):
        head = build("diffusion", variance="learned")
        null, x, t = torch.ones_like(context), drawer(3)(), torch.full((N,), 5)
        guided = head.guide(context, null, 2.5, mixed=D)(x, t)
        conditional, unconditional = head(x, t, context), head(x, t, null)
        torch.testing.assert_close(guided[:, :D], 2.5 * conditional[:, :D] - 1.5 * unconditional[:, :D])
        torch.testing.assert_close(guided[:, D:], conditional[:, D:])

    @pytest.mark.parametrize("prediction", ["noise", "velocity"])
    def test_the_bound_is_least_at_the_variance_of_what_is_left_over(self, prediction):
        """KL(N(m, a) || N(m', b)) over b is least at ``b = a + (m - m')^2``, here between the posterior's and beta."""
        head, t = build("diffusion", variance="learned", prediction=prediction), torch.full((1,), 300)
        now, then = (cosine_signal(1000)[i].double() for i in (300, 299))
        beta, posterior = 1 - now / then, (1 - then) / (1 - now) * (1 - now / then)
        middle = (beta * posterior).sqrt()  # where the share is 0
        error = (middle - posterior).sqrt() / (then.sqrt() * beta / (1 - now))  # of x_0, which moves the mean so far
        clean, noise = torch.randn(2, 1, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        noisy = now.sqrt() * clean + (1 - now).sqrt() * noise
        wrong = clean + error
        eps = (noisy - now.sqrt() * wrong) / (1 - now).sqrt()
        predicted = eps if prediction == "noise" else (now.sqrt() * noisy - wrong) / (1 - now).sqrt()
        share = torch.zeros(1, D, dtype=torch.float64, requires_grad=True)
        loss = head.variance_loss(share, predicted, noisy, clean, t)
        (slope,) = torch.autograd.grad(loss.sum(), share)
        assert slope.abs().max() < 1e-4
        exact = 0.5 * ((middle / posterior).log()) / math.log(2)
        assert loss.item() == pytest.approx(exact.item(), abs=1e-3)
        for other in (-0.5, 0.5):
            assert head.variance_loss(torch.full((1, D), other), predicted, noisy, clean, t) > loss

    def test_the_mean_is_left_to_the_other_loss(self, context, target):
        head = build("diffusion", variance="learned", levels=1)
        predicted = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
        share, t = torch.zeros(N, D, dtype=torch.float64, requires_grad=True), torch.arange(N)
        head.variance_loss(share, predicted, target, target, t).sum().backward()
        assert predicted.grad is None and share.grad.abs().sum() > 0
