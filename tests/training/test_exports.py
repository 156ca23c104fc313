"""What a job has made works elsewhere: exported, merged, framed, and started from."""

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from services.client.training.adapted_model import adapt
from services.client.training.framing import of_adapter, of_weights
from services.client.training.merging import change_base
from services.gateway.adapter import Parts, whole_adapter, zipped_adapter
from services.gateway.starts import checked
from shared.core.lora import to_safetensors
from shared.errors import Refused
from tests.training.models import Padding, base, job

DEVICE, IDS = torch.device("cpu"), torch.tensor([[3, 5, 7, 9, 11]])


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def unpacked(content: bytes, folder: Path) -> Path:
    with zipfile.ZipFile(BytesIO(content)) as archive:
        archive.extractall(folder)
    return folder


def shaken(model):
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters.values():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("method", ["ffa", "fedit", "fedsb", "rolora"])
@pytest.mark.parametrize("started", [False, True])
def test_an_exported_adapter_is_the_trained_model(tmp_path, method, started):
    specification, start = job(method=method), None
    if started:
        plain = adapt(base("llama"), Padding(), specification, DEVICE)
        start = {n: np.full(tuple(p.shape), 0.05, np.float32) for n, p in plain.parameters.items()}
    model = shaken(adapt(base("llama"), Padding(), specification, DEVICE, start=start))
    parts = Parts(to_safetensors(model.trainable()), to_safetensors(start) if start else b"")
    folder = unpacked(zipped_adapter(specification, model.layout, parts, "card"), tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(base("llama"), str(folder))
    torch.testing.assert_close(logits(loaded), logits(model.model), rtol=1e-4, atol=1e-5)
    assert (logits(loaded) - logits(base("llama"))).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
def test_a_changed_base_comes_with_the_adapter_and_merges(tmp_path, family):
    specification = job(family, method="fedex")
    model = shaken(adapt(base(family), Padding(), specification, DEVICE))
    generator = np.random.default_rng(4)
    change = {
        name: (
            0.05 * generator.normal(size=(layer.loaded.T if layer.transposed else layer.loaded).shape)
        ).astype(np.float32)
        for name, layer in model.bases.items()
    }
    model.shift(change)
    parts = Parts(to_safetensors(model.trainable()), base=to_safetensors(change))
    folder = unpacked(zipped_adapter(specification, model.layout, parts, "card"), tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(base(family), str(folder))
    assert (logits(loaded) - logits(model.model)).abs().max() > 1e-3
    change_base(loaded, folder)
    torch.testing.assert_close(logits(loaded), logits(model.model), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(loaded.merge_and_unload()), logits(model.model), rtol=1e-4, atol=1e-5)
    (folder / "base_change.safetensors").write_bytes(
        to_safetensors({"elsewhere": np.zeros((2, 2), np.float32)})
    )
    with pytest.raises(Refused, match="no layer elsewhere"):
        change_base(loaded, folder)


def test_frames_are_the_leading_singular_vectors_of_what_is_public(tmp_path):
    specification = job(method="fedsb")
    model = adapt(base("llama"), Padding(), specification, DEVICE)
    found = of_weights(model)
    assert set(found) == set(model.parameters)
    layer = next(iter(found)).split(".lora_")[0]
    weight = base("llama").get_submodule(layer.removeprefix("base_model.model.")).weight.detach().numpy()
    left, right = found[f"{layer}.lora_B.weight"], found[f"{layer}.lora_A.weight"]
    kept = np.linalg.svd(weight, compute_uv=False)[:4]
    np.testing.assert_allclose(np.sort(np.abs(np.diag(left.T @ weight @ right.T)))[::-1], kept, rtol=1e-3)
    started = adapt(base("llama"), Padding(), specification, DEVICE, start=found)
    np.testing.assert_array_equal(started.parameters[f"{layer}.lora_A.weight"].detach().numpy(), right)
    released = shaken(adapt(base("llama"), Padding(), job(method="ffa"), DEVICE))
    whole = whole_adapter(job(method="ffa"), released.layout, Parts(to_safetensors(released.trainable())))
    again = of_adapter(whole, model)
    product = whole[f"{layer}.lora_B.weight"] @ whole[f"{layer}.lora_A.weight"]
    projected = again[f"{layer}.lora_B.weight"] @ (again[f"{layer}.lora_B.weight"].T @ product)
    np.testing.assert_allclose(projected, product, atol=1e-4)
    with pytest.raises(Refused, match="no layer"):
        of_adapter({}, model)


def test_only_finite_float32_tensors_are_started_from():
    good = to_safetensors({"a": np.ones((2, 2), np.float32)})
    assert checked(good) == good
    for wrong, said in (
        (b"junk", "not an adapter"),
        (to_safetensors({}), "no tensors"),
        (to_safetensors({"a": np.full((2, 2), np.nan, np.float32)}), "not finite"),
    ):
        with pytest.raises(Refused, match=said):
            checked(wrong)
