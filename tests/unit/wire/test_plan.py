"""What a plan decides: by hand-written tables, and three rules that hold for every plan."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.wire.plan import Item, Listed, Terms, Window, plan

NOW = datetime(2026, 6, 15, 12, 0, tzinfo=UTC)
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def here(tag: str, digest: str = ONE, *, model: str = "net", **more: Any) -> Listed:
    return Listed(f"lab/{model}", tag, digest, **more)


def there(tag: str, digest: str = ONE, *, model: str = "net", project: str = "lab", **more: Any) -> Listed:
    return Listed(f"{project}/{model}", tag, digest, **more)


def told(items: list[Item]) -> list[tuple[str, str, str]]:
    return [(item.tag, item.action, item.code) for item in items]


TERMS = Terms("lab")


@pytest.mark.parametrize(
    ("terms", "source", "target", "expected"),
    [
        (TERMS, here("1.0.0"), None, ("copy", "missing")),
        (TERMS, here("1.0.0"), there("1.0.0"), ("skip", "same")),
        (TERMS, here("1.0.0"), there("1.0.0", TWO), ("conflict", "other_digest")),
        (TERMS, here("1.0.0", admitted=False), None, ("skip", "denied")),
        (TERMS, here("1.0.0", admitted=False), there("1.0.0", TWO), ("skip", "denied")),
        (TERMS, here("1.0.0", deleted=True), None, ("skip", "deleted_here")),
        (TERMS, here("1.0.0"), there("1.0.0", deleted=True), ("skip", "deleted_there")),
        (TERMS, here("1.0.0"), there("1.0.0", TWO, deleted=True), ("conflict", "other_digest")),
        (TERMS, here("1.0.0", evidence=frozenset({TWO})), there("1.0.0"), ("copy", "evidence_missing")),
        (
            TERMS,
            here("1.0.0", evidence=frozenset({TWO})),
            there("1.0.0", evidence=frozenset({TWO})),
            ("skip", "same"),
        ),
        (Terms("lab", only_admitted=True), here("1.0.0"), None, ("skip", "not_judged")),
        (Terms("lab", only_admitted=True), here("1.0.0", admitted=True), None, ("copy", "missing")),
        (Terms("lab", range="^1"), here("1.9.0"), None, ("copy", "missing")),
        (Terms("lab", range="^1"), here("2.0.0"), None, ("skip", "out_of_range")),
        (Terms("lab", alias="production"), here("1.0.0"), None, ("skip", "not_the_alias")),
        (Terms("lab", alias="production"), here("1.0.0", aliases=frozenset({"production"})), None, ("copy", "missing")),
        (Terms("lab", labels={"tier": "gold"}), here("1.0.0", labels={"tier": "tin"}), None, ("skip", "label")),
        (Terms("lab", labels={"tier": "gold"}), here("1.0.0", labels={"tier": "gold"}), None, ("copy", "missing")),
        (Terms("lab", labels={"tier": "*"}), here("1.0.0", labels={"tier": "tin"}), None, ("copy", "missing")),
        (Terms("lab", only_higher=True), here("1.0.0"), there("2.0.0"), ("skip", "not_higher")),
        (Terms("lab", only_higher=True), here("2.0.0-rc.1"), there("2.0.0"), ("skip", "not_higher")),
        (Terms("lab", only_higher=True), here("2.0.1"), there("2.0.0"), ("copy", "missing")),
        (Terms("lab", only_higher=True), here("1.0.0"), None, ("copy", "missing")),
        (
            Terms("lab", window=Window(time(22), time(6))),
            here("1.0.0"),
            None,
            ("skip", "outside_window"),
        ),
        (Terms("lab", window=Window(time(11), time(13))), here("1.0.0"), None, ("copy", "missing")),
        # A pre-release tag with build metadata, as it is written in tags.
        (TERMS, here("1.0.0-rc.1_cpu"), None, ("copy", "missing")),
    ],
)
def test_one_version(terms: Terms, source: Listed, target: Listed | None, expected: tuple[str, str]) -> None:
    items = plan(terms, [source], [target] if target else [], NOW)
    assert [(item.action, item.code) for item in items] == [expected]
    assert items[0].reason.endswith(".")


def test_tags_that_are_no_version_are_left_alone_unless_asked_for() -> None:
    source = [here("latest"), here("sha256-" + "1" * 64 + ".sig"), here("1.0.0")]
    assert told(plan(TERMS, source, [], NOW)) == [("1.0.0", "copy", "missing")]
    everything = plan(Terms("lab", all_tags=True), source, [], NOW)
    assert told(everything) == [("1.0.0", "copy", "missing"), ("latest", "copy", "missing")]


def test_only_models_of_the_rule_are_looked_at_and_names_are_mapped() -> None:
    source = [here("1.0.0", model="net"), here("1.0.0", model="other"), Listed("else/net", "1.0.0", ONE)]
    items = plan(Terms("lab", target_project="prod", model="n*"), source, [], NOW)
    assert [(item.source_repository, item.target_repository) for item in items] == [("lab/net", "prod/net")]


def test_versions_of_a_model_come_in_rising_order() -> None:
    source = [here("1.10.0"), here("1.9.0"), here("1.10.0-rc.1")]
    assert [item.tag for item in plan(TERMS, source, [], NOW)] == ["1.9.0", "1.10.0-rc.1", "1.10.0"]


@pytest.mark.parametrize(("delete", "pruned"), [("never", False), ("untag", True), ("delete", True)])
def test_a_mirror_prunes_only_when_its_rule_says_so(delete: Any, pruned: bool) -> None:
    items = plan(Terms("lab", delete=delete), [here("2.0.0")], [there("1.0.0"), there("2.0.0")], NOW)
    assert ([("1.0.0", "prune", "gone")] if pruned else []) == [t for t in told(items) if t[1] == "prune"]


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_only_a_mirror_prunes(direction: Any) -> None:
    items = plan(Terms("lab", direction=direction, delete="delete"), [here("2.0.0")], [there("1.0.0")], NOW)
    assert [t for t in told(items) if t[1] == "prune"] == []


def test_a_source_that_looks_empty_prunes_nothing() -> None:
    assert plan(Terms("lab", delete="delete"), [], [there("1.0.0")], NOW) == []
    gone = [here("1.0.0", deleted=True)]
    assert [t for t in told(plan(Terms("lab", delete="delete"), gone, [there("1.0.0")], NOW)) if t[1] == "prune"] == []


def test_pruning_stays_within_the_filters() -> None:
    terms = Terms("lab", delete="delete", range="^1", model="net")
    target = [there("1.0.0"), there("2.0.0"), there("1.0.0", model="other"), there("1.0.0", project="else")]
    items = plan(terms, [here("1.5.0")], target, NOW)
    assert [(i.target_repository, i.tag) for i in items if i.action == "prune"] == [("lab/net", "1.0.0")]


def test_what_is_denied_now_leaves_a_mirror_that_prunes() -> None:
    items = plan(Terms("lab", delete="untag"), [here("1.0.0", admitted=False)], [there("1.0.0")], NOW)
    assert ("1.0.0", "prune", "denied") in told(items)


@pytest.mark.parametrize(
    ("hours", "at", "inside"),
    [
        ((time(22), time(6)), time(23, 59), True),
        ((time(22), time(6)), time(5, 59), True),
        ((time(22), time(6)), time(6), False),
        ((time(9), time(17)), time(17), False),
        ((time(9), time(17)), time(9), True),
        ((time(9), time(9)), time(3), True),
    ],
)
def test_a_window_may_span_midnight(hours: tuple[time, time], at: time, inside: bool) -> None:
    assert Window(*hours).holds(NOW.replace(hour=at.hour, minute=at.minute)) is inside


# -- rules that hold for every plan

TAGS = st.sampled_from(["1.0.0", "1.1.0", "2.0.0-rc.1", "2.0.0", "3.0.0_cpu", "latest"])
DIGESTS = st.sampled_from([ONE, TWO])


def listed(project: str) -> Any:
    return st.builds(
        Listed,
        repository=st.sampled_from([f"{project}/net", f"{project}/other"]),
        tag=TAGS,
        digest=DIGESTS,
        labels=st.sampled_from([{}, {"tier": "gold"}]),
        aliases=st.sampled_from([frozenset(), frozenset({"production"})]),
        admitted=st.sampled_from([None, True, False]),
        deleted=st.booleans(),
        evidence=st.sampled_from([frozenset(), frozenset({TWO})]),
    )


def places(project: str) -> Any:
    return st.lists(listed(project), max_size=8, unique_by=lambda item: (item.repository, item.tag))


TERMS_OF_ANY_KIND = st.builds(
    Terms,
    project=st.just("lab"),
    target_project=st.sampled_from([None, "prod"]),
    model=st.sampled_from(["*", "net"]),
    labels=st.sampled_from([{}, {"tier": "gold"}]),
    range=st.sampled_from([None, "^1", "*"]),
    alias=st.sampled_from([None, "production"]),
    direction=st.sampled_from(["push", "pull", "mirror"]),
    only_higher=st.booleans(),
    only_admitted=st.booleans(),
    all_tags=st.booleans(),
    delete=st.sampled_from(["never", "untag", "delete"]),
)


def carried_out(items: list[Item], source: list[Listed], target: list[Listed]) -> list[Listed]:
    """The target after the plan, as a registry that does what it is told would list it."""
    after = {(item.repository, item.tag): item for item in target}
    origin = {(item.repository, item.tag): item for item in source}
    for item in items:
        place = (item.target_repository, item.tag)
        if item.action == "copy":
            given = origin[(item.source_repository, item.tag)]
            held = after.get(place)
            evidence = given.evidence | (held.evidence if held else frozenset())
            after[place] = replace(given, repository=item.target_repository, evidence=evidence, deleted=False)
        elif item.action == "prune":
            del after[place]
    return list(after.values())


@settings(max_examples=300, deadline=None)
@given(terms=TERMS_OF_ANY_KIND, source=places("lab"), target=st.one_of(places("lab"), places("prod")))
def test_a_plan_carried_out_leaves_nothing_to_do(terms: Terms, source: list[Listed], target: list[Listed]) -> None:
    items = plan(terms, source, target, NOW)
    second = plan(terms, source, carried_out(items, source, target), NOW)
    assert [item for item in second if item.action in ("copy", "prune")] == []


@settings(max_examples=300, deadline=None)
@given(terms=TERMS_OF_ANY_KIND, source=places("lab"), target=st.one_of(places("lab"), places("prod")))
def test_no_plan_overwrites_anything(terms: Terms, source: list[Listed], target: list[Listed]) -> None:
    held = {(item.repository, item.tag): item.digest for item in target}
    for item in plan(terms, source, target, NOW):
        if item.action == "copy":
            assert held.get((item.target_repository, item.tag), item.digest) == item.digest
        if item.action == "conflict":
            assert item.target_digest != item.digest


@settings(max_examples=300, deadline=None)
@given(terms=TERMS_OF_ANY_KIND, source=places("lab"), target=st.one_of(places("lab"), places("prod")))
def test_no_plan_prunes_outside_its_policy(terms: Terms, source: list[Listed], target: list[Listed]) -> None:
    offered = {(item.tag, item.repository.partition("/")[2]): item for item in source if not item.deleted}
    for item in plan(terms, source, target, NOW):
        if item.action == "prune":
            assert terms.direction == "mirror"
            assert terms.delete != "never"
            there_too = offered.get((item.tag, item.target_repository.partition("/")[2]))
            assert there_too is None or there_too.admitted is False
