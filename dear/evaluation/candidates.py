"""What choosing among candidates gains, by a judge that does not choose:
``python -m dear.evaluation.candidates --judge efficientat:FILE``.

For each held-back prompt, candidates are generated once; the best of the first one, two, four, ... of them by the
bundled classifier are judged.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dear.cli import Parser, check_json, guarded, save_json
from dear.evaluation.generation import check_fits, named_prompts
from dear.evaluation.judge import JUDGE_HELP, Judge, describe, load_judge
from dear.evaluation.judge.answers import all_choices
from dear.evaluation.judge.features import embed
from dear.pipeline import AudioDEAR
from dear.ranking import default_judge, scores
from dear.request import MAX_SAMPLES, check_whole


def measure(
    pipeline: AudioDEAR,
    judge: Judge,
    prompts: Mapping[str, Sequence[str]],
    most: int = 8,
    count: int = 8,
    seed: int = 0,
    chooser: Judge | None = None,
) -> dict[str, Any]:
    """Figures of the best of 1, 2, 4, ... up to ``most`` candidates, ready for JSON.

    prompts: wordings by label; ``count`` of each label, repeated with other seeds where there are fewer. chooser: what
    ranks the candidates; None for the bundled classifier. Raises ValueError for bad input, and where the two judges
    are the same.
    """
    chooser = default_judge() if chooser is None else chooser
    most, count = check_whole("most", most, 1, MAX_SAMPLES), check_whole("count", count, 1, 10_000)
    if (judge.name, judge.digest) == (chooser.name, chooser.digest):
        raise ValueError(f"judge must not be the one that chooses, {chooser.name}")
    check_fits(judge, pipeline)
    check_fits(chooser, pipeline)
    items = [(label, texts[i % len(texts)]) for label, texts in prompts.items() for i in range(count)]
    choices = all_choices(judge, [label for label, _ in items])
    heard, ranked = [], []
    for number, (label, text) in enumerate(items):
        sound = pipeline.generate(text, seed=seed + number * most, num_samples=most).sound
        heard.append(embed(sound, [label] * most, judge).probabilities)
        ranked.append(scores(chooser, sound, [label]))
    rows = []
    for candidates in [2**power for power in range(most.bit_length()) if 2**power <= most]:
        best = [int(each[:candidates].argmax()) for each in ranked]
        probabilities = torch.stack([torch.as_tensor(each[i]) for each, i in zip(heard, best, strict=True)]).numpy()
        verdicts = choices.judge(probabilities, [label for label, _ in items])
        rows.append(
            {
                "candidates": candidates,
                "clips": len(items),
                "right": round(float(verdicts.right.mean()), 4),
                "top5": round(float(verdicts.top.mean()), 4),
            }
        )
    return {"judge": describe(judge), "chooser": describe(chooser), "variant": pipeline.variant, "rows": rows}


def markdown(result: Mapping[str, Any]) -> str:
    """The figures as a table."""
    lines = ["| candidates | clips | right | in the top five |", "|---|---|---|---|"]
    rows = result["rows"]
    lines += [f"| {row['candidates']} | {row['clips']} | {row['right']:.2f} | {row['top5']:.2f} |" for row in rows]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    def run() -> None:
        parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
        parser.add_argument("--judge", required=True, help=JUDGE_HELP % {"default": "none"})
        parser.add_argument("--model", help="a checkpoint's folder or owner/name; the bundled one where absent")
        parser.add_argument("--variant", help="student or teacher; the checkpoint's default where absent")
        parser.add_argument("--most", type=int, default=8, help="candidates of a prompt (default: %(default)s)")
        parser.add_argument("--count", type=int, default=8, help="clips of each label (default: %(default)s)")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--json", type=Path, metavar="FILE")
        options = parser.parse_args(argv)
        check_json(options.json)
        judge = load_judge(options.judge)
        pipeline = AudioDEAR.from_pretrained(options.model, variant=options.variant)
        prompts = named_prompts(judge, default_judge())
        result = measure(pipeline, judge, prompts, options.most, options.count, options.seed)
        print(markdown(result))
        save_json(options.json, result)

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
