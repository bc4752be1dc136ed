"""The guides come true: what they tell a reader to do is done, and answers as they say."""

import pytest

# Before they are imported, so that a failing assert shows what differs.
pytest.register_assert_rewrite(f"{__name__}.answers", f"{__name__}.reader")
