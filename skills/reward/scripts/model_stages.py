"""Parameters of the stages that make a reward model and say what it is worth."""

from typing import Annotated, ClassVar, Literal

from errors import ToolError
from pydantic import Field, model_validator
from stage import SCORING, TRAINING, Only, Shape, Stage, is_rendered, is_shape


class Train(Stage):
    """Train a reward model on the formatted pairs with TRL's RewardTrainer."""

    packages: ClassVar[str] = TRAINING
    reads: ClassVar[str] = "data model chat_template eval_sets"
    after: ClassVar[str] = "format"
    toy: ClassVar[str] = (
        "--model @base --data @data --out @model --max-steps 2 --batch-size 4 --batch-tokens 1024 --eval-steps 1 "
        "--max-dropped 1 --report-to none"
    )

    model: str = "Qwen/Qwen3-0.6B"
    """Base model: a hub id or a local folder."""
    data: str = "data"
    """Folder written by the format stage."""
    out: str = "model"
    """Folder for the reward model."""
    method: Annotated[Literal["full", "lora", "qlora"], Shape] = "full"
    """Train every weight, a LoRA adapter, or a LoRA adapter over a 4-bit base."""
    loss: Annotated[Literal["margin", "scaled", "ties", "listwise", "regression"], Shape] = "margin"
    """Bradley-Terry, margins subtracted or scaling it; with ties; whole rankings; ratings."""
    forward: Annotated[Literal["plain", "faster"], Shape] = "plain"
    """faster: has the code for liger and compile, which choose it."""
    max_length: int = Field(2048, ge=8, le=1_000_000)
    """Tokens a conversation may have."""
    overlong: Literal["drop", "truncate"] = "drop"
    """What to do with longer training pairs."""
    max_dropped: float = Field(0.1, ge=0, le=1)
    """Refuse when more of the pairs are dropped."""
    chat_template: str = ""
    """File of a chat template; empty: the tokenizer's own."""
    thinking: Literal["keep", "preserve", "erase"] = "keep"
    """Where the template deletes thinking: keep refuses, preserve amends it, erase allows it."""
    learning_rate: float = Field(1e-5, ge=1e-9, le=1)
    """Peak; 1e-5 for full, 1e-4 for LoRA."""
    epochs: float = Field(1, ge=0.001, le=100)
    """Passes over the training pairs."""
    max_steps: int = Field(-1, ge=-1)
    """Optimizer steps; -1 for all epochs."""
    batch_size: int = Field(32, ge=1)
    """Pairs (listwise, regression: prompts) per step, in all."""
    batch_tokens: int = Field(8192, ge=8)
    """Tokens per forward pass; memory, not result."""
    packing: bool = True
    """Shared prompts once, no padding, where possible."""
    warmup: float = Field(0.05, ge=0, le=1)
    """Share of the steps in which the rate rises."""
    label_smoothing: Annotated[float, Only(["margin", "scaled"])] = Field(0.0, ge=0, le=0.5)
    """Share of wrong labels (margin, scaled)."""
    center_rewards: Annotated[float, Only(["margin", "scaled", "ties"])] = Field(0.0, ge=0, le=10)
    """Pull to mean 0; 0.01 is usual."""
    tie_probability: Annotated[float, Only(["ties"])] = Field(0.33, ge=0.001, le=0.999)
    """That equally good answers are called a tie (ties)."""
    attribute_weights: Annotated[list[str], Only(["regression"])] = []
    """name=weight of attributes; empty: ratings (regression)."""
    lora_r: Annotated[int, Only(["lora", "qlora"])] = Field(16, ge=1, le=1024)
    """Rank of the adapter (lora, qlora)."""
    lora_alpha: Annotated[int, Only(["lora", "qlora"])] = Field(32, ge=1, le=4096)
    """Scale of the adapter (lora, qlora)."""
    merge: Annotated[bool, Only(["lora", "qlora"])] = False
    """Also write OUT/merged, for RL and servers (lora, qlora)."""
    gradient_checkpointing: bool = False
    """Less memory for a third more computation."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward; the head's is float32."""
    optimizer: Literal["auto", "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adafactor"] = (
        "auto"
    )
    """auto: fused AdamW on a GPU, 8-bit for qlora."""
    liger: Annotated[bool, Only(["faster"])] = False
    """Liger kernels on a GPU, kept where a check agrees."""
    compile: Annotated[bool, Only(["faster"])] = False
    """torch.compile the layers, kept where a check agrees."""
    eval_steps: int = Field(100, ge=1)
    """Optimizer steps between evaluations and checkpoints."""
    eval_sets: list[str] = []
    """More parquet files of pairs: path, or name=path."""
    best_set: str = ""
    """Set that picks the best; empty: the held-out pairs."""
    keep_best: bool = False
    """Keep the best checkpoint, not the last."""
    patience: int = Field(0, ge=0)
    """Stop after so many evaluations with no better one."""
    seed: int = Field(42, ge=0, le=2**32 - 1)
    """Seeds the reward head and the order of the data."""
    report_to: Literal["none", "trackio", "tensorboard", "wandb"] = "none"
    """Logs, besides curves.png."""
    resume: bool = True
    """Go on from the newest complete checkpoint."""

    @model_validator(mode="before")
    @classmethod
    def what_follows(cls, values):
        """LoRA wants a higher learning rate than full training (LoRA Without Regret, Schulman 2025: about 10x)."""
        if isinstance(values, dict) and values.get("method", "full") != "full":
            values = {"learning_rate": 1e-4, **values}
        if isinstance(values, dict) and (values.get("liger") or values.get("compile")):
            values = {"forward": "faster", **values}
        return values

    @model_validator(mode="after")
    def nothing_in_vain(self):
        """A value that the chosen code does not read is refused: it would be ignored without a word."""
        fields = type(self).model_fields
        chosen = {name: getattr(self, name) for name, field in fields.items() if is_shape(field)}
        for name in self.model_fields_set - chosen.keys():
            field, value = fields[name], getattr(self, name)
            if value != field.default and not is_rendered(field, chosen.values()):
                useful = " or ".join(option for mark in field.metadata if isinstance(mark, Only) for option in mark)
                having = ", ".join(f"{shape} = {option}" for shape, option in chosen.items())
                raise ToolError(f"{name} = {value!r} with {having}", f"{name} only with {useful}", f"leave {name} out")
        return self


