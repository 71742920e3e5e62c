"""Parameters of the stages that use a reward model."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from stage import LOADING, SCORING, TRAINING, Only, Shape, Stage


class Score(Stage):
    """Score files of prompts and responses, in order, nothing lost; best of n where there are several."""

    packages: ClassVar[str] = f"{SCORING} datasets"
    reads: ClassVar[str] = "data model"
    after: ClassVar[str] = "train scale"
    toy: ClassVar[str] = "--model @model --data @answers.jsonl --out @scores.jsonl"

    model: str = "model"
    """Reward model: a folder or a hub id."""
    data: list[str] = ["responses.jsonl"]
    """Files of prompt + response(s), or of messages."""
    gold: str = ""
    """Field of true rewards or labels, for best-of-n curves."""
    out: str = "scores.jsonl"
    """File of scores, one line per input row."""
    split: str = "train"
    """Split of a hub dataset."""
    max_length: int = Field(0, ge=0, le=1_000_000)
    """Tokens a conversation may have; 0: as trained."""
    batch_tokens: int = Field(8192, ge=8)
    """Tokens per forward pass."""
    packing: bool = True
    """Shared prompts once, no padding, where possible."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision; auto: bfloat16 on a GPU, else float32."""
    resume: bool = True
    """Go on where a run that was cut off stopped."""


class Bulk(Stage):
    """Score files as score does, with a pool of Ray workers on this machine or a cluster; every row exactly once."""

    packages: ClassVar[str] = f"{SCORING} datasets ray[data]"
    reads: ClassVar[str] = "data model"
    after: ClassVar[str] = "train scale"
    toy: ClassVar[str] = "--model @model --data @answers.jsonl --out @scores --workers 1 --gpus 0 --address ''"

    model: str = "model"
    """Reward model: a folder or a hub id; every worker reads it."""
    data: list[str] = ["responses.jsonl"]
    """Files of prompt + response(s), or of messages."""
    out: str = "scores"
    """Folder for the parts and manifest.json."""
    split: str = "train"
    """Split of a hub dataset."""
    max_length: int = Field(0, ge=0, le=1_000_000)
    """Tokens a conversation may have; 0: as trained."""
    batch_tokens: int = Field(8192, ge=8)
    """Tokens per forward pass."""
    packing: bool = True
    """Shared prompts once, no padding, where possible."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision; auto: bfloat16 on a GPU, else float32."""
    block_rows: int = Field(512, ge=1, le=1_000_000)
    """Rows of a part: scored at once, and lost at most."""
    address: str = ""
    """A running Ray cluster; empty: one of its own, here."""
    workers: int = Field(0, ge=0, le=100_000)
    """Workers, each with the model; 0: as many as have room."""
    gpus: float = Field(-1, ge=-1, le=1)
    """GPUs per worker; -1: one where there are any, else 0."""
    cpus: int = Field(1, ge=1, le=1024)
    """CPU cores per worker."""
    resume: bool = True
    """Keep the parts of a run that was cut off."""


class Think(Stage):
    """Score the thinking in completions: measures, rewards over its steps, a report."""

    packages: ClassVar[str] = f"{SCORING} datasets matplotlib scipy"
    reads: ClassVar[str] = "data model prm judge_rubric"
    after: ClassVar[str] = "train scale"
    toy: ClassVar[str] = "--model @model --data @thoughts.jsonl --out @thinking --prm '' --judge ''"

    model: str = "model"
    """Reward model; empty: only what the text tells."""
    data: list[str] = ["completions.jsonl"]
    """Files of prompt + response(s), messages or steps."""
    out: str = "thinking"
    """Folder for items, metrics and the report."""
    split: str = "train"
    """Split of a hub dataset."""
    label: str = "correct"
    """Column that says whether a response is right."""
    opened: bool = True
    """Responses begin inside, if the model's prompt opens it."""
    close: str = ""
    """Text that ends the thinking where there are no tags."""
    step: Literal["auto", "paragraph", "line", "sentence"] = "auto"
    """Where steps end; auto: the widest that divides."""
    max_steps: int = Field(32, ge=1, le=10_000)
    """Steps to score along one completion."""
    budget: int = Field(0, ge=0)
    """Tokens thinking may have before overlong; 0: any."""
    weights: list[str] = ["repetition=-1", "cut_off=-1"]
    """Parts of the composite: NAME=NUMBER."""
    shown: int = Field(3, ge=0, le=100)
    """Best and worst completions in the report."""
    max_length: int = Field(0, ge=0, le=1_000_000)
    """Tokens a conversation may have; 0: as trained."""
    batch_tokens: int = Field(8192, ge=8)
    """Tokens per forward pass."""
    packing: bool = True
    """Shared prefixes once, no padding, where possible."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision; auto: bfloat16 on a GPU, else float32."""
    prm: str = ""
    """Process reward model; empty for none."""
    prm_kind: Literal["separator", "chat", "step_token"] = "separator"
    """Classifier at marks, in chat turns, or good/bad words."""
    prm_mark: str = "\\n"
    """Text behind each step, where its score is read."""
    prm_good: str = "+"
    """Word for a good step (step_token)."""
    prm_bad: str = "-"
    """Word for a bad step (step_token)."""
    judge: str = ""
    """Address of an OpenAI-compatible judge, as https://…/v1."""
    judge_model: str = ""
    """Name of the judge's model."""
    judge_key: str = "OPENAI_API_KEY"
    """Environment variable (or line of .env) with its key."""
    judge_rubric: str = ""
    """File of a rubric; empty: the script's own."""
    judge_parallel: int = Field(4, ge=1, le=64)
    """Questions to the judge at once."""
    judge_retries: int = Field(3, ge=0, le=20)
    """Times to ask again after an error."""
    judge_timeout: float = Field(120, ge=0.1, le=3600)
    """Seconds to wait for a verdict."""


