"""A job file's mistakes are all named at once, each with its line, its reason and what would work."""

from pathlib import Path

import pytest
import yaml

from shared.job.loading import JobFileError, load_job, parse_job, validate_job
from shared.job.refusals import refusals

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

GOOD = """\
name: chat
model:
  base: smollm2-135m
  task: causal-lm
data:
  prompt: prompt
  response: response
privacy:
  epsilon: 8
rounds:
  count: 3
"""

CLASSIFIER = """\
name: news
model:
  base: minilm
  task: sequence-classification
  labels: [a, b]
data:
  text: text
  label: label
"""


def problems(text: str) -> list[tuple[int | None, str, str, str]]:
    with pytest.raises(JobFileError) as caught:
        parse_job(text.encode())
    return [(one.line, one.field, one.reason, one.remedy) for one in caught.value.problems]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_can_run(path):
    assert refusals(load_job(path)) == ()


def test_a_good_file_is_read_with_its_defaults():
    job = parse_job(GOOD.encode())
    assert (job.name, job.rounds.count, job.lora.rank) == ("chat", 3, 8)


def test_an_exponent_without_a_point_is_a_number_although_yaml_says_text():
    assert parse_job((GOOD + "training:\n  learning_rate: 1e-3\n").encode()).training.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("text", "line", "field", "reason", "remedy"),
    [
        (GOOD.replace("epsilon:", "epsilonn:"), 9, "privacy.epsilonn", "no such setting", "did you mean epsilon?"),
        (GOOD.replace("epsilon: 8", "epsilon: 80"), 9, "privacy.epsilon", "80 is above 10", "set epsilon: 10"),
        (GOOD.replace("epsilon: 8", "epsilon: lots"), 9, "privacy.epsilon", "'lots' is not a number", "8"),
        (GOOD.replace("epsilon: 8", "epsilon: -1"), 9, "privacy.epsilon", "not above 0", "for example 8"),
        (GOOD + "  rank: 8\n", 12, "rounds.rank", "no such setting here", "move it under lora:"),
        (GOOD + "lora:\n  rank: 2\n", 13, "lora.rank", "2 is below 4", "set rank: 4"),
        (GOOD + "lora:\n  method: ffaa\n", 13, "lora.method", "not one of ffa, fedit", "did you mean method: ffa?"),
        (GOOD + "seed: 1.5\n", 12, "seed", "1.5 is not a whole number", "set seed: 0"),
        (GOOD + "lora:\n  target_modules: 7\n", 13, "lora.target_modules", "7 is not", "attention or mlp or all"),
        (GOOD.replace("causal-lm", "causal"), 4, "model.task", "not one of", "did you mean task: causal-lm?"),
        (GOOD.replace("name: chat\n", ""), 1, "name", "required and missing", "set name"),
        (GOOD.replace("name: chat", "name: My Chat"), 1, "name", "characters", "my-chat"),
        (GOOD.replace("data:\n  prompt: prompt\n  response: response\n", ""), 1, "data", "missing", "add a block data:"),
        (CLASSIFIER.replace("[a, b]", "[yes, b]"), 5, "model.labels.0", "booleans", "quotes"),
        (GOOD + "aggregation:\n  secure: secag\n", 13, "aggregation.secure", "not one of oneshot, secagg",
         "did you mean secure: secagg?"),
        (GOOD + "aggregation:\n  bits: 4\n", 13, "aggregation.bits", "4 is below 8", "set bits: 8"),
        (GOOD + "aggregation:\n  bound: wide\n", 13, "aggregation.bound", "'wide' is not a number or auto", "set bound: auto"),
        (GOOD + "aggregation:\n  bound: -1\n", 13, "aggregation.bound", "-1 is below", "set bound: 1e-30"),
        (GOOD + "aggregation:\n  key_holders: anna\n", 13, "aggregation.key_holders", "'anna' is not a list", "[anna]"),
        (GOOD + "aggregation:\n  key_holders: [anna, Bert B]\n", 13, "aggregation.key_holders.1", "characters",
         "bert-b"),
        (GOOD + "aggregation:\n  key_holders: [anna, 7]\n", 13, "aggregation.key_holders.1", "7 is not text", '"7"'),
        (GOOD + "aggregation:\n  committee: 99\n", 13, "aggregation.committee", "99 is above 64", "set committee: 64"),
        (GOOD + "aggregation:\n  group_size: few\n", 13, "aggregation.group_size", "'few' is not a whole", "group_size"),
        (GOOD + "aggregation:\n  robust: meen\n", 13, "aggregation.robust", "not one of", "robust: mean"),
        (GOOD + "aggregation:\n  stage_s: 0\n", 13, "aggregation.stage_s", "0 is not above 0", "example 10"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_line_and_the_nearest_that_works(text, line, field, reason, remedy):
    [(found_line, found_field, found_reason, found_remedy)] = problems(text)
    assert (found_line, found_field) == (line, field)
    assert reason in found_reason
    assert remedy in found_remedy


@pytest.mark.parametrize(
    ("text", "line", "field", "reason", "remedy"),
    [
        (CLASSIFIER.replace("  labels: [a, b]\n", ""), 2, "model.labels", "at least 2", "labels: [ham, spam]"),
        (CLASSIFIER.replace("[a, b]", "[a, a]"), 5, "model.labels", "a is listed twice", "once"),
        (GOOD.replace("  task: causal-lm", "  task: causal-lm\n  labels: [x]"), 5, "model.labels", "no classes",
         "remove model.labels"),
        (CLASSIFIER.replace("  label: label\n", ""), 6, "data.label", "none is named", "set data.label: label"),
        (CLASSIFIER + "  prompt: p\n", 9, "data.prompt", "has no prompt", "remove data.prompt"),
        (GOOD.replace("  response: response\n", ""), 5, "data.response", "one is missing", "data.response: response"),
        (GOOD.replace("  response: response\n", "  response: response\n  text: t\n"), 8, "data.text", "either text",
         "remove data.text"),
        (GOOD.replace("  response: response\n", "  response: response\n  label: t\n"), 8, "data.label", "no label",
         "sequence-classification"),
        (GOOD + "  min_clients: 5\n  clients_per_round: 3\n", 12, "rounds.min_clients", "only 3 clients",
         "set rounds.clients_per_round: 5"),
        (GOOD + "training:\n  momentum: 0.9\n", 13, "training.momentum", "adam", "optimizer: sgd"),
    ],
)  # fmt: skip
def test_an_impossible_combination_is_refused_with_its_line_and_the_fix(text, line, field, reason, remedy):
    [(found_line, found_field, found_reason, found_remedy)] = problems(text)
    assert (found_line, found_field) == (line, field)
    assert reason in found_reason
    assert remedy in found_remedy


def test_too_little_noise_is_refused_and_the_noise_it_names_is_enough():
    text = GOOD.replace("  epsilon: 8\n", "  epsilon: 1\n  noise_multiplier: 0.5\n")
    [(line, field, reason, remedy)] = problems(text)
    assert (line, field) == (10, "privacy.noise_multiplier")
    assert "and 1 is allowed" in reason
    named = remedy.removeprefix("set privacy.noise_multiplier: ").removesuffix(", or auto")
    assert parse_job(text.replace("0.5", named).encode()).privacy.noise_multiplier == float(named)


def test_delta_is_measured_against_the_records_of_the_smallest_client():
    job = parse_job(GOOD.encode())
    assert refusals(job, records=1_000) == ()
    [refused] = refusals(job, records=50_000)
    assert refused.field == "privacy.delta"
    assert refused.remedy == "set privacy.delta: 1e-06"


def test_all_mistakes_come_at_once_in_the_order_of_their_lines():
    text = GOOD.replace("epsilon: 8", "epsilon: 80").replace("count: 3", "count: 0").replace("base:", "bass:")
    assert [line for line, *_ in problems(text)] == [2, 3, 9, 11]


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"name: [unclosed\nmodel: {", 2, "not YAML"),
        (b"name: a\nname: b\n", 2, "name appears twice"),
        (b"- a\n- b\n", 1, "a job is a mapping"),
        (b"", 1, "a job is a mapping"),
        (b"a: &x [1]\nb: *x\n", 2, "aliases are not read"),
        (b"name: a\nmodel: \xff\n", 2, "not UTF-8"),
        (b"#" * 300_000, None, "at most"),
        (b"when: 2024-13-45\n", None, "not YAML"),
        (b"x: !!python/object/apply:os.system [true]\n", 1, "not YAML"),
    ],
)
def test_a_file_that_is_no_job_is_refused_without_a_traceback(content, line, reason):
    with pytest.raises(JobFileError) as caught:
        parse_job(content)
    [problem] = caught.value.problems
    assert problem.line == line
    assert reason in problem.reason
    assert problem.remedy


def test_a_missing_file_is_one_problem(tmp_path):
    with pytest.raises(JobFileError, match=r"absent\.yaml: cannot be read"):
        load_job(tmp_path / "absent.yaml")


def test_json_is_read_as_well_and_may_name_its_schema():
    value = {"$schema": "job.schema.json", **yaml.safe_load(GOOD)}
    assert validate_job(value) == parse_job(GOOD.encode())


def test_a_parsed_job_has_the_same_problems_without_lines():
    value = yaml.safe_load(GOOD.replace("epsilon: 8", "epsilon: 80"))
    with pytest.raises(JobFileError) as caught:
        validate_job(value)
    [problem] = caught.value.problems
    assert (problem.line, problem.field) == (None, "privacy.epsilon")
