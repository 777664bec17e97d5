"""The labelled footage that a configuration for training names: clips or images, in arrays and in words."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pipeline.footage import Footage, LabelledClip, read_footage
from pipeline.images import Images, class_names, facts, read_images
from pipeline.regionfile import regions_of_each
from pipeline.regions import Region
from pipeline.sources.scaler import PictureFormat
from pipeline.sources.selection import Selection
from pipeline.trainschema import ClipSection, ImagesSection, TrainConfig
from specialized.examples import Examples
from specialized.modelfile import Ask, ModelCard

__all__ = [
    "Document",
    "asks_of",
    "classes_of",
    "clips_of",
    "division_of",
    "footage_of",
    "made_of",
    "other_regions",
    "seen_elsewhere",
    "shown_to",
    "split_of",
    "told",
    "where_of",
]

Document = dict[str, object]


def footage_of(config: TrainConfig, card: ModelCard, *, outline: bool = False) -> Footage | Images:
    """The clips or images with their labels, as pictures for the card's model. Raises as their readers do.

    Args:
        config: Names them.
        card: What the model takes.
        outline: Leave the frames of clips black rather than decode them, see `pipeline.footage.outline_clip`.
    """
    picture = PictureFormat.of(card)
    if config.images is not None:
        return read_images(_folders(config.images), picture=picture, blocks=config.split.blocks)
    return read_footage(
        [
            LabelledClip(Path(clip.video), Path(clip.labels), _selection(clip), regions)
            for clip, regions in zip(config.clips, regions_of_each(config, config.clips), strict=True)
        ],
        picture=picture,
        asks=asks_of(config),
        task=config.task,
        inside=config.inside,
        outline=outline,
    )


def classes_of(config: TrainConfig) -> tuple[str, ...]:
    """Names in the order of the scores: what is asked, and `none` last for one_of; or the sub-folders of images."""
    if config.images is not None:
        return class_names(next(iter(_folders(config.images).values())))
    names = tuple(asked.name for asked in config.classes)
    return (*names, "none") if config.task == "one_of" else names


def asks_of(config: TrainConfig) -> tuple[Ask, ...]:
    """The questions that are asked of the label boxes."""
    return tuple(
        Ask(name=one.name, object=one.object or one.name, at_least=one.at_least, min_confidence=one.min_confidence)
        for one in config.classes
    )


def _folders(images: ImagesSection) -> dict[str, Path]:
    """By what they are for; `folder` stands alone, else `training` is the first."""
    return {part: Path(folder) for part, folder in images if folder is not None}


def _selection(clip: ClipSection) -> Selection:
    return Selection(every=clip.every, fps=clip.fps, from_s=clip.from_, to_s=clip.to)


def split_of(config: TrainConfig, footage: Footage | Images) -> dict[str, Examples]:
    """The parts "training", "validation" and "test". Raises as `Footage.split` does."""
    split = config.split
    return footage.split(blocks=split.blocks, validation=split.validation, test=split.test, gap_s=split.gap_s)


def where_of(config: TrainConfig, part: str) -> Document:
    """On which footage something was measured."""
    split = config.split
    if division_of(config) is None:
        return {"part": part}
    numbers: Mapping[str, Collection[int]] = {
        "test": split.test,
        "validation": split.validation,
        "training": set(range(split.blocks)) - {*split.test, *split.validation},
        "all": range(split.blocks),
    }
    return {"part": part, "blocks": sorted(numbers[part]), "of_blocks": split.blocks}


def told(where: Document) -> str:
    """What `where_of` says, in a line."""
    blocks = f": blocks {where['blocks']} of {where['of_blocks']}, from 0" if "blocks" in where else ""
    return f"part {where['part']}{blocks}"


def division_of(config: TrainConfig) -> Document | None:
    """How the footage is cut; None where folders say what is for what."""
    if config.images is not None and config.images.folder is None:
        return None
    return config.split.model_dump(mode="json")


def clips_of(config: TrainConfig) -> list[Document]:
    """The clips, or folders of images, by name and content, without a word about this machine's folders."""
    if config.images is not None:
        return [{"part": part, **facts(folder)} for part, folder in _folders(config.images).items()]
    return [
        {
            "video": Path(clip.video).name,
            "video_sha256": _sha256(clip.video),
            "labels": Path(clip.labels).name,
            "labels_sha256": _sha256(clip.labels),
            **clip.model_dump(
                mode="json",
                by_alias=True,
                exclude={"video", "labels", "regions", "regions_px"},
                exclude_defaults=True,
            ),
            **_regions(regions, config),
        }
        for clip, regions in zip(config.clips, regions_of_each(config, config.clips), strict=True)
    ]


def _regions(regions: Sequence[Region] | None, config: TrainConfig) -> Document:
    """What is cut out of the frames of a clip."""
    if regions is None:
        return {}
    told = json.loads(json.dumps([dataclasses.asdict(region) for region in regions]))  # as a card holds them
    return {"regions": told, "inside": config.inside}


def shown_to(card: ModelCard) -> set[object]:
    """The videos or folders that a model was trained or chosen on, by hash: a folder of tests is none of them."""
    then = card.training.get("clips")
    return _hashes([clip for clip in then if isinstance(clip, dict)] if isinstance(then, list) else [], but="test")


def made_of(clips: Sequence[Document], division: Document | None, part: str) -> set[object]:
    """The videos or folders that a part is taken from, by hash."""
    return _hashes(clips if division is not None or part == "all" else [clip for clip in clips if clip["part"] == part])


def _hashes(clips: Sequence[Document], *, but: str | None = None) -> set[object]:
    keys = ("video_sha256", "images_sha256")
    return {clip[key] for clip in clips for key in keys if key in clip and (but is None or clip.get("part") != but)}


def seen_elsewhere(card: ModelCard, clips: Sequence[Document], division: Document | None) -> bool:
    """Whether a model was trained on what is tested now, divided otherwise: it may be what it was shown."""
    same = (card.training.get("clips"), card.training.get("split")) == (clips, division)
    return bool(shown_to(card) & made_of(clips, division, "test")) and not same


def other_regions(card: ModelCard, clips: Sequence[Document]) -> list[str]:
    """How what is cut out of the frames now differs from what a model was trained on, a line each."""
    found = card.training.get("clips")
    then = [clip for clip in found if isinstance(clip, dict) and "video" in clip] if isinstance(found, list) else []
    now = [clip for clip in clips if "video" in clip]
    if not then or not now:
        return []
    trained, measured = ("regions of frames" if "regions" in some[0] else "whole frames" for some in (then, now))
    if trained != measured:  # all clips have regions, or none
        return [f"the model was trained on {trained}, and is measured on {measured}"]
    lines = []
    insides = [{json.dumps(clip["inside"]) for clip in some if "inside" in clip} for some in (then, now)]
    if insides[0] != insides[1] and all(insides):
        told_then, told_now = (" and ".join(sorted(some)) for some in insides)
        lines.append(f"boxes counted in regions by `inside: {told_then}` in training, here by `inside: {told_now}`")
    before = {clip["video_sha256"]: clip.get("regions") for clip in then}
    lines += [
        f"the regions of {clip['video']} were others in training"
        for clip in now
        if before.get(clip["video_sha256"], clip.get("regions")) != clip.get("regions")
    ]
    return lines


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
