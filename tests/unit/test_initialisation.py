"""Coordinator and clients derive the same initial adapter from the public seed."""

import hashlib

import numpy as np
import pytest

from shared.core.lora import flatten, from_safetensors, initial_tensor, to_safetensors, unflatten
from shared.errors import Rejected

NAME = "base_model.model.layers.0.q_proj.lora_A.weight"


@pytest.mark.parametrize(("rank", "width"), [(4, 16), (8, 576), (64, 64)])
def test_a_frozen_a_has_orthonormal_rows(rank, width):
    a = initial_tensor(1, NAME, (rank, width), "ffa").astype(np.float64)
    assert np.abs(a @ a.T - np.eye(rank)).max() < 1e-5


def test_b_and_a_head_begin_at_zero():
    assert not initial_tensor(1, NAME.replace("lora_A", "lora_B"), (6, 4), "ffa").any()
    assert not initial_tensor(1, "base_model.model.classifier.weight", (3, 6), "ffa").any()


def test_the_same_seed_gives_the_same_bytes_for_ever():
    digests = {
        method: hashlib.sha256(initial_tensor(7, NAME, (4, 32), method).tobytes()).hexdigest()[:16]
        for method in ("ffa", "fedit")
    }
    assert digests == {"ffa": "f60a252ddd712700", "fedit": "7e4907c48cb4028c"}


def test_seed_and_name_both_matter():
    first = initial_tensor(1, NAME, (4, 32), "ffa")
    assert not np.array_equal(first, initial_tensor(2, NAME, (4, 32), "ffa"))
    assert not np.array_equal(first, initial_tensor(1, NAME.replace("q_", "v_"), (4, 32), "ffa"))


def test_more_rows_than_columns_cannot_be_orthonormal():
    with pytest.raises(ValueError, match="rank 8"):
        initial_tensor(1, NAME, (8, 4), "ffa")


def test_vectors_and_files_come_back_unchanged():
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(2, np.float32)}
    shapes = [(name, tensors[name].shape) for name in sorted(tensors)]
    back = unflatten(flatten(tensors, sorted(tensors)), shapes)
    assert all(np.array_equal(back[name], tensors[name]) for name in tensors)
    assert all(np.array_equal(from_safetensors(to_safetensors(tensors))[n], tensors[n]) for n in tensors)
    with pytest.raises(Rejected):
        from_safetensors(b"not safetensors")
