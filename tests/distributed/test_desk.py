import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from adapt_ray.distributed.desk import RETRIES, Desk

T = TypeVar("T")


def on_a_desk(scene: Callable[[Desk], Awaitable[T]]) -> T:
    async def play() -> T:
        return await asyncio.wait_for(scene(Desk()), 5)

    return asyncio.run(play())


async def waits(call: Awaitable[object]) -> bool:
    """Whether a call is still waiting after everything else had its turn."""
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0.01)
    waiting = not task.done()
    task.cancel()
    return waiting


def test_work_is_taken_in_order_and_results_go_to_their_channels() -> None:
    async def scene(desk: Desk) -> None:
        assert await desk.order("a", "1", b"one") == 1
        assert await desk.order("b", "2", b"two") == 2
        assert await desk.take("g", 0) == b"one"
        assert await waits(desk.result("a", 0))
        await desk.done("g", {"judged": 0.5})
        assert await desk.result("a", 0) == {"judged": 0.5}
        assert await desk.take("g", 1) == b"two"
        await desk.done("g", {"judged": 0.6})
        assert await desk.result("b", 0) == {"judged": 0.6}
        await desk.finish("a")
        assert await desk.result("a", 1) is None
        assert await desk.result("a", 0) == {"judged": 0.5}

    on_a_desk(scene)


def test_all_workers_of_a_group_get_the_same_work_and_wait_for_the_next_turn() -> None:
    async def scene(desk: Desk) -> None:
        for key in "12":
            await desk.order("a", key, key.encode())
        assert await desk.take("g", 0) == b"1"
        assert await desk.take("g", 0) == b"1"
        assert await waits(desk.take("g", 1)), "the second worker was ahead of the first one's word"
        assert await desk.take("other", 0) == b"2"
        await desk.done("g", {})
        assert await waits(desk.take("g", 1))

    on_a_desk(scene)


def test_equal_work_is_done_once_and_all_who_asked_hear_of_it() -> None:
    async def scene(desk: Desk) -> None:
        await desk.order("a", "same", b"work")
        await desk.order("b", "same", b"work")
        assert await desk.take("g", 0) == b"work"
        await desk.done("g", {"judged": 1.0})
        await desk.order("c", "same", b"work")
        for channel in "abc":
            assert await desk.result(channel, 0) == {"judged": 1.0}
        assert await waits(desk.take("g", 1))

    on_a_desk(scene)


def test_work_of_a_lost_group_goes_first_to_another_until_it_was_lost_too_often() -> None:
    async def scene(desk: Desk) -> None:
        await desk.order("a", "1", b"deadly")
        await desk.order("a", "2", b"harmless")
        for loss in range(RETRIES + 1):
            assert await desk.take(f"g{loss}", 0) == b"deadly"
            assert await desk.lost(f"g{loss}", "killed")
        assert await desk.result("a", 0) == {"error": "killed"}
        assert await desk.take("g", 0) == b"harmless"
        # A group that comes back from the dead says nothing any more.
        await desk.done("g0", {"judged": 0.0})
        assert await waits(desk.result("a", 1))

    on_a_desk(scene)


def test_work_that_gets_on_between_its_losses_is_not_given_up() -> None:
    async def scene(desk: Desk) -> None:
        await desk.order("a", "1", b"long")
        for loss in range(3 * RETRIES):  # two losses at every checkpoint
            assert await desk.take(f"g{loss}", 0) == b"long"
            await desk.begins(f"g{loss}", f"step-{loss // RETRIES}")
            assert await desk.lost(f"g{loss}", "preempted")
        await desk.take("g", 0)
        await desk.begins("g", "step-2")
        assert await desk.lost("g", "out of memory")  # the third one there
        assert await desk.result("a", 0) == {"error": "out of memory"}

    on_a_desk(scene)


def test_groups_that_never_start_end_what_waits_and_what_is_ordered_later() -> None:
    async def scene(desk: Desk) -> None:
        await desk.order("a", "1", b"work")
        answers = [await desk.lost(f"g{n}", "no such device") for n in range(RETRIES + 1)]
        assert answers == [True] * RETRIES + [False]
        assert await desk.result("a", 0) == {"error": "no such device"}
        await desk.order("a", "2", b"more")
        assert await desk.result("a", 1) == {"error": "no such device"}

    on_a_desk(scene)


def test_groups_that_cannot_start_beside_one_at_work_end_nothing() -> None:
    async def scene(desk: Desk) -> None:
        await desk.order("a", "1", b"long")
        assert await desk.take("g", 0) == b"long"
        for n in range(3 * RETRIES):
            assert await desk.lost(f"other{n}", "preempted")
        await desk.done("g", {"judged": 1.0})
        assert await desk.result("a", 0) == {"judged": 1.0}

    on_a_desk(scene)


def test_what_failed_can_be_asked_for_again() -> None:
    async def scene(desk: Desk) -> None:
        for attempt in range(2):
            await desk.order("a", "1", b"work")
            for loss in range(RETRIES + 1):
                await desk.take(f"g{attempt}{loss}", 0)
                await desk.lost(f"g{attempt}{loss}", "killed")
            assert await desk.result("a", attempt) == {"error": "killed"}

    on_a_desk(scene)


def test_a_closed_desk_sends_everybody_home() -> None:
    async def scene(desk: Desk) -> None:
        await desk.order("a", "1", b"work")
        waiting = asyncio.ensure_future(desk.take("late", 0))
        assert await waiting == b"work"
        await desk.order("a", "2", b"more")
        await desk.close()
        assert await desk.take("g", 0) is None
        assert not await desk.lost("late", "killed")

    on_a_desk(scene)


def test_a_result_can_be_posted_without_an_order() -> None:
    async def scene(desk: Desk) -> None:
        await desk.post("a", {"error": "does not fit"})
        assert await desk.result("a", 0) == {"error": "does not fit"}

    on_a_desk(scene)
