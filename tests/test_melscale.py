import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank

from dear.melscale import hertz_to_mel, mel_filters, mel_to_hertz


@pytest.mark.parametrize(
    ("bins", "bands", "lowest", "highest", "sample_rate"),
    [(513, 64, 0, 8000, 16_000), (513, 64, 50, 14_000, 48_000), (129, 20, 0, 4000, 8000), (201, 80, 300, 7000, 16_000)],
)
def test_filters_equal_those_of_transformers(bins, bands, lowest, highest, sample_rate):
    wanted = mel_filter_bank(
        num_frequency_bins=bins,
        num_mel_filters=bands,
        min_frequency=lowest,
        max_frequency=highest,
        sampling_rate=sample_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    np.testing.assert_allclose(mel_filters(bins, bands, lowest, highest, sample_rate), wanted, rtol=0, atol=1e-15)


def test_the_scale_is_linear_to_1_khz_and_logarithmic_above():
    np.testing.assert_allclose(hertz_to_mel([0, 200, 1000, 6400]), [0, 3, 15, 42], atol=1e-12)
    hertz = np.linspace(0, 20_000, 101)
    np.testing.assert_allclose(mel_to_hertz(hertz_to_mel(hertz)), hertz, rtol=1e-12)
