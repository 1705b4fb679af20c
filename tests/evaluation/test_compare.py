import json

import pytest

from dear.evaluation.bench.compare import changes, changes_table, differing, load_earlier


def row(name, low, median, high, batch=1):
    return {"name": name, "batch": batch, "precision": "float32", "low": low, "median": median, "high": high}


def test_rows_of_both_runs_are_compared_beyond_their_quartiles():
    then = [row("bundled", 0.9, 1.0, 1.1), row("start", 3, 4, 5), row("base-ours", 2, 3, 4), row("bundled", 7, 8, 9, 8)]
    now = [
        row("bundled", 0.4, 0.5, 0.6),
        row("start", 4.5, 6, 7),
        row("base-ours", 5, 6, 7),
        row("bundled-fast", 1, 2, 3),
    ]
    skipped = {"name": "bundled", "batch": 8, "precision": "float32", "skipped": "no memory"}
    found = changes([*now, skipped], then)
    assert [(each["name"], each["speed_up"], each["verdict"]) for each in found] == [
        ("bundled", 2.0, "faster"),
        ("start", 4 / 6, "same"),
        ("base-ours", 0.5, "slower"),
    ]
    table = changes_table(found, {"processor": ["old", "new"]})
    assert "| bundled | 1 | float32 | 1 | 0.5 | 2.00x | faster |" in table
    assert table.endswith("another machine: processor 'new', then 'old'")


def test_machines_differ_in_what_times_depend_on():
    then, now = {"processor": "a", "threads": 2, "load_average": [1]}, {"processor": "a", "threads": 1, "gpu": "H200"}
    assert differing(now, then) == {"threads": [2, 1], "gpu": [None, "H200"]}


def test_an_earlier_run_is_one_that_json_wrote(tmp_path):
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps({"machine": {}, "rows": []}))
    assert load_earlier(path)["rows"] == []
    for text in ("{", "[]", '{"rows": []}', '{"machine": {}, "rows": 3}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="--compare must be the --json of an earlier benchmark"):
            load_earlier(path)
    with pytest.raises(ValueError, match="--compare must be"):
        load_earlier(tmp_path / "none.json")
