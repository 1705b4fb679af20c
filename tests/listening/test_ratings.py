"""Listening studies on disk, the file of their ratings, and what is computed from it."""

from __future__ import annotations

import csv
import io
import math
import sqlite3
import threading
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from scipy import stats
from study import PROMPTS, make_study

from dear.listening.ratings import Rating, Ratings, RatingsError, Result, check_rater, results, summarise, to_csv
from dear.listening.study import StudyError, anonymous_copy, order_for, read_study


@pytest.fixture
def folder(tmp_path):
    return make_study(tmp_path / "study")


def test_a_study_is_every_sound_of_every_system(folder):
    (folder / "ours" / "notes.txt").write_text("no sound")
    (folder / "ours" / "._0001.wav").write_text("left there by a file manager")
    (folder / ".git").mkdir()
    clips = read_study(folder)
    assert [(clip.system, clip.name, clip.prompt) for clip in clips] == [
        (system, *item) for system in ("ours", "theirs") for item in PROMPTS.items()
    ]
    assert clips[0].seconds == pytest.approx(0.1)
    assert len({clip.digest for clip in clips}) == 6


def test_what_a_system_lacks_is_named(folder):
    (folder / "theirs" / "0002.wav").unlink()
    with pytest.raises(StudyError, match="system 'theirs' lacks 0002.wav$"):
        read_study(folder)
    with open(folder / "prompts.csv", "a") as file:
        file.writelines(f"more-{i}.wav,rain\n" for i in range(6))
    with pytest.raises(StudyError, match="'ours' lacks more-0.wav, .*more-4.wav and 1 more$"):
        read_study(folder)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("file,prompt\n0001.wav,rain\n", "lacks the prompt of 0002.wav, 0003.wav$"),
        ("name,prompt\n0001.wav,rain\n", "must have the columns file and prompt, filled in: see row 2"),
        ("file,prompt\n0001.wav,rain\n0002.wav, \n", "filled in: see row 3"),
        ("file,prompt\n0001.wav,rain\n0001.wav,rain\n", "list each file once, '0001.wav' comes again in row 3"),
        (b"file,prompt\n0001.wav,caf\xe9\n", "can't be read as a table: .*0xe9 in line 2"),
    ],
)
def test_a_bad_table_of_prompts_is_reported(folder, table, said):
    (folder / "prompts.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(StudyError, match=said):
        read_study(folder)


def test_a_folder_that_is_no_study_is_reported(folder, tmp_path):
    with pytest.raises(StudyError, match="study must be a folder, got 'nowhere'"):
        read_study("nowhere")
    with pytest.raises(StudyError, match="one folder of sounds per system"):
        read_study(folder / "ours")
    (tmp_path / "empty" / "ours").mkdir(parents=True)
    with pytest.raises(StudyError, match="must hold sounds"):
        read_study(tmp_path / "empty")
    (folder / "ours" / "0001.wav").write_bytes(b"%PDF-1.7")
    with pytest.raises(StudyError, match="ours/0001.wav can't be read as a sound"):
        read_study(folder)
    soundfile.write(folder / "ours" / "0001.wav", np.zeros(0), 16_000)
    with pytest.raises(StudyError, match="ours/0001.wav must hold a sound"):
        read_study(folder)


def test_prompts_come_from_the_sounds_where_no_table_is(folder):
    def tell(system, name, prompt):
        with soundfile.SoundFile(folder / system / name, "w", 16_000, 1) as file:
            file.title = prompt
            file.write(np.zeros(100))

    (folder / "prompts.csv").unlink()
    for name, prompt in list(PROMPTS.items())[:2]:
        tell("ours", name, prompt)
    with pytest.raises(StudyError, match="0003.wav has no prompt: add prompts.csv"):
        read_study(folder)
    tell("theirs", "0003.wav", PROMPTS["0003.wav"])
    assert {clip.name: clip.prompt for clip in read_study(folder)} == PROMPTS
    tell("theirs", "0001.wav", "rain")
    with pytest.raises(StudyError, match="must have the same prompt, got 'a dog barks, then rain falls' and 'rain'"):
        read_study(folder)


def test_each_rater_has_an_order_of_their_own_that_stays(folder):
    clips = read_study(folder)
    order = order_for("anna", clips)
    assert order == order_for("anna", clips[::-1])
    assert sorted(order, key=clips.index) == clips
    assert len({tuple(order_for(f"rater {i}", clips)) for i in range(20)}) > 15
    # Every clip comes first about equally often: 600 of 6, and more than six standard deviations of leeway.
    first = [clips.index(order_for(str(i), clips)[0]) for i in range(600)]
    assert np.bincount(first, minlength=6).min() > 40
    # A clip that is added leaves the others in their order.
    added = replace(clips[0], system="newer")
    assert [clip for clip in order_for("anna", [*clips, added]) if clip != added] == order


@pytest.mark.parametrize(("subtype", "channels"), [("PCM_16", 1), ("FLOAT", 2)])
def test_a_copy_tells_nothing_but_the_sound(tmp_path, subtype, channels):
    folder = make_study(tmp_path / "study", ("secret",))
    samples = np.random.default_rng(1).integers(-32768, 32768, (500, channels), dtype=np.int16)
    with soundfile.SoundFile(folder / "secret" / "0001.wav", "w", 22_050, channels, subtype) as file:
        file.title, file.comment = "a prompt", '{"model": "secret"}'
        file.write(samples / 32768)
    clip = next(clip for clip in read_study(folder) if clip.name == "0001.wav")
    copy = anonymous_copy(clip, tmp_path / "served")
    assert "secret" not in str(copy.relative_to(tmp_path)) and copy.name == "clip.wav"
    content = copy.read_bytes()
    assert b"secret" not in content and b"a prompt" not in content
    assert len(content) == 44 + 2 * samples.size
    heard, rate = soundfile.read(copy, dtype="int16", always_2d=True)
    assert rate == 22_050
    # 16-bit samples are kept bit by bit.
    np.testing.assert_array_equal(heard, samples)
    written = copy.stat().st_mtime_ns
    assert anonymous_copy(clip, tmp_path / "served") == copy
    assert copy.stat().st_mtime_ns == written
    assert len({anonymous_copy(each, tmp_path / "served") for each in read_study(folder)}) == 3


@pytest.mark.parametrize("given", ["Anna", "  anna ", "ANNA", "ａｎｎａ"])
def test_spaces_and_case_of_a_code_do_not_count(given):
    assert check_rater(given) == "anna"


@pytest.mark.parametrize("given", ["", "   ", "x" * 41, "=1+1", "@sum", "-1", "a\nb\x00", "<b>", None, 7])
def test_a_code_that_will_not_do_is_reported(given):
    with pytest.raises(RatingsError, match="the code must be 1 to 40 letters"):
        check_rater(given)


def test_ratings_survive_and_the_last_one_counts(folder, tmp_path):
    path, clips = tmp_path / "ratings.db", read_study(folder)
    ratings = Ratings(path, clips)
    ratings.save("Anna", "ours", "0001.wav", 5, 4)
    ratings.save("ben", "ours", "0001.wav", 1, 2)
    ratings.save("anna", "theirs", "0002.wav", 3, 3)
    ratings.save("anna", "ours", "0001.wav", 2, 1)
    again = Ratings(path, clips)
    assert again.of("anna") == {("ours", "0001.wav"): (2, 1), ("theirs", "0002.wav"): (3, 3)}
    assert again.of("nobody") == {}
    rows = Ratings(path).all()  # results need no sounds
    assert [(row.rater, row.system, row.clip, row.rel, row.ovl) for row in rows] == [
        ("anna", "ours", "0001.wav", 2, 1),
        ("anna", "theirs", "0002.wav", 3, 3),
        ("ben", "ours", "0001.wav", 1, 2),
    ]
    assert {row.prompt for row in rows} == {PROMPTS["0001.wav"], PROMPTS["0002.wav"]}
    assert all(row.rated_at.endswith("+00:00") for row in rows)


@pytest.mark.parametrize("score", [0, 6, 3.0, "3", None, True])
def test_a_score_out_of_range_is_refused(folder, tmp_path, score):
    ratings = Ratings(tmp_path / "ratings.db", read_study(folder))
    with pytest.raises(RatingsError, match="OVL must be a whole number from 1 to 5"):
        ratings.save("anna", "ours", "0001.wav", 3, score)
    with pytest.raises(RatingsError, match="FOREIGN KEY"):
        ratings.save("anna", "ours", "0009.wav", 3, 3)
    assert ratings.all() == []


def test_many_raters_at_once_lose_nothing(folder, tmp_path):
    path, clips = tmp_path / "ratings.db", read_study(folder)
    failed = []

    def rate(rater):
        try:
            ratings = Ratings(path, clips)
            for clip in order_for(rater, clips):
                ratings.save(rater, clip.system, clip.name, 1 + len(clip.prompt) % 5, 1 + len(rater) % 5)
        except Exception as error:
            failed.append(error)

    raters = ["a", "bb", "ccc", "dddd", "dddd"]
    threads = [threading.Thread(target=rate, args=(rater,)) for rater in raters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    rows = Ratings(path).all()
    assert len(rows) == len(set(raters)) * len(clips)
    assert all((row.rel, row.ovl) == (1 + len(row.prompt) % 5, 1 + len(row.rater) % 5) for row in rows)


def test_ratings_of_other_sounds_are_not_mixed_in(folder, tmp_path):
    path, clips = tmp_path / "ratings.db", read_study(folder)
    Ratings(path, clips)
    soundfile.write(folder / "ours" / "0002.wav", np.zeros(100), 16_000)
    with pytest.raises(RatingsError, match="has ratings of another sound or prompt as ours/0002.wav"):
        Ratings(path, read_study(folder))
    with pytest.raises(RatingsError, match="another sound or prompt as ours/0001.wav"):
        Ratings(path, [replace(clips[0], prompt="rain")])
    # More systems may come.
    make_study(tmp_path / "more", ("newer",))
    Ratings(path, [*clips, *read_study(tmp_path / "more")]).save("anna", "newer", "0001.wav", 1, 1)


def test_a_file_that_is_no_file_of_ratings_is_left_alone(tmp_path):
    (tmp_path / "text.db").write_text("not a database at all, but long enough to be read as one" * 20)
    with pytest.raises(RatingsError, match="text.db can't be used: file is not a database"):
        Ratings(tmp_path / "text.db")
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("CREATE TABLE ratings (stars)")
    with pytest.raises(RatingsError, match="other.db is a database of another program"):
        Ratings(tmp_path / "other.db")
    Ratings(tmp_path / "newer.db")
    with sqlite3.connect(tmp_path / "newer.db") as database:
        database.execute("PRAGMA user_version = 2")
    with pytest.raises(RatingsError, match="newer.db has ratings of schema 2, this version reads schema 1"):
        Ratings(tmp_path / "newer.db")
    with pytest.raises(RatingsError, match="must lie in an existing folder"):
        Ratings(tmp_path / "nowhere" / "ratings.db")


def test_statistics_against_closed_forms():
    # Student's t has a closed form for 1, 2 and 4 degrees of freedom.
    found = summarise([2, 4])
    assert found["stdev"] == pytest.approx(math.sqrt(2))
    assert found["stderr"] == pytest.approx(1)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((3 - math.tan(0.475 * math.pi), 15.7062047))
    found = summarise([1, 2, 3])
    t = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    assert found["ci_high"] - found["mean"] == pytest.approx(t * 1 / math.sqrt(3))
    found = summarise([1, 2, 3, 4, 5])
    assert (found["mean"], found["stdev"], found["stderr"]) == pytest.approx((3, math.sqrt(2.5), math.sqrt(0.5)))
    assert found["mean"] - found["ci_low"] == pytest.approx(2.7764451052 * math.sqrt(0.5))
    assert (found["normal_low"], found["normal_high"]) == pytest.approx((3 - 1.96 * 0.5**0.5, 3 + 1.96 * 0.5**0.5))
    ends = dict.fromkeys(("ci_low", "ci_high", "normal_low", "normal_high"), 4)
    assert summarise([4, 4, 4]) == {"mean": 4, "stdev": 0, "stderr": 0} | ends
    one = summarise([4])
    assert one.pop("mean") == 4
    assert all(math.isnan(value) for value in one.values())


@pytest.mark.parametrize(
    ("mean", "stdev", "interval"),
    [(4.45, 0.27, (4.28, 4.62)), (3.92, 0.17, (3.81, 4.03)), (3.27, 0.19, (3.15, 3.39))],
)
def test_the_normal_interval_is_that_of_table_9(mean, stdev, interval):
    values = np.array([-1.0, 1.0] * 5)
    values = mean + stdev * values / values.std(ddof=1)
    found = summarise(values.tolist())
    assert (found["normal_low"], found["normal_high"]) == pytest.approx(interval, abs=0.0051)
    assert found["ci_low"] < interval[0] - 0.005  # Student's t is wider


@pytest.fixture(scope="module")
def rows():
    """Ten raters of three systems and eight clips, some of them not finished."""
    rng = np.random.default_rng(3)
    return [
        Rating(f"r{r}", system, f"{c}.wav", "rain", *(int(s) for s in rng.integers(low, low + 3, 2)), "now")
        for r in range(10)
        for system, low in (("a", 1), ("b", 2), ("c", 3))
        for c in range(8)
        if rng.random() < 0.8
    ]


def test_results_against_scipy(rows):
    by_rating, by_rater = results(rows), results(rows, "rater")
    assert [(row.measure, row.system, row.minus) for row in by_rating] == [
        (measure, *pair)
        for measure in ("REL", "OVL")
        for pair in (("a", ""), ("b", ""), ("c", ""), ("a", "b"), ("a", "c"), ("b", "c"))
    ]
    for row in by_rating + by_rater:
        scores = {
            system: {(r.rater, r.clip): getattr(r, row.measure.lower()) for r in rows if r.system == system}
            for system in "abc"
        }
        values = scores[row.system]
        if row.minus:
            both = values.keys() & scores[row.minus].keys()
            values = {key: values[key] - scores[row.minus][key] for key in both}
        raters = sorted({rater for rater, _ in values})
        drawn = list(values.values())
        if row.unit == "rater":
            drawn = [np.mean([score for (rater, _), score in values.items() if rater == each]) for each in raters]
        assert (row.n, row.raters) == (len(drawn), len(raters))
        assert row.mean == pytest.approx(np.mean(drawn))
        assert row.stdev == pytest.approx(np.std(drawn, ddof=1))
        assert row.stderr == pytest.approx(stats.sem(drawn))
        interval = stats.t.interval(0.95, len(drawn) - 1, np.mean(drawn), stats.sem(drawn))
        assert (row.ci_low, row.ci_high) == pytest.approx(interval)


def test_differences_are_paired(rows):
    found = next(row for row in results(rows) if row.minus == "b")
    a, b = ({(r.rater, r.clip): r.rel for r in rows if r.system == system} for system in "ab")
    both = sorted(a.keys() & b.keys())
    interval = stats.ttest_rel([a[key] for key in both], [b[key] for key in both]).confidence_interval(0.95)
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(interval))
    assert found.n == len(both) < min(len(a), len(b))


def test_results_of_little(rows):
    assert results([]) == []
    one = [row for row in rows if row.rater == "r0" and row.system != "c"]
    apart = [replace(row, clip=row.system + row.clip) for row in one]
    assert [row.minus for row in results(apart)] == [""] * 4  # nothing to pair
    found = results(one, "rater")
    assert {(row.n, row.raters) for row in found} == {(1, 1)}
    assert all(math.isnan(row.ci_low) for row in found)
    with pytest.raises(RatingsError, match="unit must be one of rating, rater, got 'clip'"):
        results(rows, "clip")


def test_csv_can_be_read_again(rows):
    prompt = 'a "dog", then\nrain'
    table = list(csv.DictReader(io.StringIO(to_csv([replace(rows[0], prompt=prompt)], Rating))))
    assert table[0]["prompt"] == prompt
    assert (table[0]["rater"], table[0]["rel"]) == ("r0", str(rows[0].rel))
    found = results(rows[:1] + rows[-1:])
    table = list(csv.DictReader(io.StringIO(to_csv(found, Result))))
    assert table[0]["unit"] == "rating" and table[0]["stdev"] == "" and float(table[0]["mean"]) == found[0].mean
    assert to_csv([], Rating) == "rater,system,clip,prompt,rel,ovl,rated_at\r\n"
