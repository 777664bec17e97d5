"""The types of the configuration of a training; see `pipeline.schema`."""

from typing import Annotated

from pydantic import Field, JsonValue

from pipeline.schema import Selection
from pipeline.section import Configuration, Section
from pipeline.values import (
    Blocks,
    Count,
    Inside,
    Label,
    PathFromHere,
    PathOrUnfolded,
    Regions,
    Rgb,
    Share,
    Size,
    SourcePath,
    Std,
)
from specialized.calibration import ErrorRate
from specialized.modelfile import Fit, Resize, Task
from specialized.orders import Order
from specialized.recipe import Recipe


class ArchitectureSection(Section):
    """The network."""

    architecture: str = Field(description="A name that `vpipe models` lists, or `package.module:Class`.")
    args: dict[str, JsonValue] = Field(
        default={}, description="Keyword arguments of the class, over those of the name."
    )
    fold: Count = Field(
        default=1,
        description="f, frames in a group. A class that has no parameter `fold` is folded for it: see docs/models.md.",
    )
    multiple_of: Count = Field(
        default=1, description="Folded inner widths are rounded to multiples of it; 8 suits matrix units."
    )
    order: Order = Field(default="consecutive", description="How groups are formed.")
    input: Size | None = Field(
        default=None, description="`[H, W]` of a picture. Default: that of the named architecture."
    )
    resize: Resize = Field(default="area", description="How frames become pictures.")
    fit: Fit = Field(default="stretch", description="What becomes of another aspect ratio.")
    mean: Rgb = Field(default=(0.5, 0.5, 0.5), description="Of pictures scaled to 0..1; red, green, blue.")
    std: Std = Field(default=(0.25, 0.25, 0.25), description="Of pictures scaled to 0..1; red, green, blue.")


class ClassSection(Section):
    """A question that training asks of the boxes of a frame."""

    name: Annotated[str, Field(min_length=1)] = Field(description="The class that is answered.")
    object: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="`object_name` of the boxes that count, or `label` of the regions. Default: the class's name.",
    )
    at_least: Count = Field(default=1, description="So many boxes make the class true.")
    min_confidence: Share = Field(default=0.0, description="Boxes below do not count.")


class ClipSection(Selection):
    """A video with its labels."""

    video: SourcePath = Field(description="A video file.")
    labels: SourcePath = Field(description="Its boxes: CSV or COCO JSON; or what its regions show. See docs/labels.md.")
    regions: Regions | None = Field(default=None, description="Its regions, in place of those of all clips; see there.")
    regions_px: Regions | None = Field(default=None, description="The same in pixels.")


class ImagesSection(Section):
    """Images with a sub-folder per class (png, jpg, jpeg, bmp, webp). Either `folder`, or the others."""

    folder: SourcePath | None = Field(default=None, description="A folder that `split` cuts into parts, by chance.")
    training: SourcePath | None = Field(default=None, description="The folder to train on.")
    validation: SourcePath | None = Field(default=None, description="The folder on which the best epoch is chosen.")
    test: SourcePath | None = Field(default=None, description="The folder that is only used to measure the result.")


class SplitSection(Section):
    """How footage is divided by time. Blocks that are named nowhere are trained on."""

    blocks: Annotated[int, Field(ge=2)] = Field(
        default=10,
        description="Each clip is cut into so many blocks of equal time, each class of images into equal shares.",
    )
    validation: Blocks = Field(description="Numbers of the blocks, from 0, on which the best epoch is chosen.")
    test: Blocks = Field(default=(), description="Numbers of the blocks that are only used to measure the result.")
    gap_s: Annotated[float, Field(ge=0)] = Field(
        default=2.0, description="Seconds left out between blocks of different use."
    )


class TrainingRunSection(Section):
    """The training and its folder."""

    name: Label = Field(
        default="training", description="Name of the training. Default: the stem of the configuration's file."
    )
    dir: PathFromHere = Field(
        default="runs", description="Where run folders lie, from the current directory.", validate_default=True
    )


class OperatingSection(Section):
    """The error rate for which training chooses the thresholds of classes on the validation blocks. Give one."""

    false_negative_rate: Share | None = Field(
        default=None,
        description="At most this share of the pictures with the class is missed. Default: 0.01, if neither is given.",
    )
    false_positive_rate: Share | None = Field(
        default=None, description="At most this share of the pictures without the class is kept."
    )

    @property
    def target(self) -> tuple[ErrorRate, float]:
        """Which rate, and the most that it may be."""
        if self.false_positive_rate is not None:
            return "false_positive_rate", self.false_positive_rate
        return "false_negative_rate", 0.01 if self.false_negative_rate is None else self.false_negative_rate


class TrainConfig(Configuration):
    """Configuration of `vpipe train` and `vpipe eval`."""

    run: TrainingRunSection = Field(default=TrainingRunSection(), description="The training and its folder.")
    model: ArchitectureSection = Field(description="The network.")
    task: Task = Field(
        default="one_of",
        description="`one_of`: the first class that holds wins, else `none`; `any_of`: each by itself.",
    )
    classes: Annotated[tuple[ClassSection, ...], Field(strict=False)] = Field(
        default=(),
        description="What is asked; one or more. With `images` none: sub-folders are the classes, in natural order.",
    )
    clips: Annotated[tuple[ClipSection, ...], Field(strict=False)] = Field(
        default=(), description="Labelled footage; one or more."
    )
    regions: Regions | None = Field(
        default=None,
        description="Parts of the picture that are pictures to learn from, each on its own: as in the configuration of "
        "a run, see there.",
    )
    regions_px: Regions | None = Field(default=None, description="The same in pixels. Not together with `regions`.")
    inside: Inside = Field(
        default="centre",
        description="Which boxes count in a region: those whose `centre` lies in it; or a number, those of whose area "
        "at least so large a share does.",
    )
    images: ImagesSection | None = Field(default=None, description="Folders of images instead of `clips`.")
    split: SplitSection = Field(
        default=SplitSection(validation=()),
        description="How footage is divided by time. Must be given, unless `images` says what is for what.",
    )
    teacher: PathOrUnfolded | None = Field(
        default=None,
        description="An unfolded model whose logits a folded one learns from, beside the labels: a model file of the "
        "same classes and input, or `unfolded`, the same network trained unfolded first.",
    )
    train: Recipe = Field(default=Recipe(), description="How to train.")
    operating: OperatingSection = Field(
        default=OperatingSection(), description="Error rates that `keep: auto` of a run aims at."
    )
    output: SourcePath = Field(description="The model file to write.")
