"""The job specification: what a federation trains, how privately, and for how long."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from shared.core.robust.judging import Mix

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
    task: Task = Field(description="causal-lm or sequence-classification")
    labels: tuple[str, ...] = Field((), description="class names, for sequence-classification")
    max_length: int = Field(128, ge=8, le=8192, description="tokens a record is cut to")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of the frozen base model")
    quantisation: Literal["none", "8bit", "4bit"] = Field(
        "none", description="of the frozen base model's weights, by bitsandbytes"
    )


class Lora(Section):
    """The low-rank adapter."""

    method: Literal["ffa", "fedit", "rolora", "fedsb", "flora", "fedex", "flexlora"] = Field(
        "ffa", description="which factors are trained, and what becomes of the clients' changes to them"
    )
    rank: Literal["auto"] | Annotated[int, Field(ge=4, le=64)] = Field(
        8, description="of the update of each adapted matrix; `auto`: from noise, steps and lora.records"
    )
    records: int | None = Field(
        None, ge=1, description="for rank auto: records of all clients of a round, roughly; public"
    )
    rank_scale: float = Field(20.0, gt=0, description="for rank auto: kappa of the rule; larger is less rank")
    mixed_ranks: bool = Field(
        False, description="a client may train a smaller rank, as its owner's settings say"
    )
    alpha: float | None = Field(None, gt=0, description="scale numerator; default 2 x rank")
    target_modules: Literal["attention", "mlp", "all"] | tuple[str, ...] = Field(
        "attention",
        description="linear layers that are adapted: a family, or a list of module names, * for anything",
    )


class Training(Section):
    """Local training in one round."""

    local_steps: int = Field(8, ge=1, le=10_000, description="DP-SGD steps in a round")
    adaptive_steps: bool = Field(
        False, description="local_steps at first, fewer as the federation's progress slows: the same in all"
    )
    learning_rate: float = Field(0.001, gt=0, le=100, description="of the local optimizer")
    optimizer: Literal["sgd", "adam"] = Field("adam", description="local optimizer, fresh each round")
    momentum: float = Field(0.0, ge=0, lt=1, description="for sgd")
    loss_on: Literal["response", "all"] = Field("response", description="tokens that are learnt")


class Privacy(Section):
    """The guarantee for one record of one client, over all rounds of the job."""

    epsilon: float = Field(8.0, gt=0, le=10, description="bound on the privacy loss of one record")
    delta: float = Field(1e-5, gt=0, le=1e-5, description="at most 1 / (10 x records of a client)")
    clipping: Literal["fixed", "per-layer", "automatic", "adaptive"] = Field(
        "fixed", description="how a record's gradient is bounded; adaptive follows a quantile"
    )
    clip_norm: float = Field(1.0, gt=0, description="L2 bound on one record's gradient; adaptive: the first")
    clip_quantile: float = Field(
        0.5, gt=0, lt=1, description="for adaptive: the share of records that is not clipped"
    )
    sampling_rate: float = Field(0.1, gt=0, le=1, description="Poisson rate q of a record, a step")
    noise: Literal["local", "divided"] = Field(
        "local", description="each client's own, or one sum's, divided over the clients that are summed"
    )
    noise_multiplier: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="sigma / clip norm; `auto` spends epsilon exactly over all rounds"
    )
    personal_budgets: bool = Field(
        False, description="clients with a smaller epsilon of their own take part, with a smaller clip norm"
    )


class Rounds(Section):
    """How many rounds, with whom, and how long each may take."""

    count: int = Field(3, ge=1, le=100_000, description="rounds that complete before the job ends")
    min_clients: int = Field(2, ge=2, description="fewer finished updates abort the round")
    clients_per_round: int | None = Field(None, ge=2, description="default: all that are ready")
    selection: Literal["uniform", "availability", "bandwidth"] = Field(
        "uniform", description="of clients: at random, or rather those that finish rounds, or do so soon"
    )
    over_selection: float = Field(
        0.0, ge=0, le=1, description="share of clients_per_round asked beside them, against stragglers"
    )
    asynchronous: bool = Field(
        False, description="clients train at their own pace; without secure aggregation alone"
    )
    buffer: int = Field(10, ge=1, description="for asynchronous: updates that make a step of the adapter")
    deadline_s: float = Field(600.0, gt=0, description="from round.started to the last upload")
    gather_s: float = Field(30.0, ge=0, description="wait for more than min_clients before round 1")
    retries: int = Field(3, ge=0, description="rounds that may fail in a row before the job stops")


SecureProtocol = Literal["oneshot", "secagg", "mpc3", "none"]


class Aggregation(Section):
    """How updates become one update."""

    secure: SecureProtocol = Field(
        "oneshot", description="who may see a single update: nobody, but with `none` the aggregator"
    )
    bits: int = Field(16, ge=8, le=16, description="of an encoded coordinate, sign included")
    bound: Literal["auto"] | Annotated[float, Field(ge=1e-30, le=1e30)] = Field(
        "auto", description="on a coordinate of an update, beyond it is clipped; `auto`: from the training"
    )
    rotate: bool = Field(False, description="spread an update by a randomised Hadamard transform first")
    key_holders: tuple[Name, ...] = Field(
        (), description="for oneshot: dedicated key holders by name; default: the cohort's own workers"
    )
    committee: int = Field(64, ge=2, le=64, description="for oneshot: at most so many key holders")
    stage_s: float = Field(10.0, gt=0, description="for each message exchange beside the upload")
    group_size: int | None = Field(
        None, ge=2, description="sum in random groups of this size, each on its own; default: one group"
    )
    smallest_group: int = Field(
        8, ge=2, description="no group's sum over fewer updates is opened; below 8 gives privacy up"
    )
    malicious: int = Field(
        0, ge=0, description="clients of a round that may lie, or tell the server all they know"
    )
    weight_cap: int | None = Field(
        None, ge=1, description="weigh by declared records, up to this many; default: every client the same"
    )
    robust: Name = Field(
        "mean", description="rule that judges updates, or the sums of groups; `fedlora rules` lists them"
    )
    mixing: Mix = Field(
        Mix.NONE,
        description="before a rule on inner products: mean of each one's nearest, or of random buckets",
    )
    bucket: int = Field(2, ge=2, description="for mixing buckets: how many are averaged")
    root: Name | None = Field(
        None, description="for fltrust: the client, with public data, by whose update others are measured"
    )
    suspend_at: float | None = Field(
        None, gt=0, description="score from which a client that keeps being left out is asked no more"
    )


class Server(Section):
    """How the federation's update moves the adapter."""

    optimizer: Literal["fedavg", "fedprox", "fednova", "fedavgm", "fedadam", "fedyogi", "scaffold"] = Field(
        "fedavg", description="what steps with the mean update"
    )
    learning_rate: float = Field(
        1.0, gt=0, le=10, description="factor on the step; for fedadam and fedyogi its length, such as 0.01"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="for fedavgm, fedadam and fedyogi")
    memory: float = Field(0.99, ge=0, lt=1, description="for fedadam and fedyogi: of the second moment")
    floor: float = Field(
        1e-3, gt=0, description="for fedadam and fedyogi: added to the root of the second moment"
    )
    proximal: float = Field(0.01, ge=0, description="for fedprox: pull back to where the round began")


