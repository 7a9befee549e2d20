"""The checker finds what it must find, and nothing else."""

import pytest

from chaos.checker import (
    Life,
    Pause,
    Request,
    Seen,
    belongs_to,
    duplicated,
    forgotten,
    lost,
    outlived,
    overlaps,
    recovery_seconds,
)

MS = 1_000_000


def life(epoch: int, *ticks_ms: float, agent: str = "g/a") -> Life:
    """A life whose process id is 100 more than its epoch."""
    return Life(agent, epoch, 100 + epoch, [int(tick * MS) for tick in ticks_ms])


def pause(began_ms: float, ended_ms: float, *pids: int, whole: bool = True) -> Pause:
    """A pause of processes."""
    return Pause(frozenset(pids), int(began_ms * MS), int(ended_ms * MS), whole)


def test_lives_one_after_another_do_not_overlap() -> None:
    assert overlaps([life(2, 30, 40), life(1, 0, 20), life(3, 41)], []) == []


def test_lives_of_different_agents_do_not_overlap() -> None:
    assert overlaps([life(1, 0, 100), life(2, 50, 60, agent="g/b")], []) == []


def test_a_tick_after_the_next_life_began_is_an_overlap_of_that_length() -> None:
    [found] = overlaps([life(2, 15, 50), life(1, 0, 10, 20)], [])
    assert (found.older, found.newer, found.at) == ((1, 101), (2, 102), 15 * MS)
    assert found.length_ms == 5 and not found.thaw


def test_restarts_under_the_same_epoch_are_lives_of_their_own() -> None:
    first, second = Life("g/a", 1, 7, [0, 10 * MS]), Life("g/a", 1, 8, [5 * MS])
    assert len(overlaps([first, second], [])) == 1


def test_a_life_within_another_overlaps_for_all_its_time() -> None:
    [found] = overlaps([life(1, 0, 100), life(2, 20, 60)], [])
    assert found.length_ms == 40


def test_three_lives_at_once_are_three_overlaps() -> None:
    assert len(overlaps([life(1, 0, 100), life(2, 20, 100), life(3, 30, 100)], [])) == 3


def test_of_a_thawed_life_only_the_time_in_which_it_ran_counts() -> None:
    lives = [life(1, 0, 10, 1003, 1005), life(2, 500, 2000)]
    [found] = overlaps(lives, [pause(12, 1000, 101)])
    assert found.length_ms == 5 and found.thaw


def test_a_pause_of_the_newer_life_counts_no_more_than_one_of_the_older() -> None:
    lives = [life(1, 0, 100), life(2, 10, 100)]
    [found] = overlaps(lives, [pause(20, 60, 101), pause(40, 80, 102)])
    assert found.length_ms == 30


def test_a_pause_of_the_host_alone_or_at_another_time_is_no_excuse() -> None:
    lives = [life(1, 0, 10, 1003), life(2, 500, 2000)]
    assert not overlaps(lives, [pause(12, 1000, 101, whole=False)])[0].thaw
    assert not overlaps(lives, [pause(600, 1000, 101)])[0].thaw
    assert not overlaps(lives, [pause(12, 1000, 999)])[0].thaw


def test_a_frozen_life_that_never_ticked_again_is_no_overlap() -> None:
    assert overlaps([life(1, 0, 10), life(2, 500, 600)], [pause(12, 1000, 101)]) == []


def test_a_thawed_life_lasts_until_its_death_was_seen() -> None:
    frozen = Pause(frozenset([101]), 12 * MS, 1000 * MS, whole=True, deaths={101: 1030 * MS})
    for ticks in ((0, 10), (0, 10, 1001)):
        [found] = overlaps([life(1, *ticks), life(2, 500, 2000)], [frozen])
        assert found.length_ms == 30 and found.thaw
    assert overlaps([life(1, 0, 10), life(2, 1031, 2000)], [frozen]) == []


def test_a_life_that_ticks_after_it_was_stopped_has_outlived() -> None:
    lives = [life(1, 0, 10), life(2, 20, 40), life(1, 0, 99, agent="g/b")]
    assert outlived(lives, {"g/a": 30 * MS}) == [lives[1]]


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (Seen("RUNNING", live=True), None),
        (Seen("PENDING"), None),
        (Seen("FAILED", "it cannot be imported"), None),
        (Seen("FAILED"), "still FAILED, reason ''"),
        (Seen("RUNNING"), "RUNNING without a live process"),
        (Seen("STARTING", live=True), "still STARTING, reason ''"),
        (Seen("RESTARTING", "it ended"), "still RESTARTING, reason 'it ended'"),
        (Seen("STOPPING"), "still STOPPING, reason ''"),
    ],
)
def test_an_agent_is_forgotten_unless_it_runs_or_says_why_not(seen: Seen, why: str | None) -> None:
    assert forgotten(["g/a"], {"g/a": seen}) == ({"g/a": why} if why else {})


def test_an_agent_that_is_not_listed_is_forgotten_and_others_do_not_count() -> None:
    assert forgotten(["g/a"], {"g/b": Seen("STOPPING")}) == {"g/a": "not listed"}


def test_requests_are_lost_without_an_answer_and_duplicated_with_two() -> None:
    requests = [Request("g/a", number, 0) for number in (1, 2, 3)] + [Request("g/b", 1, 0)]
    answers = {("g/a", 1): [7], ("g/a", 2): [7, 8], ("g/b", 1): [9], ("g/c", 9): [1, 1]}
    assert [request.number for request in lost(requests, answers)] == [3]
    assert {request.number: pids for request, pids in duplicated(requests, answers).items()} == {2: [7, 8]}


def test_recovery_lasts_to_the_first_good_look_after_the_last_bad_one() -> None:
    looks = [(0, False), (1, True), (2, True), (3, False), (4, True), (5, False), (6, True), (7, True)]
    assert recovery_seconds(2 * 10**9, [(at * 10**9, well) for at, well in looks]) == 4.0


def test_recovery_takes_no_time_when_nothing_was_amiss_since_the_strike() -> None:
    assert recovery_seconds(5, [(1, False), (6, True)]) == 0.0


def test_moments_belong_to_the_last_strike_before_them() -> None:
    assert [belongs_to(at, [10, 20]) for at in (5, 10, 15, 20, 99)] == [0, 0, 0, 1, 1]
