import pytest

from training.report.measure import choose_codec, choose_sampling


def row(l1, accuracy, fd=5.0):
    return {"l1": l1, "accuracy": accuracy, "fd": fd}


@pytest.mark.parametrize(
    ("refined", "fast", "wanted"),
    [
        (row(0.10, 0.90), row(0.20, 0.90), ("conv", "griffin-lim")),
        (row(0.10, 0.88, 4.9), row(0.07, 0.90), ("conv", "istft")),  # a tie in accuracy is broken by the FD
        (row(0.10, 0.88, 5.1), row(0.07, 0.87), ("patch", "griffin-lim")),
        (row(0.12, 0.95), row(0.09, 0.95), ("patch", "griffin-lim")),
    ],
)
def test_a_trained_part_ships_only_where_it_loses_nothing(refined, fast, wanted):
    table = {
        "griffin-lim": row(0.08, 0.88),
        "istft": fast,
        "patch + griffin-lim": row(0.11, 0.88, 5.0),
        "conv + griffin-lim": refined,
    }
    assert choose_codec(table, "griffin-lim") == wanted


def test_sampling_is_the_lowest_distance_among_the_most_accurate():
    rows = [
        {"cfg_scale": 1.0, "temperature": 1.0, "accuracy": 0.70, "fd": 10.0},
        {"cfg_scale": 2.0, "temperature": 0.8, "accuracy": 0.80, "fd": 30.0},
        {"cfg_scale": 3.0, "temperature": 0.6, "accuracy": 0.79, "fd": 20.0},
    ]
    assert choose_sampling(rows) == {"cfg_scale": 3.0, "temperature": 0.6}