class TrainSteps(Stage):
    """Train a process reward model on steps labelled right or wrong."""

    packages: ClassVar[str] = "torch transformers accelerate pyarrow datasets python-dotenv"
    reads: ClassVar[str] = "data model"
    toy: ClassVar[str] = (
        "--model @base --data @steps.jsonl --out @process --max-steps 2 --batch-size 2 --eval-fraction 0.5"
    )

    model: str = "Qwen/Qwen3-0.6B"
    """Base model: a hub id or a local folder."""
    data: list[str] = ["steps.jsonl"]
    """Files of problem, steps, label; or PRMBench's or TRL's."""
    out: str = "process_model"
    """Folder for the process reward model."""
    split: str = "train"
    """Split of a hub dataset."""
    mark: str = "\\n"
    """Text behind each step, where its label stands."""
    max_length: int = Field(4096, ge=8, le=1_000_000)
    """Tokens a solution may have; longer ones are dropped."""
    eval_fraction: float = Field(0.1, ge=0.001, le=0.9)
    """Share of the questions held out."""
    learning_rate: float = Field(1e-5, ge=1e-9, le=1)
    """Peak learning rate."""
    epochs: float = Field(1, ge=0.001, le=100)
    """Passes over the solutions."""
    max_steps: int = Field(-1, ge=-1)
    """Optimizer steps; -1 for all epochs."""
    batch_size: int = Field(8, ge=1)
    """Solutions per optimizer step and process."""
    seed: int = Field(42, ge=0, le=2**32 - 1)
    """Seeds the head, the order and what is held out."""


class Evaluate(Stage):
    """Measure what a reward model is worth on held-out pairs: accuracy, calibration, probes, a verdict and a report."""

    packages: ClassVar[str] = f"{SCORING} scipy matplotlib"
    reads: ClassVar[str] = "data model also"
    after: ClassVar[str] = "train"
    toy: ClassVar[str] = "--model @model --data @data/eval.parquet --out @eval"

    model: str = "model"
    """Reward model: a folder or a hub id."""
    data: str = "data/eval.parquet"
    """Parquet file of formatted pairs."""
    out: str = "eval"
    """Folder for metrics.json, scores.jsonl and report.html."""
    also: str = ""
    """Second reward model to compare with; empty for none."""
    folds: int = Field(0, ge=0, le=100)
    """Cross-validate with so many trainings; 0 for none."""
    probes: int = Field(100, ge=0, le=10_000)
    """Prompts to try degenerate answers on; 0 for none."""
    scaling: bool = True
    """Apply the scaling that the model carries."""
    max_length: int = Field(0, ge=0, le=1_000_000)
    """Tokens a conversation may have; 0: as trained."""
    batch_tokens: int = Field(8192, ge=8)
    """Tokens per forward pass."""
    packing: bool = True
    """Shared prompts once, no padding, where possible."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision; auto: bfloat16 on a GPU, else float32."""


class Benchmark(Stage):
    """Score reward models on a published benchmark as published, in one table."""

    packages: ClassVar[str] = f"{SCORING} datasets scipy matplotlib"
    reads: ClassVar[str] = "data models"
    after: ClassVar[str] = "train"
    toy: ClassVar[str] = "--benchmark reward-bench --models @model --data @items.jsonl --out @benchmark"

    benchmark: Literal[
        "reward-bench",
        "reward-bench-2",
        "rm-bench",
        "judgebench",
        "llmbar",
        "ppe-human",
        "ppe-correctness",
        "processbench",
    ] = "reward-bench-2"
    """Which benchmark."""
    models: list[str] = ["model"]
    """Reward models: folders or hub ids."""
    data: list[str] = []
    """Its files in the published schema; empty: the hub."""
    out: str = "benchmark"
    """Folder for metrics.json, items.jsonl and report.html."""
    split: str = "train"
    """Split of a hub dataset named in data."""
    limit: int = Field(0, ge=0)
    """Items to score; 0 for all."""
    max_length: int = Field(0, ge=0, le=1_000_000)
    """Tokens a conversation may have; 0: as trained."""
    batch_tokens: int = Field(8192, ge=8)
    """Tokens per forward pass."""
    packing: bool = True
    """Shared prompts once, no padding, where possible."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision; auto: bfloat16 on a GPU, else float32."""


