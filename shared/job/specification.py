"""The job specification: what a federation trains, how privately, and for how long."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")]


class Section(BaseModel):
    """One block of the YAML file: frozen, and strict about keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Task(StrEnum):
    """What the model learns to do."""

    CAUSAL_LM = "causal-lm"
    SEQUENCE_CLASSIFICATION = "sequence-classification"


class Model(Section):
    """The frozen base model, and what it is asked to do."""

    base: str = Field(description="`smollm2-135m`, `minilm`, a Hugging Face id, or a folder")
    task: Task
    labels: tuple[str, ...] = Field((), description="class names, for sequence-classification")
    max_length: int = Field(128, ge=8, le=8192, description="tokens a record is cut to")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


class Lora(Section):
    """The low-rank adapter."""

    method: Literal["ffa", "fedit"] = Field("ffa", description="which factors are trained and averaged")
    rank: int = Field(8, ge=4, le=64)
    alpha: float | None = Field(None, gt=0, description="scale numerator; default 2 x rank")
    target_modules: Literal["attention", "mlp", "all"] | tuple[str, ...] = "attention"


class Training(Section):
    """Local training in one round."""

    local_steps: int = Field(8, ge=1, le=10_000, description="DP-SGD steps in a round")
    learning_rate: float = Field(0.001, gt=0, le=100)
    optimizer: Literal["sgd", "adam"] = "adam"
    momentum: float = Field(0.0, ge=0, lt=1, description="for sgd")
    loss_on: Literal["response", "all"] = Field("response", description="tokens that are learnt")


class Privacy(Section):
    """The guarantee for one record of one client, over all rounds of the job."""

    epsilon: float = Field(8.0, gt=0, le=10)
    delta: float = Field(1e-5, gt=0, le=1e-5)
    clip_norm: float = Field(1.0, gt=0, description="L2 bound on one record's gradient")
    sampling_rate: float = Field(0.1, gt=0, le=1, description="Poisson rate q of a record, a step")
    noise_multiplier: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="sigma / clip norm; `auto` spends epsilon exactly over all rounds"
    )


class Rounds(Section):
    """How many rounds, with whom, and how long each may take."""

    count: int = Field(3, ge=1, le=100_000)
    min_clients: int = Field(2, ge=2, description="fewer finished updates abort the round")
    clients_per_round: int | None = Field(None, ge=2, description="default: all that are ready")
    deadline_s: float = Field(600.0, gt=0, description="from round.started to the last upload")
    gather_s: float = Field(30.0, ge=0, description="wait for more than min_clients before round 1")
    retries: int = Field(3, ge=0, description="rounds that may fail in a row before the job stops")


class Aggregation(Section):
    """How updates become one update."""

    secure: Literal["none"] = Field("none", description="`none`: the aggregator opens each update")
    robust: Literal["mean"] = "mean"
    server_learning_rate: float = Field(1.0, gt=0, le=10)


class Data(Section):
    """Which columns hold what; a plain-text file is one record a line under `text`."""

    text: str | None = None
    label: str | None = None
    prompt: str | None = None
    response: str | None = None
    bad_rows: Literal["skip", "stop"] = "skip"


class JobSpecification(Section):
    """A whole job, as submitted."""

    name: Name
    model: Model
    data: Data
    lora: Lora = Lora()
    training: Training = Training()
    privacy: Privacy = Privacy()
    rounds: Rounds = Rounds()
    aggregation: Aggregation = Aggregation()
    seed: int = Field(0, ge=0, lt=2**63, description="public: initial adapter, never noise or sampling")
