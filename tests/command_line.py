"""Arguments, prompts and answers of the cascade's command line, for its tests."""

import json
import random
from pathlib import Path

from llama_server import WORDS

NEW = 8
COMMON = ["--max-new-tokens", str(NEW), "--device", "cpu"]


def write_prompts(path, count=24, options=False, seed=0):
    draw = random.Random(seed)
    rows = [{"prompt": " ".join(draw.choices(WORDS, k=draw.randint(2, 9))), "target": "yes"} for _ in range(count)]
    for i, row in enumerate(rows):
        if i % 3:
            row["item_id"] = f"q{i}"
        if options:
            row["options"] = draw.sample(["yes", "no", "the cat", "zebra"], draw.randint(2, 4))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
