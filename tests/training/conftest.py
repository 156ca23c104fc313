"""Every test here imports torch and trains."""

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
torch.set_num_threads(1)  # tiny models: a second thread only waits for the first


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.training)
