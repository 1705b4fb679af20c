import threading
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest

from dear.codec.mel import MelSpectrogram
from dear.config import MelConfig
from dear.visual import plots

SECONDS = 10.24


def picture(figure):
    """What the first axes of a figure show."""
    return figure.axes[0].images[0].get_array()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_waveform_shows_every_peak_on_a_true_scale(rng):
    wave = rng.uniform(-0.02, 0.02, 160_000).astype(np.float32)
    wave[12_345], wave[98_765] = 0.2, -0.24
    axes = plots.waveform_figure(wave, 16_000, SECONDS).axes[0]
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx(0.2, abs=0.002)
    assert corners[:, 1].min() == pytest.approx(-0.24, abs=0.002)
    assert corners[corners[:, 1].argmax(), 0] == pytest.approx(12_345 / 16_000, abs=0.02)
    assert axes.get_ylim()[1] == pytest.approx(0.25, rel=0.1)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["−0.25", "0", "0.25"]
    assert len(corners) < 4_000  # an envelope, not 160,000 points


def test_waveform_of_silence_and_of_few_samples():
    assert plots.waveform_figure(np.zeros(16_000), 16_000).axes[0].get_xlim() == (0, 1)
    plots.to_svg(plots.waveform_figure(np.array([0.5]), 16_000), "one sample")


def test_mel_is_in_decibels_with_time_to_the_right(rng):
    config = MelConfig()
    mel = rng.normal(-6, 2, (config.frames, config.n_mels)).astype(np.float32)
    figure = plots.mel_figure(mel, config)
    np.testing.assert_allclose(picture(figure), 20 * np.log10(np.exp(mel.astype(np.float64))).T, atol=1e-3)
    assert figure.axes[0].get_xlim() == (0, SECONDS)


def test_frequency_marks_lie_at_the_bins_of_the_filters():
    config = MelConfig(n_mels=64)
    filters = MelSpectrogram(config).filters.numpy()  # [bins, M]
    axes = plots.mel_figure(np.zeros((config.frames, 64)), config).axes[0]
    marks = dict(zip((text.get_text() for text in axes.get_yticklabels()), axes.get_yticks(), strict=True))
    assert list(marks) == ["0.5", "1", "2", "4 kHz"]
    for name, hertz in {"0.5": 500, "1": 1000, "2": 2000, "4 kHz": 4000}.items():
        # A filter weighs its bins; the middle of that weight is its frequency.
        centres = filters.T @ np.linspace(0, 8000, len(filters)) / filters.sum(0)
        assert np.interp(marks[name], np.arange(64), centres) == pytest.approx(hertz, rel=0.03)


def test_latents_of_either_shape_are_one_picture_symmetric_about_zero(rng):
    tokens = rng.normal(size=(128, 24)).astype(np.float32)
    flat, grid = plots.latents_figure(tokens, SECONDS), plots.latents_figure(tokens.T[:, :, None], SECONDS)
    np.testing.assert_array_equal(picture(flat), tokens.T)
    np.testing.assert_array_equal(picture(flat), picture(grid))
    low, high = flat.axes[0].images[0].get_clim()
    assert low == -high
    assert high == pytest.approx(np.percentile(np.abs(tokens), 99.5))
    channels = rng.normal(size=(8, 256, 16)).astype(np.float32)
    assert picture(plots.latents_figure(channels, SECONDS)).shape == (128, 256)
    np.testing.assert_array_equal(picture(plots.latents_figure(channels, SECONDS))[16 + 3], channels[1, :, 3])


