import errno

import pytest

from adapt_ray.errors import disk_problem


@pytest.mark.parametrize(
    "text",
    [
        str(OSError(errno.ENOSPC, "No space left on device")),
        "a task failed\nOSError: [Errno 28] Error writing bytes to file. Detail: none",
        # As safetensors and other libraries in Rust say it.
        "SafetensorError: Error while serializing: I/O error: No space left on device "
        f"(os error {errno.ENOSPC})",
    ],
)
def test_a_full_disk_is_told_in_one_line_with_what_to_do(text: str) -> None:
    found = disk_problem(text)
    assert found is not None
    assert found.startswith("a disk refused: ")
    assert "28" in found
    assert "the same command goes on" in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "text", ["", "[Errno 2] No such file or directory: 'x'", "refused (os error 111)", "error 28"]
)
def test_other_errors_are_no_trouble_with_a_disk(text: str) -> None:
    assert disk_problem(text) is None
