"""The labelled footage that a configuration for training names: clips, classes and parts, in arrays and in words."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from pipeline.footage import Footage, LabelledClip, read_footage
from pipeline.schema import ClipSection, TrainConfig
from pipeline.sources.scaler import PictureFormat
from pipeline.sources.selection import Selection
from specialized.examples import Examples
from specialized.modelfile import Ask, ModelCard

__all__ = ["Document", "asks_of", "classes_of", "clips_of", "footage_of", "split_of", "told", "where_of"]

Document = dict[str, object]


def footage_of(config: TrainConfig, card: ModelCard) -> Footage:
    """The clips with their labels, as pictures for the card's model. Raises as `read_footage` does."""
    return read_footage(
        [LabelledClip(Path(clip.video), Path(clip.labels), _selection(clip)) for clip in config.clips],
        picture=PictureFormat(*card.input, card.resize, card.fit),
        asks=asks_of(config),
        task=config.task,
    )


def classes_of(config: TrainConfig) -> tuple[str, ...]:
    """Names in the order of the scores: what is asked, and `none` last for one_of."""
    names = tuple(asked.name for asked in config.classes)
    return (*names, "none") if config.task == "one_of" else names


def asks_of(config: TrainConfig) -> tuple[Ask, ...]:
    """The questions that are asked of the label boxes."""
    return tuple(
        Ask(name=one.name, object=one.object, at_least=one.at_least, min_confidence=one.min_confidence)
        for one in config.classes
    )


def _selection(clip: ClipSection) -> Selection:
    return Selection(every=clip.every, fps=clip.fps, from_s=clip.from_, to_s=clip.to)


def split_of(config: TrainConfig, footage: Footage) -> dict[str, Examples]:
    """The parts "training", "validation" and "test". Raises as `Footage.split` does."""
    split = config.split
    return footage.split(blocks=split.blocks, validation=split.validation, test=split.test, gap_s=split.gap_s)


def where_of(config: TrainConfig, part: str) -> Document:
    """On which footage something was measured."""
    split = config.split
    numbers: Mapping[str, Collection[int]] = {
        "test": split.test,
        "validation": split.validation,
        "training": set(range(split.blocks)) - {*split.test, *split.validation},
        "all": range(split.blocks),
    }
    return {"part": part, "blocks": sorted(numbers[part]), "of_blocks": split.blocks}


def told(where: Document) -> str:
    """What `where_of` says, in a line."""
    return f"part {where['part']}: blocks {where['blocks']} of {where['of_blocks']}, from 0"


def clips_of(config: TrainConfig) -> list[Document]:
    """The clips by name and content, without a word about this machine's folders."""
    return [
        {
            "video": Path(clip.video).name,
            "video_sha256": _sha256(clip.video),
            "labels": Path(clip.labels).name,
            "labels_sha256": _sha256(clip.labels),
            **clip.model_dump(mode="json", by_alias=True, exclude={"video", "labels"}, exclude_defaults=True),
        }
        for clip in config.clips
    ]


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