def test_order_counts_from_one_and_leaves_out_what_is_not_drawn():
    cells = picture(plots.order_figure(np.array([2, -1, 0, 1, -1, 3]), 4, (3, 2), SECONDS))
    np.testing.assert_array_equal(cells.filled(0), [[3, 1, 0], [0, 2, 4]])
    with pytest.raises(ValueError, match=r"order .* grid \(3, 2\), got 5"):
        plots.order_figure(np.zeros(5), 4, (3, 2), SECONDS)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"mel must be of shape \[F, M\].*\[64\]"):
        plots.mel_figure(np.zeros(64), MelConfig())
    with pytest.raises(ValueError, match="64 bins, got 63"):
        plots.mel_figure(np.zeros((8, 63)), MelConfig())
    with pytest.raises(ValueError, match="waveform"):
        plots.waveform_figure(np.zeros(0), 16_000)
    with pytest.raises(ValueError, match="one length"):
        plots.spectrogram_grid([np.zeros((8, 64))], [], ["dog"], MelConfig())


def figures(rng):
    config = MelConfig()
    return [
        plots.waveform_figure(rng.normal(0, 0.1, 160_000), 16_000, SECONDS),
        plots.mel_figure(rng.normal(-6, 2, (config.frames, config.n_mels)), config),
        plots.latents_figure(rng.normal(size=(128, 32)), SECONDS),
        plots.order_figure(rng.permutation(128) // 4, 32, (128, 1), SECONDS),
    ]


def test_figures_line_up_under_one_another(rng):
    for figure in figures(rng):
        place = figure.axes[0].get_position()
        assert (place.x0, place.x1) == pytest.approx((plots.LEFT, plots.RIGHT))
        assert figure.axes[0].get_xlim() == (0, SECONDS)
        assert figure.get_figwidth() == plots.WIDTH


def test_svg_keeps_to_itself(rng):
    settings = dict(matplotlib.rcParams)
    for figure in figures(rng):
        svg = plots.to_svg(figure, 'a "dog" & <more>')
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert root.get("aria-label") == 'a "dog" & <more>'
        assert root.get("viewBox")
        assert root.get("width") is None
        assert "10 s" in "".join(root.itertext())  # text stays text
        assert "currentColor" in svg
        assert plots.INK not in svg
        assert "<style" not in svg
        assert "font-family" not in svg
        assert "<metadata" not in svg
        assert svg == plots.to_svg(figure, 'a "dog" & <more>')
    assert dict(matplotlib.rcParams) == settings


def test_drawing_in_several_threads_at_once_gives_the_same_pictures():
    alone = [plots.to_svg(figure, "x") for figure in figures(np.random.default_rng(3))]
    found = {}

    def draw(name):
        found[name] = [plots.to_svg(figure, "x") for figure in figures(np.random.default_rng(3))]

    threads = [threading.Thread(target=draw, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[name] for name in range(3)] == [alone] * 3


def test_grid_sets_real_left_and_generated_right(rng):
    config = MelConfig(frames=64, samples=10_000)
    real, generated = rng.normal(-6, 2, (2, 3, 64, 64)).astype(np.float32)
    figure = plots.spectrogram_grid(list(real), list(generated), ["dog", "rain", "chainsaw"], config)
    shown = [axes.images[0].get_array() for axes in figure.axes[:6]]
    for row in range(3):
        np.testing.assert_allclose(shown[2 * row], real[row].T * plots.DECIBELS, rtol=1e-6)
        np.testing.assert_allclose(shown[2 * row + 1], generated[row].T * plots.DECIBELS, rtol=1e-6)
    assert [axes.get_ylabel() for axes in figure.axes[:6:2]] == ["dog", "rain", "chainsaw"]


@pytest.mark.parametrize(
    "title", ["a dog barks", "a rooster crows in the early morning", "a dog barks far away, then " * 9]
)
def test_the_title_of_a_card_lies_within_it(title):
    figure = plots.card_figure(np.zeros((64, 64)), MelConfig(), title)
    png = plots.to_png(figure)
    assert png[16:24] == (1200).to_bytes(4, "big") + (630).to_bytes(4, "big")
    boxes = [text.get_window_extent() for text in figure.texts]
    assert len(boxes) == 2 and not boxes[0].overlaps(boxes[1])
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1200 and box.y1 <= 630 for box in boxes)