class Compression(Section):
    """Fewer values an upload."""

    kind: Literal["none", "random-k", "top-k", "sign"] = Field(
        "none", description="random-k: the same random coordinates of every client"
    )
    keep: float = Field(0.25, gt=0, le=1, description="share of the coordinates that is sent")


class Evaluation(Section):
    """Noisy sums of metrics over records that clients hold out and never train on."""

    every: int | None = Field(None, ge=1, description="rounds between evaluations; default: never")
    share: float = Field(0.1, gt=0, lt=1, description="of a client's records that is held out")
    records: int = Field(256, ge=1, le=100_000, description="of a client that an evaluation reads, at most")
    noise_multiplier: float = Field(
        10.0, gt=0, description="noise on an evaluation's sums over what one record moves them by"
    )
    patience: int | None = Field(
        None, ge=1, description="evaluations in a row without a better loss that end the job"
    )
    stop_epsilon: float | None = Field(
        None,
        ge=0.1,
        le=10,
        description="clients vote when to stop, by AboveThreshold at this epsilon, and release no metrics",
    )


class Data(Section):
    """Which columns hold what; a plain-text file is one record a line under `text`."""

    text: str | None = Field(None, description="column of the text")
    label: str | None = Field(None, description="column of the class name, for sequence-classification")
    prompt: str | None = Field(None, description="column of what is answered, for causal-lm")
    response: str | None = Field(None, description="column of the answer, for causal-lm")
    bad_rows: Literal["skip", "stop"] = Field("skip", description="what a record that cannot be read does")


class JobSpecification(Section):
    """A whole job, as submitted."""

    name: Name = Field(description="what people call the job: lower-case letters, digits, - and _")
    model: Model
    data: Data
    lora: Lora = Lora()
    training: Training = Training()
    privacy: Privacy = Privacy()
    rounds: Rounds = Rounds()
    aggregation: Aggregation = Aggregation()
    server: Server = Server()
    compression: Compression = Compression()
    evaluation: Evaluation = Evaluation()
    seed: int = Field(0, ge=0, lt=2**63, description="public: initial adapter, never noise or sampling")
