"""One local Ray for the tests of the distributed layer."""

from collections.abc import Iterator

import pytest

from adapt_ray.config import ResourcesConfig
from adapt_ray.distributed.session import Session


@pytest.fixture(scope="session")
def session() -> Iterator[Session]:
    with Session(ResourcesConfig()) as session:
        session.start()
        yield session
