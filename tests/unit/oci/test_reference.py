"""Names: what may be a project, model, repository, tag or reference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import BerthError, DigestInvalid, NameInvalid
from berth.oci import reference as references
from berth.oci.reference import ModelName, Reference

D = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize("name", ["a", "a/b", "a__b/c--d.e", "a---b", "0/1/2", "a" * 255])
def test_repository_names_of_the_specification_are_accepted(name: str) -> None:
    references.check_repository(name)


@pytest.mark.parametrize(
    "name",
    ["", "/", "a/", "/a", "a//b", "A", "a_", "-a", "a___b", "a..b", "a.-b", "a b", "ä", "a\n", "../a", "a" * 256],
)
def test_other_repository_names_are_refused(name: str) -> None:
    with pytest.raises(NameInvalid):
        references.check_repository(name)


@pytest.mark.parametrize("name", ["a", "vision-1", "a.b_c-d", "0", "a" * 128])
def test_model_and_project_names_are_accepted(name: str) -> None:
    references.check_project(name)
    references.check_model(name)


@pytest.mark.parametrize("name", ["", "a__b", "a--b", "a-", ".a", "A", "a/b", "a b", "a\n", "a" * 129, "..", "é"])
def test_other_model_and_project_names_are_refused(name: str) -> None:
    for check in (references.check_project, references.check_model):
        with pytest.raises(NameInvalid):
            check(name)


@pytest.mark.parametrize("tag", ["1.0.0", "_x", "latest", "A-b_c.D", "a" * 128, "sha256-" + "0" * 64 + ".sig"])
def test_tags_of_the_specification_are_accepted(tag: str) -> None:
    references.check_tag(tag)


@pytest.mark.parametrize("tag", ["", ".a", "-a", "a+b", "a/b", "a:b", "a b", "a\n", "a" * 129, "é"])
def test_other_tags_are_refused(tag: str) -> None:
    with pytest.raises(NameInvalid):
        references.check_tag(tag)


def test_a_model_name_has_two_parts() -> None:
    assert ModelName.parse("vision/demo") == ModelName("vision", "demo")
    assert str(ModelName("vision", "demo")) == "vision/demo"
    for text in ("demo", "a/b/c", "/demo", "vision/", "Vision/demo", ""):
        with pytest.raises(NameInvalid):
            ModelName.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v/d", Reference(None, "v", "d")),
        ("v/d:1.2.3", Reference(None, "v", "d", "1.2.3")),
        ("v/d:1.2.3+cpu.1", Reference(None, "v", "d", "1.2.3_cpu.1")),
        (f"v/d@{D}", Reference(None, "v", "d", None, D)),
        (f"prod/v/d:x@{D}", Reference("prod", "v", "d", "x", D)),
        ("localhost:5000/v/d", Reference("localhost:5000", "v", "d")),
        ("Reg.Example:443/v/d:latest", Reference("Reg.Example:443", "v", "d", "latest")),
        ("[::1]:5000/v/d:1", Reference("[::1]:5000", "v", "d", "1")),
        ("localhost/d:5000", Reference(None, "localhost", "d", "5000")),
    ],
)
def test_a_reference_gives_its_parts_and_the_first_of_three_is_the_registry(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected
    assert Reference.parse(str(expected)) == expected
    assert expected.repository == f"{expected.project}/{expected.name}"


def test_a_reference_tells_the_version_its_tag_stands_for() -> None:
    assert Reference.parse("v/d:1.2.3+cpu").version == "1.2.3+cpu"
    assert Reference.parse("v/d:latest").version is None
    assert Reference.parse("v/d").version is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "d",
        "d:1",
        "a/b/c/d",
        "v/d:",
        "v/D",
        "v//d",
        "/v/d",
        "v/d:1+x",
        "v/d:1.2.3+a+b",
        "v/d:a:b",
        "-bad-/v/d",
        "a b/v/d",
        "host:port/v/d",
        "https://host/v/d",
    ],
)
def test_a_malformed_reference_is_refused_with_the_form_to_use(text: str) -> None:
    with pytest.raises(NameInvalid) as caught:
        Reference.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["v/d@", "v/d@sha256:x", f"v/d@{D}@{D}", f"v/d@{D.upper()}"])
def test_a_malformed_digest_in_a_reference_is_refused(text: str) -> None:
    with pytest.raises(DigestInvalid):
        Reference.parse(text)


@given(st.text("ab/:@.+_-1 A", max_size=20))
def test_any_text_is_a_reference_that_round_trips_or_an_error_of_ours(text: str) -> None:
    try:
        parsed = Reference.parse(text)
    except BerthError:
        return
    assert Reference.parse(str(parsed)) == parsed
