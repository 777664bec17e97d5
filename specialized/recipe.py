"""How to train: the keys of `train` in a configuration. Loads no torch, so that a configuration is checked quickly."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Optimizer = Literal["adamw", "adam", "rmsprop"]
Schedule = Literal["cosine", "constant", "halving"]


class Recipe(BaseModel):
    """How to train. The defaults suit a fixed camera, folded or not."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    epochs: Annotated[int, Field(ge=1)] = Field(
        default=30, description="Times that the training pictures are seen. The best epoch on validation is kept."
    )
    fold_epochs: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="More than 0: a narrow network, the share that one slot has of a folded one, trains unfolded for "
        "`epochs`; then the folded one starts as f copies of it, for so many more, unless it has learned nothing. 0: "
        "it starts from random weights and trains for `epochs`. null: 10 up to f = 4 if the network is folded by "
        "rule, 0 otherwise.",
    )
    least_steps: Annotated[int, Field(ge=1)] = Field(
        default=10, description="An epoch has at least so many steps: a short clip is passed over several times in it."
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Stop when so many epochs have brought nothing better on validation; 0: never."
    )
    batch: Annotated[int, Field(ge=1)] = Field(default=32, description="Pictures per step.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Type of the arithmetic of layers; `auto`: bfloat16 where the CPU has it in hardware. Weights, "
        "their steps and validation are in float32.",
    )
    optimizer: Optimizer = Field(default="adamw", description="What turns gradients into steps.")
    lr: Annotated[float, Field(gt=0)] = Field(default=1e-3, description="Learning rate at its peak.")
    scale_lr: bool = Field(
        default=True,
        description="Divide `lr` by sqrt(f): the layers of a folded network are wider by that, and want smaller steps.",
    )
    weight_decay: NotNegative = Field(default=0.01, description="Weight decay of the optimizer.")
    schedule: Schedule = Field(
        default="cosine",
        description="How the learning rate falls: to 0 along a `cosine`, not at all, or by `halving`.",
    )
    warmup_epochs: NotNegative = Field(default=1.0, description="Epochs in which the learning rate rises from 0.")
    halve_epochs: Annotated[int, Field(ge=1)] = Field(
        default=200, description="Epochs after which the schedule `halving` halves the learning rate, again and again."
    )
    label_smoothing: Share = Field(default=0.0, description="Share of each label that is spread over all answers.")
    average_epochs: NotNegative = Field(
        default=2.0, description="Horizon of the moving average of the weights that is validated and kept; 0: none."
    )
    balance: bool = Field(default=False, description="Weigh classes by the inverse of their frequency.")
    curriculum_share: Share = Field(
        default=0.0,
        description="Start with this share of the classes (at least f of them) and add as many again and again; 0: all "
        "from the start. `one_of` only.",
    )
    curriculum_epochs: Annotated[int, Field(ge=1)] = Field(
        default=60, description="Epochs after which the curriculum adds classes."
    )
    distill: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5,
        description="Weight of the error against the logits of the `teacher`, if there is one; labels have the rest.",
    )
    brightness: NotNegative = Field(
        default=0.1, description="Up to this much of the range of brightness is added or taken away."
    )
    contrast: Share = Field(default=0.1, description="Contrast changes by up to this factor.")
    colour: Share = Field(default=0.0, description="Contrast of each colour channel changes by up to this factor.")
    shift: Annotated[int, Field(ge=0)] = Field(
        default=2, description="Pictures move by up to so many pixels in each direction."
    )
    zoom: Share = Field(default=0.0, description="Pictures grow or shrink by up to this factor.")
    flip: bool = Field(default=False, description="Mirror left and right, half of the time.")
    vary: Literal["group", "picture"] = Field(
        default="group", description="What is varied as one: a group in time shares its light and its camera."
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Seed of all that is random in training.")