class Rl(Stage):
    """Train a policy against the reward model with TRL's GRPO or RLOO, watched for reward hacking."""

    packages: ClassVar[str] = TRAINING
    reads: ClassVar[str] = "data policy reward_models gold"
    after: ClassVar[str] = "train scale"
    toy: ClassVar[str] = (
        "--policy @policy-base --reward-models @model --data @data/train.parquet --out @policy "
        "--num-generations 2 --prompts-per-step 2 --max-completion-length 16 --max-steps 2 --weights "
        "--stop-when --gold '' --vllm no --report-to none"
    )

    policy: str = ""
    """Model to train: a folder or a hub id."""
    reward_models: list[str] = ["model"]
    """Reward models: folders or hub ids."""
    weights: list[str] = []
    """A number for each reward model; empty: all alike."""
    combine: Literal["mean", "min", "uncertainty"] = "mean"
    """Several models: mean, worst, or mean less the variance."""
    data: list[str] = ["data/train.parquet"]
    """Formatted pairs, or files of prompts."""
    split: str = "train"
    """Split of a hub dataset."""
    gold: str = ""
    """Second reward model, never trained on: only watched."""
    out: str = "policy"
    """Folder for the trained policy."""
    algorithm: Annotated[Literal["grpo", "rloo"], Shape] = "grpo"
    """Compare with the group's mean, or with its others."""
    method: Annotated[Literal["full", "lora", "qlora"], Shape] = "full"
    """Train every weight, a LoRA adapter, or one over 4 bits."""
    num_generations: int = Field(8, ge=2, le=1024)
    """Completions per prompt: the group that is compared."""
    prompts_per_step: int = Field(8, ge=1)
    """Prompts per optimizer step, over all processes."""
    micro_batch: int = Field(8, ge=1)
    """Completions per policy pass; memory, not result."""
    batch_tokens: int = Field(8192, ge=8)
    """Tokens per pass of a reward model; memory, not result."""
    max_prompt_length: int = Field(0, ge=0)
    """Tokens a prompt may have; 0: what reward models read, less a completion, or half."""
    max_completion_length: int = Field(512, ge=1)
    """Tokens a completion may have before it is cut."""
    temperature: float = Field(1.0, ge=0.01, le=10)
    """Of sampling; below 1 the group becomes alike."""
    learning_rate: float = Field(1e-6, ge=1e-9, le=1)
    """Constant rate; 1e-6 for full, 1e-5 for LoRA."""
    epochs: float = Field(1, ge=0.001, le=1000)
    """Passes over the prompts."""
    max_steps: int = Field(-1, ge=-1)
    """Optimizer steps; -1 for all epochs."""
    beta: float = Field(0.04, ge=0, le=10)
    """KL pull to the start; 0.04 GRPO, 0.05 RLOO, 0: unwatched."""
    iterations: int = Field(1, ge=1, le=64)
    """Optimizer steps that reuse the same completions."""
    epsilon: float = Field(0.2, ge=0, le=1)
    """Clip of the ratio; acts from the second iteration on."""
    scale_rewards: Annotated[Literal["group", "batch", "none"], Only(["grpo"])] = "group"
    """Divide by the spread of the group, the batch, nothing."""
    loss_type: Annotated[Literal["dapo", "dr_grpo", "bnpo", "grpo"], Only(["grpo"])] = "dapo"
    """Mean over tokens; grpo favours short right answers."""
    mask_cut: bool = False
    """Learn nothing from completions cut at the limit."""
    policy_thinks: bool = True
    """enable_thinking of the policy's chat template."""
    score_thinking: bool = True
    """Show reward models the thinking, not the answer alone."""
    measures: list[str] = ["closed=0"]
    """Measures of the thinking to add, as in think: NAME=WEIGHT."""
    budget: int = Field(0, ge=0)
    """Tokens for the measure overlong; 0: max_completion_length."""
    weight_overlong: float = Field(0.0, ge=-100, le=100)
    """Of 0 to -1 in the last fifth of the limit (DAPO)."""
    weight_repetition: float = Field(0.0, ge=-100, le=100)
    """Of minus the share of repeated token trigrams."""
    stop_when: list[str] = []
    """Signals that stop the run: kl, kl=0.2, agreement …"""
    lora_r: Annotated[int, Only(["lora", "qlora"])] = Field(16, ge=1, le=1024)
    """Rank of the adapter (lora, qlora)."""
    lora_alpha: Annotated[int, Only(["lora", "qlora"])] = Field(32, ge=1, le=4096)
    """Scale of the adapter (lora, qlora)."""
    gradient_checkpointing: bool = False
    """Less memory for a third more computation."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the reward models; auto: bfloat16 on a GPU."""
    vllm: Literal["no", "colocate", "server"] = "no"
    """Generate with vLLM: on the same GPU, or on a server."""
    vllm_url: str = "http://localhost:8000"
    """Address of the vLLM server (vllm server)."""
    save_steps: int = Field(50, ge=1)
    """Optimizer steps between checkpoints."""
    seed: int = Field(42, ge=0, le=2**32 - 1)
    """Seeds sampling and the order of the prompts."""
    report_to: str = "none"
    """none, trackio, tensorboard or wandb."""
    resume: bool = True
    """Go on from the newest complete checkpoint."""

    @model_validator(mode="before")
    @classmethod
    def default_by_shape(cls, values):
        """LoRA wants ten times the rate; RLOO takes the KL from the reward, where TRL's default is 0.05."""
        if not isinstance(values, dict):
            return values
        rate = {"learning_rate": 1e-5} if values.get("method", "full") != "full" else {}
        return rate | ({"beta": 0.05} if values.get("algorithm") == "rloo" else {}) | values


