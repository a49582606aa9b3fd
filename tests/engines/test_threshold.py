"""A threshold that was calibrated on one file answers another, and is refused where it does not hold."""

import json
import math

import pytest
from command_line import COMMON, read, write_prompts
from llama_server import plain_pair

from cat_core.cascade import CascadeRunner
from cat_core.engines.command import main
from cat_core.engines.local import TransformersEngine
from cat_core.engines.threshold import Threshold, holds_for
from cat_core.training.models import save_model


@pytest.fixture(scope="module")
def calibrated(folders, tmp_path_factory):
    """(folder, its threshold.json, the answers to the calibration file, arguments that name the models)."""
    base = tmp_path_factory.mktemp("calibrated")
    prompts = write_prompts(base / "calibration.jsonl", 40)
    models = ["--small", folders[0], "--large", folders[1], *COMMON]
    saved, output = base / "threshold.json", base / "calibration.out.jsonl"
    more = ["--deferral-rate", "0.4", "--rule", "chow_sum", "--save-threshold", str(saved), "--output", str(output)]
    assert main([prompts, *models, *more]) == 0
    return base, saved, read(output), models


def test_the_rate_of_one_file_is_the_threshold_of_another(calibrated, capsys):
    base, saved, answers, models = calibrated
    found = Threshold.read(saved)
    confidence = sorted(row["confidence"] for row in answers)
    assert found.rule == "chow_sum" and found.n == 40 and found.tau in (confidence[15], -math.inf)
    assert found.deferral_rate == sum(row["model"] == "large" for row in answers) / 40 <= 0.4
    output = base / "others.out.jsonl"
    prompts = write_prompts(base / "others.jsonl", 30, seed=5)
    assert main([prompts, *models, "--threshold", str(saved), "--output", str(output)]) == 0
    for row in read(output):
        assert (row["model"] == "large") == (row["confidence"] <= found.tau)
    direct = base / "direct.out.jsonl"
    assert main([prompts, *models, f"--tau={found.tau!r}", "--rule", "chow_sum", "--output", str(direct)]) == 0
    assert read(direct) == read(output)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--max-new-tokens", "9"], "another small model or setting (max_new_tokens; max_new_tokens: 8 then, 9 now)"),
        (["--stop", "cat"], "another small model or setting (text"),
        (["--dtype", "bfloat16"], "another small model or setting"),
        (["--rule", "chow_average"], "is for --rule chow_sum: leave --rule and --defer-empty to it"),
        (["--defer-empty"], "leave --rule and --defer-empty to it"),
        (["--save-threshold", "x.json"], "goes with --tau or --deferral-rate"),
        (["--tau", "-1"], "not allowed with argument"),
        (["--threshold", "nowhere.json"], "there is no threshold file nowhere.json"),
    ],
)
def test_what_does_not_go_with_it_is_refused_in_one_line(calibrated, capsys, change, said, request):
    base, saved, _, models = calibrated
    output = base / f"{request.node.name.rpartition('-')[0][-12:]}.jsonl"
    arguments = [str(base / "calibration.jsonl"), *models, "--threshold", str(saved), "--output", str(output), *change]
    try:
        assert main(arguments) == 2
    except SystemExit as ended:  # of argparse
        assert ended.code == 2
    error = capsys.readouterr().err.strip()
    assert said in error.splitlines()[-1] and not output.exists()


def test_another_large_model_is_refused_and_a_corrected_command_may_have_the_output(calibrated, folders, capsys):
    base, saved, _, models = calibrated
    small, large, tokenizer = plain_pair()
    save_model(small, tokenizer, base / "other")
    output = base / "another.out.jsonl"
    given = [str(base / "calibration.jsonl"), "--threshold", str(saved), "--output", str(output)]
    assert main([*given, "--small", folders[0], "--large", str(base / "other"), *COMMON]) == 2
    assert "another large model or setting (model" in capsys.readouterr().err
    assert main([*given, *models]) == 0


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"tau": 1}', "\x00", json.dumps({"kind": "x", "seal": "0"})], ids=range(6)
)
def test_other_files_are_no_thresholds(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ValueError, match="t.json is no threshold file of this version, or was changed"):
        Threshold.read(tmp_path / "t.json")


def test_a_changed_number_is_noticed_and_infinities_are_kept(tmp_path, tiny_pair):
    small, large, tokenizer = tiny_pair
    runner = CascadeRunner(small, large, tokenizer, max_new_tokens=4)
    engines = [TransformersEngine(runner, side) for side in ("small", "large")]
    of = {side: holds_for(engine) for side, engine in zip(("small", "large"), engines)}
    path = tmp_path / "t.json"
    for tau in (-math.inf, math.inf, -1.25e-7):
        Threshold("chow_average", tau, 10, 0.5, **of).write(path)
        assert Threshold.read(path) == Threshold("chow_average", tau, 10, 0.5, **of)
        Threshold.read(path).check(*engines)
    with pytest.raises(ValueError, match="another small model"):
        Threshold.read(path).check(*engines[::-1])
    path.write_text(path.read_text().replace("-1.25e-07", "-1.25e-06"))
    with pytest.raises(ValueError, match="or was changed"):
        Threshold.read(path)
    for rule, tau in (("nonsense", 0.0), ("chow_sum", math.nan)):
        Threshold(rule, tau, 10, 0.5, **of).write(path)
        with pytest.raises(ValueError, match="unknown rule|no number"):
            Threshold.read(path)
