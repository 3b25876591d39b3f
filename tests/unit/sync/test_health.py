"""Which registry is asked first, and when one is left alone."""

from __future__ import annotations

from berth.sync.cache.health import DISTRUST_SECONDS, Health


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_unknown_ones_are_tried_then_the_nearest_wins_and_equals_go_by_name() -> None:
    health = Health(Clock())
    assert health.order(["c", "a", "b"]) == ["a", "b", "c"]
    health.answered("a", 0.200)
    health.answered("b", 0.020)
    health.answered("c", 0.025)  # about the same
    assert health.order(["c", "a", "b"]) == ["b", "c", "a"]
    assert health.order(["a", "new", "b"]) == ["new", "b", "a"], "what was never asked is asked once"


def test_the_first_failure_is_forgiven_and_later_ones_double_the_rest() -> None:
    clock = Clock()
    health = Health(clock)
    health.failed("a", "down")
    assert health.state("a").healthy
    rests = []
    for _ in range(9):
        health.failed("a", "down")
        rests.append(health.state("a").retry_seconds)
    assert rests == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert health.order(["a", "z"]) == ["z", "a"]
    clock.now += 300
    assert health.state("a").healthy
    health.succeeded("a")
    health.failed("a", "down")
    assert health.state("a").healthy, "a success starts the count anew"


def test_wrong_bytes_put_a_registry_last_for_a_while() -> None:
    clock = Clock()
    health = Health(clock)
    health.lied("a", "wrong bytes")
    assert health.order(["a", "b"]) == ["b", "a"]
    assert health.state("a").healthy, "it may still be the only one"
    clock.now += DISTRUST_SECONDS
    assert health.order(["a", "b"]) == ["a", "b"]