class Scale(Stage):
    """Fit how raw rewards become rewards on a known scale, write it into reward.json, and say what it changes in RL."""

    packages: ClassVar[str] = f"{SCORING} scipy statsmodels matplotlib"
    reads: ClassVar[str] = "data model"
    after: ClassVar[str] = "evaluate"
    toy: ClassVar[str] = (
        "--model @model --data @eval/scores.jsonl --out @scaling --method standard --debias none --clip 0"
    )

    model: str = "model"
    """Folder of the reward model whose reward.json gains it."""
    data: str = "eval/scores.jsonl"
    """Calibration set: of evaluate or score; or pairs."""
    out: str = "scaling"
    """Folder for report.html and scaling.json."""
    source: Annotated[Literal["scores", "pairs"], Shape] = "scores"
    """What data holds: scores, or formatted pairs to score."""
    method: Literal[
        "standard", "robust", "linear", "running", "temperature", "platt", "isotonic", "lsc", "par", "quantile", "none"
    ] = "standard"
    """How to scale; the report compares all. none: no scale."""
    debias: Literal["none", "lowess", "window"] = "none"
    """Take off what length alone explains, before scaling."""
    clip: float = Field(0.0, ge=0, le=0.5)
    """Share to clip, half at each end; 0: only proposed."""
    low: float = Field(0.0, ge=-1e6, le=1e6)
    """Lower end (linear)."""
    high: float = Field(1.0, ge=-1e6, le=1e6)
    """Upper end (linear)."""
    label: str = "label"
    """Field that says 1 for good, 0 for bad (platt, isotonic)."""
    algorithm: Literal["grpo", "grpo-batch", "grpo-none", "dr-grpo", "rloo", "reinforce++", "ppo"] = "grpo"
    """What the rewards are for; the advice speaks of it."""
    rewards: Literal["one", "summed", "normalized"] = "one"
    """One; or several, summed raw or normalized in each group."""
    max_length: Annotated[int, Only(["pairs"])] = Field(0, ge=0, le=1_000_000)
    """Tokens a conversation may have; 0: as trained (pairs)."""
    batch_tokens: Annotated[int, Only(["pairs"])] = Field(8192, ge=8)
    """Tokens per forward pass (pairs)."""
    packing: Annotated[bool, Only(["pairs"])] = True
    """Shared prompts once, where possible (pairs)."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], Only(["pairs"])] = "auto"
    """auto: bfloat16 on a GPU, else float32 (pairs)."""

    @model_validator(mode="before")
    @classmethod
    def default_by_shape(cls, values):
        """Pairs to score are the held-out ones that format wrote."""
        if isinstance(values, dict) and values.get("source") == "pairs":
            return {"data": "data/eval.parquet", **values}
        return values


class Ensemble(Stage):
    """Combine reward models: their scores of the same answers, with an uncertainty for each, or their weights."""

    packages: ClassVar[str] = f"{SCORING} scipy"
    reads: ClassVar[str] = "data models pairs"
    after: ClassVar[str] = "evaluate scale"
    toy: ClassVar[str] = "--out @ensemble"

    of: Annotated[Literal["scores", "weights"], Shape] = "scores"
    """Files of scores, or weights of fine-tunes of one base."""
    data: Annotated[list[str], Only(["scores"])] = ["scores.jsonl", "scores-2.jsonl"]
    """Scores of the same rows, a file a model (scores)."""
    combine: Annotated[Literal["mean", "min", "uncertainty"], Only(["scores"])] = "uncertainty"
    """Mean, worst (WCO), or mean less the variance (UWO)."""
    penalty: Annotated[float, Only(["scores"])] = Field(0.5, ge=0, le=100)
    """How often uncertainty takes the variance off (scores)."""
    align: Annotated[bool, Only(["scores"])] = True
    """Bring each to mean 0, spread 1 on these rows (scores)."""
    models: Annotated[list[str], Only(["weights"])] = ["model", "model-2"]
    """Reward models: folders or hub ids (weights)."""
    pairs: Annotated[str, Only(["weights"])] = "data/eval.parquet"
    """Held-out pairs to check with; empty: none (weights)."""
    limit: Annotated[int, Only(["weights"])] = Field(2000, ge=1)
    """Pairs to check with (weights)."""
    least_cosine: Annotated[float, Only(["weights"])] = Field(0.5, ge=-1, le=1)
    """Between the heads; below, refuse to average (weights)."""
    batch_tokens: Annotated[int, Only(["weights"])] = Field(8192, ge=8)
    """Tokens per forward pass (weights)."""
    out: str = "ensemble"
    """Folder for scores.jsonl and summary.json; or the model."""