class Export(Stage):
    """Write the folder from which vLLM and SGLang return the same raw score."""

    packages: ClassVar[str] = LOADING
    reads: ClassVar[str] = "model"
    after: ClassVar[str] = "train scale"
    toy: ClassVar[str] = "--model @model --out @export --conversations 8 --no-fold"

    model: str = "model"
    """Reward model: a folder or a hub id."""
    out: str = "export"
    """Folder for the whole model, its adapter merged."""
    fold: bool = False
    """Divide the head by the temperature that scale fitted."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the weights; auto: as trained."""
    conversations: int = Field(32, ge=0, le=10_000)
    """Made-up conversations to verify with, besides the probes."""
    seed: int = Field(42, ge=0)
    """Decides what is made up."""


class Serve(Stage):
    """Answer with rewards over HTTP, until it is stopped."""

    packages: ClassVar[str] = f"{LOADING} fastapi uvicorn prometheus-client"
    reads: ClassVar[str] = "model"
    by_hand: ClassVar[str] = "start it with `python run/serve.py`; it runs until it is stopped"
    toy: ClassVar[str] = "--model @model --host 127.0.0.1 --port 0 --no-scaled"

    model: str = "model"
    """Reward model: a folder or a hub id."""
    host: str = "127.0.0.1"
    """Address to listen on; others need REWARD_TOKEN set."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 for any free one."""
    max_length: int = Field(0, ge=0, le=1_000_000)
    """Tokens a conversation may have; 0: as trained."""
    batch_tokens: int = Field(8192, ge=8)
    """Tokens per forward pass."""
    queue: int = Field(1024, ge=1)
    """Conversations waiting at most; more are refused (429)."""
    request_mib: int = Field(8, ge=1, le=1024)
    """Size of a request at most (413)."""
    timeout: float = Field(60, ge=0.1, le=3600)
    """Seconds to receive a request (408) and to score it (504)."""
    scaled: bool = False
    """Scaled rewards from /get_reward and /classify."""
    packing: bool = True
    """Shared prompts once, no padding, where possible."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision; auto: bfloat16 on a GPU, else float32."""


class Verify(Stage):
    """Check that a running server returns the scores of the export."""

    packages: ClassVar[str] = "python-dotenv"
    reads: ClassVar[str] = "export"
    by_hand: ClassVar[str] = "`python run/verify.py --url URL` compares a running server with the export"
    toy: ClassVar[str] = "--export @export --out @verify.json"

    export: str = "export"
    """Folder written by the export stage."""
    url: str = "http://127.0.0.1:8000/classify"
    """Ends in score, get_reward, classify or v1/embeddings."""
    out: str = "verify.json"
    """File for the comparison, score by score."""
    tolerance: float = Field(0, ge=0, le=1)
    """Relative difference to accept; 0: 1e-3, or 0.1 in bfloat16."""
    timeout: float = Field(60, ge=0.1, le=3600)
    """Seconds to wait for an answer."""
