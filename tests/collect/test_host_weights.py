from __future__ import annotations

from typing import Any

from watchdogd.collect.host_processes import ProcessSample
from watchdogd.collect.host_weights import Heavy, Weights


def make_process(pid: int, cpu_s: float = 0.0, **more: Any) -> ProcessSample:  # noqa: ANN401 - fields of any type
    usual: dict[str, Any] = {
        "ppid": 1,
        "start_ticks": 5,
        "group": pid,
        "is_zombie": False,
        "children_cpu_s": 0.0,
        "children_faults": 0,
        "memory_bytes": 1,
        "io_bytes": 0,
    }
    return ProcessSample(pid=pid, cpu_s=cpu_s, **{**usual, **more})


def weigh(*walks: list[ProcessSample], elapsed_s: float = 10.0) -> dict[str, list[Heavy]]:
    """What the last of these walks says."""
    weights = Weights()
    for walk in walks:
        found = weights.weigh(walk, elapsed_s)
    return found


def test_the_first_walk_knows_no_growth() -> None:
    found = weigh([make_process(1, 900.0), make_process(2, memory_bytes=7)])
    assert {"cpu", "forks", "io"}.isdisjoint(found)
    assert found["memory"][0] == Heavy(2, 7, {"ProcessMemoryBytes": 7})


def test_cpu_is_what_was_used_since_the_last_walk() -> None:
    found = weigh([make_process(1, 900.0), make_process(2, 1.0)], [make_process(1, 901.0), make_process(2, 6.0)])
    assert found["cpu"] == [
        Heavy(2, 50.0, {"ProcessCpuPercent": 50.0}),
        Heavy(1, 10.0, {"ProcessCpuPercent": 10.0}),
    ]


def test_a_reused_pid_is_another_process() -> None:
    found = weigh(
        [make_process(1, 100.0), make_process(2)], [make_process(1, 3.0, start_ticks=9), make_process(2, 6.0)]
    )
    assert [(heavy.pid, heavy.weight) for heavy in found["cpu"]] == [(2, 60.0), (1, 30.0)]


def test_who_starts_many_short_programs_is_named() -> None:
    found = weigh(
        [make_process(1, 0.0), make_process(2, 0.0)], [make_process(1, 0.5, children_cpu_s=8.0), make_process(2, 1.0)]
    )
    assert (found["cpu"][0].pid, found["cpu"][0].weight) == (1, 85.0)


def test_what_a_child_had_used_before_is_not_its_parents_doing_now() -> None:
    """A program that ran for hours ends: all that it used is in its parent's figure at once."""
    child = make_process(3, 7200.0, ppid=2, io_bytes=10**9)
    found = weigh(
        [make_process(1, 0.0), make_process(2, 0.0), child],
        [make_process(1, 1.0), make_process(2, 0.0, children_cpu_s=7200.2, io_bytes=10**9 + 50)],
    )
    assert [(heavy.pid, heavy.weight) for heavy in found["cpu"]] == [(1, 10.0), (2, 2.0)]
    assert found["io"] == [Heavy(2, 50, {"ProcessIoBytesPerSecond": 5})]


def test_what_whole_families_had_used_before_is_not_their_ancestors_doing_now() -> None:
    family = [make_process(2, 1.0), make_process(3, 50.0, ppid=2), make_process(4, 900.0, ppid=3)]
    found = weigh([make_process(1), *family], [make_process(1, 1.0), make_process(2, 1.0, children_cpu_s=950.5)])
    assert [(heavy.pid, heavy.weight) for heavy in found["cpu"]] == [(1, 10.0), (2, 5.0)]


def test_forks_go_by_the_faults_of_children_that_ended() -> None:
    first = [make_process(1, children_faults=10**6), make_process(2)]
    found = weigh(first, [make_process(1, children_faults=10**6 + 10), make_process(2, children_faults=9000)])
    assert found["forks"][0].pid == 2


def test_disk_traffic_is_of_those_that_may_be_read() -> None:
    found = weigh(
        [make_process(1, io_bytes=None), make_process(2, io_bytes=100)],
        [make_process(1, io_bytes=None), make_process(2, io_bytes=300)],
    )
    assert found["io"] == [Heavy(2, 200, {"ProcessIoBytesPerSecond": 20})]


def test_the_largest_group_is_named_by_its_oldest_member() -> None:
    bomb = [make_process(pid, group=70, start_ticks=pid) for pid in range(71, 90)]
    kernel = [make_process(pid, group=0) for pid in range(2, 60)]
    found = weigh([*kernel, make_process(1), *bomb])
    assert found["group"] == [Heavy(71, 19, {"ProcessCount": 19})]


def test_a_host_of_kernel_threads_has_no_group() -> None:
    assert weigh([make_process(2, group=0)])["group"] == []


def test_zombies_are_laid_to_who_should_wait() -> None:
    found = weigh([make_process(1), *(make_process(pid, ppid=9, is_zombie=True) for pid in (20, 21)), make_process(9)])
    assert found["zombies"] == [Heavy(9, 2, {"ProcessCount": 2})]
    assert weigh([make_process(1)])["zombies"] == []


def test_after_a_failed_walk_growth_begins_anew() -> None:
    weights = Weights()
    weights.weigh([make_process(1, 5.0)], 10.0)
    weights.forget()
    assert "cpu" not in weights.weigh([make_process(1, 50.0)], 10.0)
