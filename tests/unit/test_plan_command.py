"""`fedlora plan`: the figures are those of the accountants, the remedies are settings that work."""

import json
import xml.etree.ElementTree as ET

import pytest

from fedlora.plan import drawn, plan_of
from shared.core.privacy import Mechanism, epsilon
from shared.core.privacy.statements import share_alone
from shared.job.loading import parse_job
from shared.job.plan import mechanism_of
from tests.command_line import fedlora

JOB = """
name: small
model: {base: minilm, task: causal-lm}
data: {text: text}
training: {local_steps: 4}
privacy: {epsilon: 4, delta: 1.0e-6, sampling_rate: 1.0}
rounds: {count: 12}
"""
DELTA = 1e-6


def edited(*changes):
    text = JOB
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture
def planned(tmp_path):
    """The command's answer to a job of this text."""

    def plan(text, *options):
        file = tmp_path / "job.yaml"
        file.write_text(text)
        return fedlora("plan", file, *options)

    return plan


def test_the_plan_as_json_is_what_the_accountants_say(planned):
    code, out, err = planned(JOB, "--records", 50, "--json")
    assert (code, err) == (0, "")
    plan = json.loads(out)
    noise = plan["noise_multiplier"]
    assert plan["epsilon"]["pld"] <= 4 < epsilon([Mechanism(1.0, noise - 1e-4, 48)], DELTA)
    assert [one["rounds"] for one in plan["curve"]][-1] == 12
    assert len(plan["curve"]) == 10
    for one in plan["curve"]:
        spent = [Mechanism(1.0, noise, 4 * one["rounds"])]
        assert (one["pld"], one["rdp"]) == (epsilon(spent, DELTA), epsilon(spent, DELTA, "rdp"))
    assert (plan["steps"], plan["more_rounds"], plan["expected_batch"], plan["refused"]) == (48, 0, 50.0, [])


def test_each_nearby_setting_meets_epsilon_with_the_noise_it_names(planned):
    _, out, _ = planned(JOB, "--json")
    nearby = json.loads(out)["nearby"]
    assert [(one["setting"], one["value"]) for one in nearby] == [
        ("privacy.sampling_rate", 0.5), ("rounds.count", 9), ("rounds.count", 6),
        ("training.local_steps", 3), ("training.local_steps", 2),
    ]  # fmt: skip
    steps = [48, 36, 24, 36, 24]
    least = json.loads(out)["least_noise_multiplier"]
    for one, total in zip(nearby, steps, strict=True):
        rate = one["value"] if one["setting"] == "privacy.sampling_rate" else 1.0
        assert epsilon([Mechanism(rate, one["noise_multiplier"], total)], DELTA) <= 4
        assert one["noise_multiplier"] < least
        assert one["of_average"] == pytest.approx(one["noise_multiplier"] / rate / least)


def test_rounds_that_would_still_fit_at_given_noise_are_counted_exactly(planned):
    _, out, _ = planned(edited(("sampling_rate: 1.0", "sampling_rate: 1.0, noise_multiplier: 12")), "--json")
    more = json.loads(out)["more_rounds"]
    assert more > 0
    assert epsilon([Mechanism(1.0, 12.0, 4 * (12 + more))], DELTA) <= 4
    assert epsilon([Mechanism(1.0, 12.0, 4 * (13 + more))], DELTA) > 4


def test_people_read_noise_epsilon_the_expected_batch_and_a_bar_a_round(planned):
    code, out, _ = planned(edited(("sampling_rate: 1.0", "sampling_rate: 0.5")), "--records", 4)
    assert code == 0
    for wanted in (
        "small: 12 rounds of 4 steps, sampling rate 0.5, epsilon 4 at delta 1e-06",
        "(the least under epsilon)",
        "by PLD, which decides",
        "more rounds that fit at this noise: 0",
        "expected batch 0.5 x 4 records = 2",
        "draws no record at all with probability 6.2%",
        "privacy.sampling_rate: 1 ",
    ):
        assert wanted in out
    bars = [line for line in out.splitlines() if line.rstrip().endswith("|") or "##" in line]
    assert len(bars) == 10
    lengths = [line.count("#") for line in bars]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_given_noise_says_what_would_do(planned):
    _, out, _ = planned(edited(("sampling_rate: 1.0", "sampling_rate: 1.0, noise_multiplier: 12")))
    least = plan_of(parse_job(JOB.encode())).nearby[0].noise_multiplier
    assert f"noise multiplier 12 (given; {least:g} would do)" in out


def test_adaptive_clipping_is_planned_by_its_joint_noise(planned):
    _, out, _ = planned(edited(("sampling_rate: 1.0", "sampling_rate: 1.0, clipping: adaptive")))
    least = plan_of(parse_job(JOB.encode())).nearby[0].noise_multiplier
    assert f"noise multiplier {least:g}" in out
    assert "of the gradients alone" in out


def test_the_plot_has_both_accountants_the_limit_and_is_well_formed(planned, tmp_path):
    plot = tmp_path / "plan.svg"
    assert planned(JOB, "--plot", plot)[0] == 0
    text = plot.read_text()
    ET.fromstring(text)
    for wanted in (">PLD<", ">RDP<", "limit 4", ">rounds<", ">epsilon<"):
        assert wanted in text
    assert text == drawn(plan_of(parse_job(JOB.encode()))) + "\n"


