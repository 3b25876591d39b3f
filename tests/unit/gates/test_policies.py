"""What do the three presets ask, and what of a written policy is refused? Expected values from design §6 "Policies"."""

from __future__ import annotations

from typing import Any

import pytest

from berth.errors import InvalidInput
from berth.gates.policies import BLOCK, PRESETS, Response, canonical_hash, from_json, policy_hash, to_json, trust_hash

ASKED = (
    "admit_everything",
    "require_vulnerability_scan",
    "require_weight_scan",
    "required_signatures",
    "require_approval",
)


@pytest.mark.parametrize(
    ("preset", "asked"),
    [
        ("open", (True, False, False, 0, False)),
        ("scanned", (False, True, True, 0, False)),
        ("strict", (False, True, True, 1, True)),
    ],
)
def test_what_a_preset_asks(preset: str, asked: tuple[Any, ...]) -> None:
    policy = from_json({"preset": preset})
    assert tuple(getattr(policy, name) for name in ASKED) == asked
    assert policy.deny_severities == ("CRITICAL", "HIGH")
    assert policy.only_fixable
    assert policy.max_report_age_days == 30
    assert not policy.four_eyes
    assert policy.on_new_finding == policy.on_stale_report == BLOCK
    assert not policy.allow_no_packages
    assert policy.on_deny == "untag"


def test_strict_is_the_default() -> None:
    assert from_json({}) == PRESETS["strict"]


def test_overrides_change_one_thing_each() -> None:
    policy = from_json(
        {
            "preset": "scanned",
            "deny_severities": ["HIGH", "CRITICAL", "MEDIUM"],
            "max_report_age_days": 7,
            "required_signatures": 2,
            "four_eyes": True,
            "on_new_finding": {"grace_days": 14},
            "on_stale_report": "warn",
            "on_deny": "mark",
        }
    )
    assert policy.deny_severities == ("CRITICAL", "HIGH", "MEDIUM")
    assert (policy.max_report_age_days, policy.required_signatures, policy.four_eyes) == (7, 2, True)
    assert policy.on_new_finding == Response("grace", 14)
    assert policy.on_stale_report == Response("warn")
    assert policy.on_deny == "mark"
    assert policy.require_weight_scan


@pytest.mark.parametrize(
    "written",
    [
        {"preset": "strict"},
        {"preset": "open", "on_deny": "keep"},
        {"preset": "scanned", "deny_severities": ["CRITICAL"], "on_new_finding": {"grace_days": 14}},
        {"preset": "scanned", "deny_severities": [], "on_stale_report": "warn", "allow_no_packages": True},
    ],
)
def test_a_policy_is_written_back_in_its_shortest_form(written: dict[str, Any]) -> None:
    assert to_json(from_json(written)) == written


def test_what_equals_the_preset_is_left_out() -> None:
    assert to_json(from_json({"preset": "strict", "four_eyes": False, "deny_severities": ["HIGH", "CRITICAL"]})) == {
        "preset": "strict"
    }


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"preset": "scaned"}, "Did you mean 'scanned'?"),
        ({"preset": "nothing alike"}, "Choose one of: open, scanned, strict."),
        ({"preset": 3}, "There is no policy preset"),
        ({"preset": None}, "There is no policy preset"),
        ({"require_aproval": True}, "Did you mean 'require_approval'?"),
        ({"presets": "open"}, "There is no policy field"),
        ({"four_eyes": "yes"}, "must be true or false"),
        ({"four_eyes": 1}, "must be true or false"),
        ({"max_report_age_days": 0}, "whole number from 1"),
        ({"max_report_age_days": True}, "whole number"),
        ({"max_report_age_days": 1.5}, "whole number"),
        ({"max_report_age_days": None}, "whole number"),
        ({"required_signatures": -1}, "whole number from 0"),
        ({"required_signatures": 11}, "to 10"),
        ({"deny_severities": "HIGH"}, "list of severities"),
        ({"deny_severities": ["high"]}, "Did you mean 'HIGH'?"),
        ({"deny_severities": [1]}, "list of severities"),
        ({"on_new_finding": "ignore"}, '{"grace_days": 14}'),
        ({"on_new_finding": {"grace_days": 0}}, "on_new_finding.grace_days"),
        ({"on_new_finding": {"grace_days": 5, "more": 1}}, "must be"),
        ({"on_stale_report": None}, "must be"),
        ({"on_deny": "untagg"}, "Did you mean 'untag'?"),
        ([], "must be a JSON object"),
        (None, "must be a JSON object"),
    ],
)
def test_a_mistake_is_refused_and_the_right_word_suggested(written: object, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        from_json(written)
    assert says in str(refused.value)


def test_equal_policies_have_equal_hashes_however_they_are_written() -> None:
    assert policy_hash(from_json({})) == policy_hash(from_json({"four_eyes": False, "preset": "strict"}))


def test_every_difference_changes_the_hash() -> None:
    written: list[dict[str, Any]] = [
        {"preset": "open"},
        {"preset": "scanned"},
        {"preset": "strict"},
        {"preset": "strict", "four_eyes": True},
        {"preset": "strict", "on_new_finding": "warn"},
        {"preset": "strict", "on_new_finding": {"grace_days": 1}},
        {"preset": "strict", "on_stale_report": "warn"},
        {"preset": "strict", "on_deny": "keep"},
    ]
    assert len({policy_hash(from_json(item)) for item in written}) == len(written)


def test_the_hash_of_trust_knows_keys_and_purposes_but_no_order() -> None:
    one, two = ("1", ("signature", "https://slsa.dev/provenance/v1")), ("2", ("signature",))
    assert trust_hash([one, two]) == trust_hash([two, ("1", tuple(reversed(one[1])))])
    assert len({trust_hash(keys) for keys in ([], [one], [two], [one, two], [("1", ("signature",))])}) == 5


def test_hashes_are_sha256_of_canonical_json() -> None:
    # printf '{"a":[1,"\\u00e9"],"b":null}' | sha256sum
    expected = "e6ad993c7a569e941cdd65aa57c817cb74d20d9877b15dfc8cc0ac151c74785d"
    assert canonical_hash({"b": None, "a": [1, "é"]}) == expected


@pytest.mark.parametrize(
    "policy", [{"preset": "strict", "admit_everything": True}, {"preset": "open", "admit_everything": False}]
)
def test_a_preset_means_what_it_says(policy: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="admit everything"):
        from_json(policy)
