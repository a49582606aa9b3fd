"""Trains S with each of some options, by CAT-Dist unless told otherwise, and writes weights and log: run alone, and by
`accelerate launch`."""

import json
import sys
from pathlib import Path

import torch
from small_models import sentences

from cat_core.methods import METHODS
from cat_core.training.joint import train_jointly
from cat_core.training.models import ModelSize, build_model
from cat_core.training.teacher import TeacherCache
from cat_core.training.train import TrainSettings, train
from cat_core.training.training_set import GROUP_TOKENS


def main(cache: Path, folder: Path, options: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, training_set = sentences()
    GROUP_TOKENS["cpu"] = 0  # as the fixture every_group
    model = build_model(ModelSize(hidden=16, layers=1, heads=2, context=48), tokenizer, 1)
    model = model.double() if options.pop("double", False) else model
    given = {"method": "cat-dist", "steps": 6, "batch_size": 16, "learning_rate": 4e-3} | options
    settings, teacher = TrainSettings(**given), TeacherCache.load(cache)
    if METHODS[settings.method].router:
        log, model.cascade_router = train_jointly(model, training_set, settings, folder, teacher, use_cpu=True)
    else:
        log = train(model, training_set, settings, folder, teacher, use_cpu=True)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        torch.save(model.state_dict(), folder / "weights.pt")
        (folder / "log.json").write_text(json.dumps(log))


if __name__ == "__main__":
    cache, every, place = sys.argv[1:]
    for name, options in json.loads(every).items():
        main(Path(cache), Path(place) / name, options)
