"""The published JSON schema of a job file, which editors use to complete and check it."""

import json
from typing import Any

from shared.job.specification import JobSpecification

SCHEMA_ID = "urn:fedlora:job:1"


def job_schema() -> dict[str, Any]:
    """JSON Schema 2020-12; a file may name it under the key `$schema`."""
    schema = JobSpecification.model_json_schema()
    properties = {
        "$schema": {"type": "string", "description": "this schema, for editors; not read otherwise"},
        **schema.pop("properties"),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **schema,
        "properties": properties,
    }


def job_schema_text() -> str:
    """What docs/reference/job.schema.json holds."""
    return json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"
