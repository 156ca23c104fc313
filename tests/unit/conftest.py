"""What several unit tests start from."""

import pytest

from tests.accountant_at_work import Accountant


@pytest.fixture
async def accountant(tmp_path):
    opened = await Accountant.open(f"sqlite+aiosqlite:///{tmp_path}/accountant.db")
    yield opened
    await opened.units.close()
