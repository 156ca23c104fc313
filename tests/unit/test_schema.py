"""The published schema is the one that the code enforces, and says what each setting is."""

import json
from pathlib import Path

from shared.job.schema import job_schema, job_schema_text

PUBLISHED = Path(__file__).parents[2] / "docs" / "reference" / "job.schema.json"


def test_the_published_schema_is_the_codes():
    assert PUBLISHED.read_text(encoding="utf-8") == job_schema_text(), (
        "write it again: fedlora job schema > docs/reference/job.schema.json"
    )


def test_every_setting_has_a_description():
    definitions = job_schema()["$defs"]
    settings = [
        (name, key, value)
        for name, definition in definitions.items()
        for key, value in definition.get("properties", {}).items()
    ]
    assert len(settings) > 25
    assert [f"{name}.{key}" for name, key, value in settings if "description" not in value] == []


def test_the_schema_refuses_unknown_keys_everywhere():
    schema = job_schema()
    blocks = [schema, *(one for one in schema["$defs"].values() if one["type"] == "object")]
    assert all(block["additionalProperties"] is False for block in blocks)


def test_the_schema_is_json_that_editors_read():
    assert json.loads(job_schema_text())["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "$schema" in job_schema()["properties"]