def test_too_many_records_for_delta_are_refused_after_the_plan_with_a_delta_that_works(planned):
    code, out, err = planned(JOB, "--records", 1_000_000, "--json")
    assert code == 2
    [refused] = json.loads(out)["refused"]
    assert refused["field"] == "privacy.delta"
    assert "job.yaml: privacy.delta: 1e-06 is above" in err
    assert "set privacy.delta: 1e-07" in err


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ((("rounds:", "runds:"),), (), "line 7: runds: there is no such setting; did you mean rounds?"),
        ((("epsilon: 4", "epsilon: 40"),), (), "privacy.epsilon: 40 is above 10"),
        (
            (("sampling_rate: 1.0", "sampling_rate: 1.0, noise_multiplier: 1"),),
            (),
            "line 6: privacy.noise_multiplier: 1 spends epsilon",
        ),
        ((), ("--plot", "plan.png"), "plan.png: plots are drawn as SVG; name it plan.svg"),
        ((), ("--plot", "absent/plan.svg"), "absent/plan.svg cannot be written"),
        ((), ("--records", "0"), "--records"),
    ],
)
def test_a_mistake_is_said_with_what_to_do_and_code_2(planned, tmp_path, monkeypatch, changes, options, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = planned(edited(*changes), *options)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_a_file_that_is_not_there_is_said_as_for_submit():
    assert fedlora("plan", "absent.yaml")[2] == fedlora("job", "submit", "absent.yaml")[2]


DIVIDED = """
name: small
model: {base: minilm, task: causal-lm}
data: {text: text}
training: {local_steps: 1, optimizer: sgd, learning_rate: 0.5}
privacy: {epsilon: 4, noise: divided, sampling_rate: 0.05}
rounds: {count: 60, min_clients: 10}
aggregation: {weight_cap: 1000, rotate: true}
"""


def test_divided_noise_is_planned_by_its_own_accountant_and_says_what_a_share_alone_gives(planned):
    code, out, err = planned(DIVIDED, "--json")
    assert (code, err) == (0, "")
    plan = json.loads(out)
    job = parse_job(DIVIDED.encode())
    whole = mechanism_of(job, plan["noise_multiplier"], 60)
    assert plan["epsilon"]["rdp"] == epsilon([whole], 1e-5) <= 4 < epsilon([Mechanism(0.05, 0.3, 60)], 1e-5)
    assert plan["noise_multiplier"] == plan["least_noise_multiplier"]
    assert (plan["noise"], plan["honest_survivors"]) == ("divided", 9)
    assert plan["epsilon_by_one_share"] == share_alone(whole, 9, 1e-5) > 4
    for one in plan["nearby"]:
        section, name = one["setting"].split(".")
        moved = job.model_dump()
        moved[section][name] = type(moved[section][name])(one["value"])
        again = type(job).model_validate(moved)
        steps = again.rounds.count
        assert epsilon([mechanism_of(again, one["noise_multiplier"], steps)], 1e-5) <= 4


def test_the_plan_of_divided_noise_names_no_accountant_that_has_no_figure_for_it(planned):
    _, out, _ = planned(DIVIDED)
    said = " ".join(out.split())
    assert "by RDP, which decides" in said
    assert "(PLD)" not in said
    assert "if secure aggregation fails" in said


def test_evaluations_are_in_the_curve_in_what_is_spent_and_in_what_still_fits(planned):
    text = (
        edited(("sampling_rate: 1.0", "sampling_rate: 1.0, noise_multiplier: 14"))
        + "evaluation: {every: 5}\n"
    )
    code, out, err = planned(text, "--json")
    assert (code, err) == (0, "")
    plan = json.loads(out)

    def spent(rounds, evaluations):
        return epsilon([Mechanism(1.0, 14.0, 4 * rounds), Mechanism(1.0, 10.0, evaluations)], DELTA)

    assert plan["evaluations"] == 3
    assert plan["epsilon_of_evaluations"]["pld"] == epsilon([Mechanism(1.0, 10.0, 3)], DELTA)
    for one in plan["curve"][:-1]:
        assert one["pld"] == spent(one["rounds"], one["rounds"] // 5)
    assert plan["curve"][-1]["pld"] == plan["epsilon"]["pld"] == spent(12, 3)
    more = plan["more_rounds"]
    after = 12 + more
    assert spent(after, -(-after // 5)) <= 4 < spent(after + 1, -(-(after + 1) // 5))
    _, out, _ = planned(text)
    assert "3 evaluations: epsilon" in out


def test_votes_are_paid_once_however_many_there_are(planned):
    voting = "evaluation: {every: 1, patience: 2, stop_epsilon: 0.5}\n"
    _, out, _ = planned(JOB + voting, "--json")
    plan = json.loads(out)
    assert plan["epsilon_of_evaluations"]["pld"] == pytest.approx(0.5, abs=2e-3)
    assert plan["epsilon"]["pld"] <= 4
    _, without, _ = planned(JOB, "--json")
    assert plan["noise_multiplier"] > json.loads(without)["noise_multiplier"]
    _, out, _ = planned(JOB + voting)
    assert "paid once" in out
