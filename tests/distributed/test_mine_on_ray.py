import numpy as np
import pytest

from adapt_ray.config import MiningConfig, ModelConfig
from adapt_ray.data.synthetic import demo_rows
from adapt_ray.distributed import mine
from adapt_ray.distributed.session import Session
from adapt_ray.errors import InputError
from adapt_ray.mining.closed import EncodedCorpus, mine_patterns
from adapt_ray.tokenization.task_tokenizer import base_tokenizer

pytestmark = pytest.mark.ray

TEXTS = [*demo_rows()["train"].texts[:300], ""]
MODEL = ModelConfig()


def local() -> EncodedCorpus:
    ids = base_tokenizer(MODEL)(TEXTS, add_special_tokens=False)["input_ids"]
    return EncodedCorpus.from_documents(ids)


def test_texts_come_back_encoded_in_their_order(session: Session) -> None:
    encoded = mine.tokenize(session, TEXTS, MODEL)
    np.testing.assert_array_equal(encoded.offsets, local().offsets)
    np.testing.assert_array_equal(encoded.tokens, local().tokens)


@pytest.mark.parametrize("tasks", [1, 3, 40])
@pytest.mark.parametrize("limits", [MiningConfig(), MiningConfig(max_gap=2, max_span=5)])
def test_shards_on_ray_equal_one_local_search(
    session: Session, tasks: int, limits: MiningConfig
) -> None:
    found = mine.mine(session, local(), limits, tasks)
    expected = mine_patterns(local(), limits)
    assert len(expected) > 50
    assert found.as_mapping() == expected.as_mapping()
    np.testing.assert_array_equal(found.starts, expected.starts)


def test_nothing_frequent_is_no_pattern(session: Session) -> None:
    assert len(mine.mine(session, local(), MiningConfig(min_support=1000), 4)) == 0


@pytest.mark.parametrize("cap", [5, 200])
def test_a_reached_cap_names_itself_and_what_helps(session: Session, cap: int) -> None:
    """A small cap ends a shard, a larger one the sum over shards."""
    with pytest.raises(InputError, match=rf"max_patterns = {cap} .*raise .*min_support"):
        mine.mine(session, local(), MiningConfig(max_patterns=cap), 8)
