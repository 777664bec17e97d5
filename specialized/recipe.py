"""How to train: the keys of `train` in a configuration. Loads no torch, so that a configuration is checked quickly."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

NotNegative = Annotated[float, Field(ge=0)]
Optimizer = Literal["adamw", "adam", "rmsprop"]


class Recipe(BaseModel):
    """How to train. The defaults suit a fixed camera, folded or not."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    epochs: Annotated[int, Field(ge=1)] = Field(
        default=30, description="Times that the training pictures are seen. The best epoch on validation is kept."
    )
    batch: Annotated[int, Field(ge=1)] = Field(default=32, description="Pictures per step.")
    optimizer: Optimizer = Field(default="adamw", description="What turns gradients into steps.")
    lr: Annotated[float, Field(gt=0)] = Field(default=1e-3, description="Learning rate at its peak.")
    weight_decay: NotNegative = Field(default=0.01, description="Weight decay of the optimizer.")
    warmup_epochs: NotNegative = Field(
        default=1.0, description="Epochs in which the learning rate rises from 0; a cosine takes it back to 0."
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Share of each label that is spread over all answers."
    )
    average_epochs: NotNegative = Field(
        default=2.0, description="Horizon of the moving average of the weights that is validated and kept; 0: none."
    )
    balance: bool = Field(default=False, description="Weigh classes by the inverse of their frequency.")
    brightness: NotNegative = Field(
        default=0.1, description="Up to this much of the range of brightness is added or taken away."
    )
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="Contrast changes by up to this factor."
    )
    shift: Annotated[int, Field(ge=0)] = Field(
        default=2, description="Pictures move by up to so many pixels in each direction."
    )
    flip: bool = Field(default=False, description="Mirror left and right, half of the time.")
    vary: Literal["group", "picture"] = Field(
        default="group", description="What is varied as one: a group in time shares its light and its camera."
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Seed of all that is random in training.")
